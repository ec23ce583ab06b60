package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func TestRequestBytes(t *testing.T) {
	noLeaks(t)
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	for _, c := range []struct {
		name   string
		change func(*govern.Attempt)
		want   string
	}{
		{"as it stands", func(*govern.Attempt) {}, "POST /charge HTTP/1.1\r\nHost: " + x.addr + "\r\nContent-Length: 12\r\n\r\n{\"amount\":5}"},
		{"path and query are not touched", func(a *govern.Attempt) {
			a.Target.Path, a.Target.Query = "/a%2Fb/../c//d/%7e", "b=2&a=%20+1&&=\"x\xc3\xa9"
		}, "POST /a%2Fb/../c//d/%7e?b=2&a=%20+1&&=\"x\xc3\xa9 HTTP/1.1\r\nHost: " + x.addr + "\r\nContent-Length: 12\r\n\r\n{\"amount\":5}"},
		{"headers in order and spelling", func(a *govern.Attempt) {
			a.Header = []tool.Header{{Name: "x-b", Value: "2"}, {Name: "X-A", Value: ""}, {Name: "x-b", Value: "caf\xe9"}}
		}, "POST /charge HTTP/1.1\r\nHost: " + x.addr + "\r\nx-b: 2\r\nX-A: \r\nx-b: caf\xe9\r\nContent-Length: 12\r\n\r\n{\"amount\":5}"},
		{"GET without a body", func(a *govern.Attempt) { a.Method, a.Body, a.HasBody = "GET", nil, false }, "GET /charge HTTP/1.1\r\nHost: " + x.addr + "\r\n\r\n"},
		{"DELETE that announced an empty body", func(a *govern.Attempt) { a.Method, a.Body = "DELETE", nil }, "DELETE /charge HTTP/1.1\r\nHost: " + x.addr + "\r\nContent-Length: 0\r\n\r\n"},
		{"POST without a body says so", func(a *govern.Attempt) { a.Body, a.HasBody = nil, false }, "POST /charge HTTP/1.1\r\nHost: " + x.addr + "\r\nContent-Length: 0\r\n\r\n"},
		{"OPTIONS of everything", func(a *govern.Attempt) { a.Method, a.Target.Path, a.Body, a.HasBody = "OPTIONS", "*", nil, false }, "OPTIONS * HTTP/1.1\r\nHost: " + x.addr + "\r\n\r\n"},
	} {
		a := attemptTo(x.addr)
		c.change(a)
		send(t, u, a).wantWhole(t, 200, "ok")
		if all := x.requests(); all[len(all)-1] != c.want {
			t.Errorf("%s: the tool got\n%q, want\n%q", c.name, all[len(all)-1], c.want)
		}
	}
	if x.connections() != 1 {
		t.Errorf("%d connections for requests in turn, want 1", x.connections())
	}
}

func TestHostHeader(t *testing.T) {
	for _, c := range [][3]string{
		{"https", "api.stripe.com:443", "api.stripe.com"}, {"http", "tool:80", "tool"}, {"https", "tool:80", "tool:80"}, {"http", "tool:443", "tool:443"},
		{"https", "[::1]:443", "[::1]"}, {"http", "[::1]:8080", "[::1]:8080"}, {"http", "tool:8080", "tool:8080"},
	} {
		a := &govern.Attempt{Method: "GET", Target: tool.Target{Scheme: c[0], Authority: c[1], Path: "/"}}
		if got, want := string(appendRequest(nil, a)), "GET / HTTP/1.1\r\nHost: "+c[2]+"\r\n\r\n"; got != want {
			t.Errorf("%s %s: %q, want %q", c[0], c[1], got, want)
		}
	}
}

// Whatever reaches the sender, nothing that ends a line or a message leaves it.
func TestUnsendable(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	header := func(name, value string) func(*govern.Attempt) {
		return func(a *govern.Attempt) { a.Header = []tool.Header{{Name: name, Value: value}} }
	}
	for name, change := range map[string]func(*govern.Attempt){
		"method":            func(a *govern.Attempt) { a.Method = "POST / HTTP/1.1\r\n" },
		"empty method":      func(a *govern.Attempt) { a.Method = "" },
		"scheme":            func(a *govern.Attempt) { a.Target.Scheme = "ftp" },
		"CR LF in path":     func(a *govern.Attempt) { a.Target.Path = "/a\r\nX: y" },
		"space in path":     func(a *govern.Attempt) { a.Target.Path = "/a b" },
		"NUL in path":       func(a *govern.Attempt) { a.Target.Path = "/a\x00" },
		"question in path":  func(a *govern.Attempt) { a.Target.Path = "/a?b" },
		"fragment in path":  func(a *govern.Attempt) { a.Target.Path = "/a#b" },
		"non-ASCII in path": func(a *govern.Attempt) { a.Target.Path = "/caf\xc3\xa9" },
		"no slash":          func(a *govern.Attempt) { a.Target.Path = "a" },
		"no path":           func(a *govern.Attempt) { a.Target.Path = "" },
		"star for POST":     func(a *govern.Attempt) { a.Target.Path = "*" },
		"LF in query":       func(a *govern.Attempt) { a.Target.Query = "a=b\nc" },
		"space in query":    func(a *govern.Attempt) { a.Target.Query = "a=b c" },
		"fragment in query": func(a *govern.Attempt) { a.Target.Query = "a#b" },
		"LF in authority":   func(a *govern.Attempt) { a.Target.Authority += "\n" },
		"user in authority": func(a *govern.Attempt) { a.Target.Authority = "u@" + a.Target.Authority },
		"no authority":      func(a *govern.Attempt) { a.Target.Authority = "" },
		"CR in value":       header("A", "b\rc"),
		"LF in value":       header("A", "b\nc"),
		"NUL in value":      header("A", "b\x00c"),
		"colon in name":     header("A:", "b"),
		"space in name":     header("A ", "b"),
		"empty name":        header("", "b"),
		"LF in name":        header("A\n", "b"),
		"Host":              header("host", "evil"),
		"Content-Length":    header("Content-Length", "0"),
		"Content_Length":    header("Content_Length", "0"),
		"Transfer-Encoding": header("transfer-encoding", "chunked"),
		"Connection":        header("Connection", "close"),
		"Upgrade":           header("Upgrade", "h2c"),
		"Expect":            header("Expect", "100-continue"),
		"Trailer":           header("Trailer", "X"),
		"TE":                header("TE", "trailers"),
		"Keep-Alive":        header("Keep-Alive", "timeout=9"),
		"Proxy-Connection":  header("Proxy-Connection", "close"),
	} {
		a := attemptTo(x.addr)
		change(a)
		if s := send(t, u, a); s.err == nil || s.phase != govern.Queued {
			t.Errorf("%s: sent, phase %d, %v", name, s.phase, s.err)
		}
	}
	if n := x.connections(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func FuzzSendable(f *testing.F) {
	f.Add("POST", "/a", "b=c", "X", "y")
	f.Add("GET", "/a\r\n\r\nGET /b", "", "X\r\n", "y\r\nZ: w")
	f.Fuzz(func(t *testing.T, method, path, query, name, value string) {
		a := &govern.Attempt{Method: method, Target: tool.Target{Scheme: "http", Authority: "tool:80", Path: path, Query: query}, Header: []tool.Header{{Name: name, Value: value}}}
		if sendable(a) != nil {
			return
		}
		text := string(appendRequest(nil, a))
		lines := strings.Split(text, "\r\n")
		want := 5 // request line, Host, the header, and the two that the end makes
		if expectsBody(method) {
			want++
		}
		if len(lines) != want || strings.Count(text, "\n") != want-1 || strings.Count(text, "\r") != want-1 || strings.Count(lines[0], " ") != 2 || strings.ContainsRune(text, 0) {
			t.Errorf("is another message than it should be: %q", text)
		}
	})
}

// A tool may answer before it has read a body that fills every buffer, and wait with reading or not read at all.
func TestEarlyAnswerToALargeBody(t *testing.T) {
	noLeaks(t)
	large := []byte(strings.Repeat("b", 32<<20))
	const refusal = "HTTP/1.1 413 Too Large\r\n"
	for name, script := range map[string]func(c *rawConn, done chan struct{}){
		"closes":      func(c *rawConn, _ chan struct{}) { c.say(refusal + "Content-Length: 2\r\n\r\nno") },
		"never reads": func(c *rawConn, done chan struct{}) { c.say(refusal + "Content-Length: 2\r\n\r\nno"); <-done },
		"reads at last": func(c *rawConn, _ chan struct{}) {
			c.say(refusal + "Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n")
			_, _ = io.CopyN(io.Discard, c.r, int64(len(large)))
			c.say("0\r\n\r\n")
			c.gone()
		},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			x := newRawTool(t, func(c *rawConn) { c.head(); script(c, done) })
			defer close(done)
			u := newUpstream(t, loopback)
			a := attemptTo(x.addr)
			a.Body = large
			s := send(t, u, a)
			if name == "closes" && s.err != nil {
				// The reset of the unread bytes may overtake the answer; then nobody can know.
				s.wantError(t, s.phase, govern.ErrBroken, x.addr)
				if s.phase < govern.FirstByte {
					t.Errorf("phase %d says that nothing was sent", s.phase)
				}
				return
			}
			s.wantWhole(t, 413, "no")
		})
	}
}

func TestLargeBodyArrivesWhole(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	for _, size := range []int{inlineBody - 1, inlineBody, inlineBody + 1, 5 << 20} {
		a := attemptTo(x.addr)
		a.Body = []byte(strings.Repeat("b", size))
		send(t, u, a).wantWhole(t, 200, "ok")
		all := x.requests()
		if _, body, _ := strings.Cut(all[len(all)-1], "\r\n\r\n"); len(body) != size {
			t.Errorf("%d of %d bytes arrived", len(body), size)
		}
	}
}

func TestUnreachable(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	u := newUpstream(t, loopback)
	send(t, u, attemptTo(l.Addr().String())).wantError(t, govern.Queued, govern.ErrUnreachable, "connect "+l.Addr().String()+": connection refused")
}

// The first Write of a plain connection that takes nothing leaves the call unsent.
func TestNothingWritten(t *testing.T) {
	x := newRawTool(t, func(c *rawConn) { c.gone() })
	conn, err := net.Dial("tcp", x.addr)
	if err != nil {
		t.Fatal(err)
	}
	a := attemptTo(x.addr)
	for _, c := range []struct {
		kept bool
		want govern.Phase
	}{{true, govern.Dialled}, {false, govern.FirstByte}} {
		l := newLink(conn, backendOf(a), nil, time.Now())
		if !c.kept {
			l.raw = nil // as behind a proxy that is spoken to over TLS
		}
		conn.Close()
		e := &exchange{pool: &pool{}, gap: time.Second}
		e.begin(t.Context(), l)
		phase, err := e.write(a)
		if phase != c.want || c.want == govern.Dialled != errors.Is(err, govern.ErrUnreachable) {
			t.Errorf("phase %d, %v; want phase %d", phase, err, c.want)
		}
		e.end(false, io.EOF)
	}
}

func TestContextEndsTheExchange(t *testing.T) {
	noLeaks(t)
	t.Run("before", func(t *testing.T) {
		x := newRawTool(t, serving(okAnswer))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		sendWith(ctx, newUpstream(t, loopback), attemptTo(x.addr)).wantError(t, govern.Queued, context.Canceled, "")
	})
	t.Run("before the answer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newRawTool(t, func(c *rawConn) { c.request(); cancel(); c.gone() })
		s := sendWith(ctx, newUpstream(t, loopback), attemptTo(x.addr))
		s.wantError(t, govern.Flushed, context.Canceled, "")
		s.wantError(t, govern.Flushed, govern.ErrBroken, "")
	})
	t.Run("within the body", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newRawTool(t, func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\n\r\nhalf"); c.gone() })
		answer, _, err := newUpstream(t, loopback).Send(ctx, attemptTo(x.addr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(answer.Body, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.ReadAll(answer.Body); !errors.Is(err, context.Canceled) || !errors.Is(err, govern.ErrBroken) {
			t.Errorf("reading says %v", err)
		}
	})
	t.Run("between two reads", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x := newRawTool(t, func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\n\r\n"); c.gone() })
		a := attemptTo(x.addr)
		a.Timeout = time.Hour // so that nothing else ends it
		answer, _, err := newUpstream(t, loopback).Send(ctx, a)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		expired := answer.Body.(*exchange).link.raw
		for expired.Read(func(uintptr) bool { return true }) == nil {
			runtime.Gosched()
		}
		if _, err := io.ReadAll(answer.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("reading says %v", err)
		}
	})
	t.Run("after the answer", func(t *testing.T) {
		x := newRawTool(t, serving(okAnswer))
		u := newUpstream(t, loopback)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			sendWith(ctx, u, attemptTo(x.addr)).wantWhole(t, 200, "ok")
			cancel()
		}
		if x.connections() != 1 {
			t.Errorf("%d connections, want 1", x.connections())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	noLeaks(t)
	x := newRawTool(t, func(c *rawConn) {
		for {
			text := c.request()
			if text == "" {
				return
			}
			_, body, _ := strings.Cut(text, "\r\n\r\n")
			c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		}
	})
	u := newUpstream(t, loopback)
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			for i := range 50 {
				a := attemptTo(x.addr)
				a.Body = fmt.Appendf(nil, "%d of %d", i, g)
				if s := sendWith(t.Context(), u, a); s.err != nil || s.body != string(a.Body) || s.cut != nil {
					t.Errorf("sent %q, got %q, %v, %v", a.Body, s.body, s.err, s.cut)
				}
			}
		})
	}
	all.Wait()
	if n := len(x.requests()); n != 1600 {
		t.Errorf("the tool ran %d times, want 1600", n)
	}
	if n := x.connections(); n > 32 {
		t.Errorf("%d connections for 32 callers", n)
	}
}
