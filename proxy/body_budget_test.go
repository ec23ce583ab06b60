package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// TestRefusedFromTheHead: who is refused whatever the body holds is told so while the body is still to come, with one
// record, and holds no room.
func TestRefusedFromTheHead(t *testing.T) {
	right := "\r\nAuthorization: " + credentials("billing", "billing-token-0123")
	const known, chunked = "\r\nContent-Length: 1000000\r\n\r\nx", "\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx"
	for name, c := range map[string]struct {
		head   string
		status int
		code   string
	}{
		"no credentials":    {"POST /tools/ok HTTP/1.1\r\nHost: localhost", 407, "proxy_auth_required"},
		"wrong credentials": {"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credentials("billing", "x"), 407, "proxy_auth_required"},
		"forward":           {"POST http://other.test/ HTTP/1.1\r\nHost: other.test", 407, "proxy_auth_required"},
		"web page":          {"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nOrigin: null" + right, 403, "browser_request_denied"},
		"path":              {"POST /nosuch HTTP/1.1\r\nHost: localhost" + right, 404, "not_found"},
		"method":            {"PUT /tools/ok HTTP/1.1\r\nHost: localhost" + right, 405, "method_not_allowed"},
		"encoded":           {"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip" + right, 400, "bad_request"},
		"expected":          {"POST /nosuch HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue" + right, 404, "not_found"},
		"govern":            {"POST /tools/nosuch HTTP/1.1\r\nHost: localhost" + right, 403, "tool_not_registered"},
	} {
		for framing, body := range map[string]string{"known": known, "chunked": chunked} {
			t.Run(name+", "+framing, func(t *testing.T) {
				g := newRig(t, func(g *rig, _ *Config) { g.identity.Users = map[string]string{"billing": "billing-token-0123"} })
				conn := g.connect()
				_, _ = io.WriteString(conn, c.head+body)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != c.status || !resp.Close {
					t.Fatal(resp, err)
				}
				if governed, refused := g.seen(); len(governed) != 0 || fmt.Sprint(refused) != "["+c.code+"]" {
					t.Errorf("governed %d, refused %v", len(governed), refused)
				}
				g.holdNothing()
			})
		}
	}
}

func (g *rig) holdNothing() {
	g.t.Helper()
	for _, room := range []*listen.Room{&g.small, &g.large} {
		if lent := room.Lent(); lent != 0 {
			g.t.Errorf("%d bytes are lent still", lent)
		}
	}
}

// stall announces a body of this size and sends nothing of it.
func (g *rig) stall(size int64) (*net.TCPConn, *bufio.Reader) {
	g.t.Helper()
	c := g.connect()
	fmt.Fprintf(c, "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", size)
	answers := bufio.NewReader(c)
	if line, err := answers.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		g.t.Fatal(line, err)
	}
	_, _ = answers.ReadString('\n')
	return c, answers
}

// TestSlowBodiesHoldNoMoreThanTheirBudget: a body for which there is no room is refused, small calls go on meanwhile,
// and what a sender held is free when it is gone or served.
func TestSlowBodiesHoldNoMoreThanTheirBudget(t *testing.T) {
	g := newRig(t, func(_ *rig, c *Config) { c.MaxRequestBytes = largeBudget / 2 })
	first, _ := g.stall(largeBudget / 2)
	second, _ := g.stall(largeBudget / 2)
	for _, framing := range []string{"Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n100000\r\n"} {
		out := g.raw("POST /tools/ok HTTP/1.1\r\nHost: localhost\r\n" + framing)
		if statusOf(out) != 503 || !strings.Contains(out, "overloaded") {
			t.Errorf("over the budget: %.80q", out)
		}
	}
	small, answers := g.stall(5)
	_, _ = io.WriteString(small, "small")
	if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("a small call meanwhile: %v, %v", resp, err)
	}
	first.Close()
	second.Close()
	third, answers := g.stall(largeBudget / 2) // waits until the others are known to be gone
	_, _ = third.Write(make([]byte, largeBudget/2))
	if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("afterwards: %v, %v", resp, err)
	}
	small.Close()
	third.Close()
	if _, refused := g.seen(); strings.Count(fmt.Sprint(refused), "overloaded") != 2 {
		t.Errorf("refused %v", refused)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	g := newRig(t)
	s, err := New(Config{MaxRequestBytes: 1 << 20}, 32<<10, g.Backend)
	if err != nil {
		t.Fatal(err)
	}
	s.Conns = 2
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(t.Context(), ln) }()
	defer ln.Close()
	g.addr = ln.Addr().String()
	for range 2 { // an answer says that it counts
		c := g.connect()
		_, _ = io.WriteString(c, call)
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
	}
	if out := g.raw(""); statusOf(out) != 503 {
		t.Errorf("one more: %q", out)
	}
}
