package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// slow serves what the agent function writes to one connection on a clock of its own, and returns the detail of the
// refusal ("" for none) and how long the connection lived.
func slow(t *testing.T, agent func(net.Conn)) (detail string, lived time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{headerBytes: 4 << 10, conns: map[*conn]struct{}{}}
		s.settings.Store(&settings{maxBody: 1 << 16})
		s.Backend = Backend{
			Refuse: func(_ *govern.Request, _, d string) *govern.Reply {
				detail = d
				return &govern.Reply{Status: 400}
			},
			Identity: func() *Identity { return &Identity{} },
			Snapshot: func() *govern.Snapshot { return &govern.Snapshot{} },
		}
		near, end := net.Pipe()
		defer near.Close()
		c := newConn(s, end)
		start := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(io.Discard, io.Reader(c)) // as fasthttp would read
			lived = time.Since(start)
			c.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		agent(near)
		<-ended
	})
	return detail, lived
}

func TestConnectionsDoNotKeepTheSidecarWaiting(t *testing.T) {
	drip := func(text string, every time.Duration) func(net.Conn) {
		return func(c net.Conn) {
			for i := range len(text) {
				if _, err := c.Write([]byte{text[i]}); err != nil {
					return
				}
				time.Sleep(every)
			}
		}
	}
	head := "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\n"
	for name, c := range map[string]struct {
		agent  func(net.Conn)
		detail string
		lived  time.Duration // at most
	}{
		"silent":                    {func(net.Conn) {}, "", idleTimeout},
		"an empty line and silence": {drip("\r\n", 0), "", headTimeout},
		"a head byte by byte":       {drip(head+strings.Repeat("X: y\r\n", 20), time.Second), "head did not come in time", headTimeout + lingerTime},
		"a head that stops":         {drip(head, 0), "head did not come in time", headTimeout + lingerTime},
		"a body that stops":         {drip(head+"Content-Length: 9\r\n\r\nbody", 0), "body did not come in time", bodyTimeout + lingerTime},
		"a chunk that stops":        {drip(head+"Transfer-Encoding: chunked\r\n\r\n9\r\nbody", 0), "body did not come in time", bodyTimeout + lingerTime},
		"a head that is cut":        {func(n net.Conn) { drip(head, 0)(n); n.Close() }, "ended within the request's head", time.Second},
		"a body that is cut":        {func(n net.Conn) { drip(head+"Content-Length: 9\r\n\r\nbody", 0)(n); n.Close() }, "ended within the request's body", time.Second},
	} {
		detail, lived := slow(t, c.agent)
		if !strings.Contains(detail, c.detail) || (c.detail == "") != (detail == "") || lived > c.lived {
			t.Errorf("%s: %q after %s", name, detail, lived)
		}
	}
}

// fasthttp keeps the time by a goroutine that starts with the first head it writes, which must not be in a bubble.
func init() { _ = new(fasthttp.ResponseHeader).Header() }

// slowTunnel is slow for what an agent does in an opened tunnel to pay.test.
func slowTunnel(t *testing.T, agent func(c net.Conn, trust *tls.Config)) (detail string, lived time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := intercept.Open(intercept.Options{Memory: true, Out: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		g := &rig{t: t, ca: ca, identity: Identity{Default: "default"}}
		s, err := New(Config{MaxRequestBytes: 1 << 16, TunnelIdle: time.Minute}, 4<<10, g.backend())
		if err != nil {
			t.Fatal(err)
		}
		g.Server = s
		near, end := net.Pipe()
		defer near.Close()
		way := &tunnel{s: s, c: newConn(s, end), r: &govern.Request{Agent: "default", Target: tool.Target{Authority: "pay.test:443"}}, way: opened}
		start := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer end.Close()
			s.enter()
			way.run()
			lived = time.Since(start)
		}()
		agent(near, g.trust("pay.test"))
		_, _ = io.Copy(io.Discard, near)
		<-ended
		detail = strings.Join(g.details, "; ")
	})
	return detail, lived
}

func TestTunnelsDoNotKeepTheSidecarWaiting(t *testing.T) {
	first := hello(t, "pay.test", 1<<14)
	for name, c := range map[string]struct {
		agent  func(net.Conn, *tls.Config)
		detail string
		lived  time.Duration // at most
	}{
		"silent": {func(net.Conn, *tls.Config) {}, "", tunnelStart},
		"a ClientHello that stops": {func(c net.Conn, _ *tls.Config) { _, _ = io.WriteString(c, first[:50]) },
			"did not end in time", handshakeTimeout},
		"a ClientHello byte by byte": {func(c net.Conn, _ *tls.Config) {
			for i := range len(first) {
				if _, err := io.WriteString(c, first[i:i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, "did not end in time", handshakeTimeout},
		"a handshake that stops": {func(c net.Conn, _ *tls.Config) {
			_, _ = io.WriteString(c, first)
			_, _ = io.ReadFull(c, make([]byte, 100))
		}, "did not end in time", handshakeTimeout},
		"TLS and silence": {func(c net.Conn, trust *tls.Config) {
			if err := tls.Client(c, trust).Handshake(); err != nil {
				t.Error(err)
			}
		}, "", idleTimeout},
	} {
		detail, lived := slowTunnel(t, c.agent)
		if !strings.Contains(detail, c.detail) || (c.detail == "") != (detail == "") || strings.Contains(detail, ";") || lived > c.lived+time.Second {
			t.Errorf("%s: %q after %s", name, detail, lived)
		}
	}
}
