package main

import (
	"os/exec"
	"runtime"
	"syscall"
)

// tie has the child told to end when this process is killed: no call of its would be let through any more. The kernel
// watches the thread that starts the child, so that one is kept until the tie is undone.
func tie(cmd *exec.Cmd) (untie func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return runtime.UnlockOSThread
}
