//go:build !linux

package redistest

import "syscall"

func endWithTest() *syscall.SysProcAttr { return nil }
