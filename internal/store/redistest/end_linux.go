package redistest

import "syscall"

// endWithTest has the kernel end a server whose test died without its cleanup.
func endWithTest() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
