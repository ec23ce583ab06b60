//go:build !unix

package store

import "net"

// alive cannot look here: a connection that its server has left shows as a lost reply.
func alive(net.Conn) bool { return true }
