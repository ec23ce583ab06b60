package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
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
