package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// How long a connection may keep the sidecar waiting.
const (
	idleTimeout  = 3 * time.Minute  // for the next request
	headTimeout  = 10 * time.Second // from a head's first byte to its last
	bodyTimeout  = 30 * time.Second // between two reads of a body
	writeTimeout = 30 * time.Second // for a piece of an answer
	lingerTime   = 2 * time.Second  // for the rest of a refused request
	lingerBytes  = 1 << 20
)

// conn is an agent's connection under the fasthttp server. Reading, it is the gate: fasthttp sees no byte of a request
// before its head was judged, none of a body before its framing was, and none of a request before the one before it
// was answered. Writing, it is deaf: fasthttp reorders headers and reports no error once the handler has returned, so
// answers are written past it (reply.go) and what it writes itself goes nowhere.
//
// A conn belongs to the goroutine that serves it; only end may come from another one.
type conn struct {
	net.Conn
	s    *Server
	once sync.Once // of Close

	buf  []byte // buf[r:w] came from the peer and was not handed on
	r, w int
	gate gate
	head head // of the request being served, or of the refused one
	memo memo

	local    string   // its own address, once somebody has asked
	under    net.Conn // what TLS runs over; without TLS, Conn itself
	scheme   string   // https inside TLS
	inside   string   // the authority of the tunnel this connection speaks in; "" for the listener's own
	agent    string   // of the tunnel, identified by its CONNECT
	run      string   // of the tunnel, for requests that name none
	guest    string   // the child of `run` whose connection or tunnel this is
	small    int64    // of the server's budgets, held for the body that is being read
	large    int64
	asked    bool // a request came, or what was refused as one
	began    time.Time
	readBy   time.Time // the read deadline, zero when there is none
	writeBy  time.Time
	out      []byte // the answer being written
	answered bool   // something of an answer to the request was written
	failed   error  // of a write: the peer is gone
	next     func() // what becomes of the connection when fasthttp has let go of it
}

func newConn(s *Server, c net.Conn) *conn {
	return &conn{Conn: c, under: c, scheme: "http", s: s, buf: make([]byte, 4<<10)}
}

// Read gives fasthttp the next judged bytes. After a refusal it has been answered already and all that is left is EOF.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.gate.read(c, p)
	if c.gate.unasked && err == nil {
		c.gate.unasked = false
		if !c.s.admit(c) {
			return 0, io.EOF
		}
		err = asError(c.hold(c.head.length))
	}
	if f, ok := errors.AsType[*fault](err); ok {
		c.gate.phase = refused
		c.s.refuse(c, f)
		return 0, io.EOF
	}
	return n, err
}

// Write drops what fasthttp writes.
func (c *conn) Write(p []byte) (int, error) { return len(p), nil }

// Close is called when fasthttp is through with the connection and holds nothing for it any more. It goes on as a tunnel
// then, if that is what it has become.
func (c *conn) Close() error {
	c.release()
	if next := c.next; next != nil {
		c.next = nil
		next()
	}
	return c.end()
}

// end closes the connection once.
func (c *conn) end() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.s.forget(c)
		err = c.Conn.Close()
	})
	return err
}

// tidy lets go of the last request and of what only a large one needs, so that a connection that waits is small.
func (c *conn) tidy() {
	clear(c.head.fields)
	c.head = head{fields: c.head.fields[:0], named: c.head.named[:0]}
	if cap(c.head.fields) > 32 {
		c.head.fields = nil
	}
	if c.r == c.w && len(c.buf) > 4<<10 {
		c.buf, c.r, c.w = make([]byte, 4<<10), 0, 0
	}
}

// fill reads from the peer into the buffer, which it grows up to limit bytes.
func (c *conn) fill(limit int, by time.Time) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.buf) && c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.buf) {
		grown := make([]byte, max(len(c.buf), min(2*len(c.buf), limit)))
		c.w = copy(grown, c.buf[:c.w])
		c.buf = grown
	}
	c.setReadBy(by)
	n, err := c.Conn.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// setReadBy moves the read deadline if it is not about there already: a timer costs more than a small request.
func (c *conn) setReadBy(by time.Time) {
	if d := by.Sub(c.readBy); d < 0 || d > time.Until(by)/2 {
		c.readBy = by
		_ = c.SetReadDeadline(by)
	}
}

// send writes all of p to the peer. Its first error is the last thing the peer is told.
func (c *conn) send(p []byte) error {
	for len(p) > 0 && c.failed == nil {
		piece := p[:min(len(p), 256<<10)]
		if now := time.Now(); c.writeBy.Sub(now) < writeTimeout {
			c.writeBy = now.Add(2 * writeTimeout)
			_ = c.SetWriteDeadline(c.writeBy)
		}
		var n int
		n, c.failed = c.Conn.Write(piece)
		p = p[n:]
	}
	return c.failed
}

// linger reads what is left of a refused request, in bounds, so that the peer gets to read its answer: closing a
// socket with unread bytes resets it, and a reset takes the answer with it. Of a peer that sends more than that no more
// is read, but it keeps its time to find the answer.
func (c *conn) linger() {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	if n, _ := io.CopyN(io.Discard, c.Conn, lingerBytes); n == lingerBytes {
		c.awaitReset()
	}
}

// awaitReset waits, without taking a byte, until the peer has reset the connection or the read deadline is over. An
// orderly end would stand behind what is not read.
func (c *conn) awaitReset() {
	tcp, ok := c.under.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		why, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		return err != nil || why != 0
	})
}

// readRaw reads what the peer sends past the gate, for tunnels: first what the buffer holds.
func (c *conn) readRaw(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	return c.Conn.Read(p)
}

// rest takes what the buffer holds past the gate, and the buffer with it.
func (c *conn) rest() []byte {
	rest := c.buf[c.r:c.w]
	c.buf, c.r, c.w = nil, 0, 0
	c.gate.phase = refused // nothing is read through it any more
	return rest
}

// abort ends the connection so that the peer cannot take what it got for whole: with a reset, and without the alert by
// which TLS ends well.
func (c *conn) abort() {
	if tcp, ok := c.under.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	if c.under != c.Conn {
		_ = c.under.Close()
	}
	c.gate.phase = refused
	_ = c.end()
}

// gone says whether the peer has closed its side, without waiting and without taking a byte.
func (c *conn) gone() bool {
	if c.failed != nil {
		return true
	}
	tcp, ok := c.under.(syscall.Conn)
	if !ok || c.r < c.w {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [5]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
		gone = gone || c.under != c.Conn && n == len(b) && isAlert(b)
	})
	return gone || err != nil
}

// timedOut says whether err is a passed deadline.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
