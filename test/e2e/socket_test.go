package e2e

import (
	"net"
	"syscall"
	"unsafe"
)

// unsent is how many bytes of what was written the other side's kernel has not acknowledged yet (SIOCOUTQ).
func unsent(c net.Conn) (n int32) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return n
}
