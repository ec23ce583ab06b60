package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// link is one connection to a tool, with what was read from it and not yet consumed. It belongs to one exchange
// or to the pool.
type link struct {
	net.Conn                 // requests and answers: TCP, or TLS over it
	under    net.Conn        // TCP
	tls      *tls.Conn       // nil on plain TCP
	wire     *wire           // between the two; nil on plain TCP
	raw      syscall.RawConn // of the TCP connection; nil when something else lies between
	look     func(fd uintptr) bool
	silent   bool // what look saw

	to       backend
	peer     netip.AddrPort // who was reached; zero behind a corporate proxy
	judged   *tool.Tool     // by whose rules peer was judged last
	used     bool           // it has served before
	born     time.Time
	expires  time.Time     // while idle
	patience time.Duration // how long the peer says it keeps an idle connection

	buf  []byte // buf[r:w] is read and not consumed
	r, w int
	out  []byte // the request's head, and its body if it is small
}

const (
	bufferSize = 4 << 10
	keptBuffer = 16 << 10 // buffers that grew beyond it are not kept while idle
)

func newLink(conn net.Conn, to backend, t *tool.Tool, now time.Time) *link {
	c := &link{Conn: conn, under: conn, to: to, judged: t, born: now, patience: idleTime, buf: make([]byte, bufferSize)}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			c.raw, c.look = raw, c.peek
		}
	}
	return c
}

// peek looks whether anything waits to be read: bytes or an end. It takes what it finds, because a connection on which
// anything arrived between two requests is never used again.
func (c *link) peek(fd uintptr) bool {
	for {
		_, err := syscall.Read(int(fd), c.buf[:1])
		if err != syscall.EINTR {
			c.silent = err == syscall.EAGAIN
			return true
		}
	}
}

// quiet says whether nothing has arrived since the last answer was whole, in any layer: an answer to no request would
// be taken for the answer to the next one, and an end would swallow it.
func (c *link) quiet() bool {
	if c.r != c.w || c.raw == nil || c.tls != nil && !c.drained() {
		return false
	}
	c.silent = false
	return c.raw.Read(c.look) == nil && c.silent
}

// drained says whether the TLS layer holds no byte of a further record.
func (c *link) drained() bool {
	c.wire.dry = true
	n, err := c.tls.Read(c.buf[:1])
	c.wire.dry = false
	return n == 0 && err == errDry
}

// close gives the connection up without a word: a TLS farewell could block.
func (c *link) close() { c.under.Close() }

// fill reads more behind what is not consumed, as far as room goes; it makes room, up to limit bytes in all. io.EOF is
// an end that the peer meant.
func (c *link) fill(limit int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if c.r > 0 {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		} else if len(c.buf) < limit {
			c.buf = append(c.buf, make([]byte, min(len(c.buf), limit-len(c.buf)))...)
		} else {
			return errors.New("more than the sidecar reads at once")
		}
	}
	n, err := c.read(c.buf[c.w:])
	c.w += n
	return err
}

// read is one read, with n > 0 or an error. An end on TLS that nobody announced is no end but a cut (RFC 8446 §6.1).
func (c *link) read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	switch {
	case n > 0:
		return n, nil
	case err == io.EOF && c.wire != nil && c.wire.end:
		return 0, io.ErrUnexpectedEOF
	case err == nil:
		return 0, io.ErrNoProgress
	}
	return 0, err
}

// rest prepares the connection for lying idle.
func (c *link) rest() {
	if len(c.buf) > keptBuffer {
		c.buf = make([]byte, bufferSize)
	}
	if cap(c.out) > keptBuffer {
		c.out = nil
	}
}
