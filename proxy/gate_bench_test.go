package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// typical is a forwarded call as a Python client sends it.
var typical = "POST http://tool.test/ok HTTP/1.1\r\nHost: tool.test\r\nUser-Agent: python-requests/2.28.1\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n" +
	"Connection: keep-alive\r\nAuthorization: Bearer sk_test_0123456789\r\nIdempotency-Key: 5f2a0c1e-6d0b-4c57-9a39-0d5b8a1f7e11\r\nContent-Type: application/json\r\n" +
	fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 512, strings.Repeat("x", 512))

type endless struct {
	data string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.at:])
	e.at = (e.at + n) % len(e.data)
	return n, nil
}

// BenchmarkGateAndAdapter is what the gate and the adapter add to a request, without sockets and fasthttp.
func BenchmarkGateAndAdapter(b *testing.B) {
	s := benchServer(b)
	c := newConn(s, given{r: &endless{data: typical}})
	buf := make([]byte, 8<<10)
	b.ReportAllocs()
	for b.Loop() {
		for got := 0; got < len(typical); {
			n, err := c.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
		c.gate.taken = true
		if r := s.request(c); r.Target.Path != "/ok" {
			b.Fatal(r)
		}
	}
}

func benchServer(b *testing.B) *Server {
	registry, err := tool.NewRegistry(nil)
	if err != nil {
		b.Fatal(err)
	}
	snapshot, identity := &govern.Snapshot{Registry: registry, Unregistered: govern.Lightly}, &Identity{Default: "default"}
	reply := func(*govern.Request) *govern.Reply {
		return &govern.Reply{Status: 200, Body: make([]byte, 1024), Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "X-OnceOnly-Decision", Value: "executed"}}}
	}
	s, err := New(Config{MaxRequestBytes: 1 << 20}, 32<<10, Backend{
		Govern: func(_ context.Context, r *govern.Request) *govern.Reply { return reply(r) },
		Refuse: func(r *govern.Request, code, detail string) *govern.Reply {
			return &govern.Reply{Status: 400, Body: []byte(detail)}
		},
		Snapshot: func() *govern.Snapshot { return snapshot },
		Identity: func() *Identity { return identity },
		Disabled: func(string) bool { return false },
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkRoundTrip compares this listener with fasthttp's own, over loopback and one connection.
func BenchmarkRoundTrip(b *testing.B) {
	b.Run("gated", func(b *testing.B) {
		ln := onLoopback(b)
		s := benchServer(b)
		go func() { _ = s.Serve(context.Background(), ln) }()
		roundTrips(b, ln)
	})
	b.Run("bare", func(b *testing.B) {
		ln := onLoopback(b)
		body := make([]byte, 1024)
		s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetBody(body) }}
		go func() { _ = s.Serve(ln) }()
		roundTrips(b, ln)
	})
}

func onLoopback(b *testing.B) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	return ln
}

func roundTrips(b *testing.B, ln net.Listener) {
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, typical); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}
