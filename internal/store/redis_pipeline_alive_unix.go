//go:build unix

package store

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// alive says whether an idle connection is still open and nobody sent anything. It looks without waiting: a script that
// is written to a connection which its server has left would count as lost, though it never ran.
func alive(conn net.Conn) bool {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	idle := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, peeked := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		idle = errors.Is(peeked, syscall.EAGAIN)
		return true
	})
	return err == nil && idle
}
