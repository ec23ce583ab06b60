package proxy

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// corporateProxy is a CONNECT proxy that leads every tunnel to the same place.
type corporateProxy struct {
	*rawTool
	mu    sync.Mutex
	heads []string
}

func newCorporateProxy(t *testing.T, answer, to string) *corporateProxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newCorporateProxyOn(t, l, answer, to)
}

func newCorporateProxyOn(t *testing.T, l net.Listener, answer, to string) *corporateProxy {
	p := &corporateProxy{}
	p.rawTool = newRawToolOn(t, l, func(c *rawConn) {
		head := c.head()
		p.mu.Lock()
		p.heads = append(p.heads, head)
		p.mu.Unlock()
		c.say(answer)
		if to == "" {
			return
		}
		tunnel, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer tunnel.Close()
		go func() { _, _ = io.Copy(c.Conn, tunnel); c.Conn.Close() }()
		_, _ = io.Copy(tunnel, c.r)
	})
	return p
}

func (p *corporateProxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.heads...)
}

const established = "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n"

// viaUpstream sends through p; names are what this side can look up.
func viaUpstream(t *testing.T, via string, c Config, names map[string][]string) *Upstream {
	c.Via = via
	u := newUpstream(t, c)
	u.Dialer().lookup = newDialer(t, Config{}, names).lookup
	return u
}

func TestVia(t *testing.T) {
	noLeaks(t)
	x := newRawTool(t, serving(okAnswer))
	_, port, _ := net.SplitHostPort(x.addr)
	names := map[string][]string{"public.test": {"93.184.216.34"}, "inside.test": {"10.0.0.1"}, "cloud.test": {"169.254.169.254"}, "local.test": {"127.0.0.1"}}
	c := Config{Resolve: map[string]string{"fixed.test": "127.0.0.1"}}
	for _, row := range []struct {
		host, why string
		tool      *tool.Tool
		through   bool
	}{
		{"public.test", "", nil, true},
		{"unknown.test", "", nil, true}, // only the proxy can look it up
		{"93.184.216.34", "", nil, true},
		{"fixed.test", "", nil, false},
		{"local.test", "", &tool.Tool{Private: true}, false},
		{"local.test", "is loopback", nil, false},
		{"inside.test", "is private", nil, false},
		{"10.0.0.1", "is private", nil, false},
		{"cloud.test", "metadata", nil, false},
		{"metadata.google.internal", "metadata", nil, false},
		{"0x7f.1", "usual form", nil, false},
		{"unknown.test", "corporate proxy in the clear", &tool.Tool{Auth: &tool.Auth{}}, false},
	} {
		p := newCorporateProxy(t, established, x.addr)
		u := viaUpstream(t, "http://user:pass%20word@"+p.addr, c, names)
		a := attemptTo(net.JoinHostPort(row.host, port))
		a.Tool = row.tool
		for range 2 { // the second time on the same tunnel
			s := send(t, u, a)
			if row.why != "" {
				s.wantError(t, govern.Queued, govern.ErrDestination, row.why)
				continue
			}
			s.wantWhole(t, 200, "ok")
		}
		var want []string
		if row.through {
			want = []string{"CONNECT " + a.Target.Authority + " HTTP/1.1\r\nHost: " + a.Target.Authority + "\r\nProxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n\r\n"}
		}
		if got := p.asked(); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: the proxy was asked %q, want %q", row.host, got, want)
		}
	}
}

func TestViaFails(t *testing.T) {
	noLeaks(t)
	for answer, words := range map[string]string{
		"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n":       `answered "HTTP/1.1 407 Proxy Authentication Required"`,
		"HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n":                   `answered "HTTP/1.1 403 Forbidden"`,
		"HTTP/1.1 200 OK\r\n":                                      "through the proxy 127.0.0.1:",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 10_000): "16 KiB",
		"nonsense\r\n\r\n":                                         "nonsense",
	} {
		p := newCorporateProxy(t, answer, "")
		u := viaUpstream(t, "http://user:hunter2@"+p.addr, Config{}, nil)
		s := send(t, u, attemptTo("tool.test:80"))
		if s.wantError(t, govern.Queued, govern.ErrUnreachable, words); strings.Contains(s.err.Error(), "hunter2") {
			t.Errorf("the error shows the password: %v", s.err)
		}
	}
	dead := listenOn(t, "127.0.0.1")
	u := viaUpstream(t, "http://127.0.0.8:"+dead, Config{}, nil)
	send(t, u, attemptTo("tool.test:80")).wantError(t, govern.Queued, govern.ErrUnreachable, "connection refused (on the way to tool.test:80, by proxy.via)")
}
