package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// maxHello bounds the bytes that are read of a ClientHello before it is judged.
const maxHello = 64 << 10

// judgeStart reads the tunnel's first bytes. Of TLS it reads the whole ClientHello: one that names a tool's host is
// refused whatever the CONNECT said. An agent that says nothing leaves the word to the far end.
func (t *tunnel) judgeStart() (began []byte, refusal string) {
	_ = t.c.SetReadDeadline(time.Now().Add(max(t.s.settings.Load().tunnelIdle, time.Second)))
	t.c.readBy = time.Time{}
	buf := make([]byte, 4<<10)
	n, err := t.c.readRaw(buf)
	for n > 0 && n < maxUndecided && err == nil && mayBeHTTP(buf[:n]) {
		var more int
		more, err = t.c.readRaw(buf[n:])
		n += more
	}
	switch {
	case n == 0 || err != nil:
		return nil, ""
	case isRecord(buf[0]):
		return nil, "or not: it begins with a TLS record that is no ClientHello"
	case len(bytes.TrimLeft(buf[:n], "\r\n")) == 0:
		return nil, "or not: it begins with empty lines"
	case buf[0] != recordHandshake:
		return buf[:n], ""
	}
	name, began, ok := serverName(io.MultiReader(bytes.NewReader(buf[:n]), rawReader{t.c}))
	switch {
	case !ok:
		return nil, "or not: its ClientHello cannot be read"
	case name != "" && t.s.isGoverned(plainName(name), t.r.Target.Authority):
		return nil, "by the server name in its ClientHello"
	case name != "" && !isAddress(t.r.Target.Authority) && plainName(name) != bareHost(t.r.Target.Authority):
		return nil, "or not: its ClientHello asks for " + plainName(name) + ", which is not the tunnel's host"
	}
	return began, ""
}

// recordHandshake is the first byte of a TLS connection.
const recordHandshake = 0x16

// isRecord says whether the byte begins a TLS record other than a handshake's. Servers skip some of those, so what stood
// behind one would not be looked at.
func isRecord(b byte) bool { return b >= 0x14 && b <= 0x18 && b != recordHandshake }

type rawReader struct{ c *conn }

func (r rawReader) Read(p []byte) (int, error) { return r.c.readRaw(p) }

// serverName reads a ClientHello, which may be spread over several records, and returns the server name it asks for
// ("" for none) and every byte that was read.
func serverName(from io.Reader) (name string, read []byte, ok bool) {
	var seen bytes.Buffer
	listener := tls.Server(helloConn{r: io.TeeReader(io.LimitReader(from, maxHello), &seen)}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = hello.ServerName, true
			return nil, errHeard
		},
	})
	_ = listener.Handshake() // never succeeds
	return name, seen.Bytes(), ok
}

var errHeard = errors.New("the ClientHello has been read")

// helloConn lets crypto/tls read a ClientHello and nothing else.
type helloConn struct {
	net.Conn // nil: nothing else is called
	r        io.Reader
}

func (h helloConn) Read(p []byte) (int, error)  { return h.r.Read(p) }
func (h helloConn) Write(p []byte) (int, error) { return len(p), nil }

// maxUndecided is how many bytes of a tunnel are read to tell whether they begin an HTTP request.
const maxUndecided = 64

// mayBeHTTP says whether the bytes are too few to tell: line ends, or the beginning of a method.
func mayBeHTTP(b []byte) bool {
	b = bytes.TrimLeft(b, "\r\n")
	method, rest, ok := bytes.Cut(b, []byte(" "))
	return len(b) == 0 || isMethod(string(method)) && (!ok || len(rest) == 0)
}

// isHTTP says whether the bytes begin an HTTP request, as clients send it that tunnel even http:// URLs.
func isHTTP(b []byte) bool {
	b = bytes.TrimLeft(b, "\r\n")
	method, rest, ok := strings.Cut(string(b[:min(len(b), 64)]), " ")
	return ok && isMethod(method) && (strings.HasPrefix(rest, "/") || strings.HasPrefix(strings.ToLower(rest), "http") || strings.HasPrefix(rest, "*"))
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// isAlert says whether a TLS record that begins like this is an alert, by which a peer says goodbye: by its type, or in
// TLS 1.3, where all records look alike, by its length (RFC 8446, section 5.2: two bytes, one for the type, a tag).
func isAlert(head [5]byte) bool {
	return head[0] == 0x15 || head[0] == 0x17 && head[3] == 0 && head[4] == 2+1+16
}
