package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// rawTool is a tool that speaks bytes: script is run for each connection, which is closed afterwards.
type rawTool struct {
	addr  string
	mu    sync.Mutex
	seen  []string // whole requests, head and body, in order
	conns int
}

// rawConn is one connection to a rawTool.
type rawConn struct {
	net.Conn
	r    *bufio.Reader
	tool *rawTool
	n    int // of the tool's connections, from 1
}

func newRawTool(t testing.TB, script func(c *rawConn)) *rawTool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newRawToolOn(t, l, script)
}

func newRawToolOn(t testing.TB, l net.Listener, script func(c *rawConn)) *rawTool {
	tool := &rawTool{addr: l.Addr().String()}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tool.mu.Lock()
			tool.conns++
			c := &rawConn{Conn: conn, r: bufio.NewReader(conn), tool: tool, n: tool.conns}
			tool.mu.Unlock()
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			running.Go(func() { defer conn.Close(); script(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return tool
}

// head reads a request's head; "" when there is none.
func (c *rawConn) head() string {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return ""
		}
	}
	return b.String()
}

// request reads a whole request and counts it; "" when there is none.
func (c *rawConn) request() string {
	text := c.head()
	if text == "" {
		return ""
	}
	if _, after, ok := strings.Cut(text, "Content-Length: "); ok {
		digits, _, _ := strings.Cut(after, "\r\n")
		n, _ := strconv.Atoi(digits)
		body := make([]byte, n)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return ""
		}
		text += string(body)
	}
	c.tool.mu.Lock()
	c.tool.seen = append(c.tool.seen, text)
	c.tool.mu.Unlock()
	return text
}

func (c *rawConn) say(text string) { _, _ = io.WriteString(c.Conn, text) }

// gone waits until the other side has closed, whatever it still says.
func (c *rawConn) gone() { _, _ = io.Copy(io.Discard, c.r) }

// reset closes the connection with a TCP reset.
func (c *rawConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Conn.Close()
}

func (x *rawTool) requests() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]string(nil), x.seen...)
}

func (x *rawTool) connections() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.conns
}

// serving answers every request on a connection with text.
func serving(text string) func(*rawConn) {
	return func(c *rawConn) {
		for c.request() != "" {
			c.say(text)
		}
	}
}

// answering gives an answer of size bytes to every request, without keeping the requests.
func answering(size int) func(*rawConn) {
	text := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size)
	return func(c *rawConn) {
		for {
			length := 0
			for {
				line, err := c.r.ReadSlice('\n')
				if err != nil {
					return
				}
				if digits, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
					length, _ = strconv.Atoi(strings.TrimSpace(digits))
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := c.r.Discard(length); err != nil {
				return
			}
			c.say(text)
		}
	}
}

// farAway is a deadline that no test meets.
var farAway = time.Now().Add(time.Hour)

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// loopback is the configuration by which tests reach their own servers.
var loopback = Config{AllowPrivate: []string{"127.0.0.0/8", "::1/128"}}

func newUpstream(t testing.TB, c Config) *Upstream {
	t.Helper()
	u, err := NewUpstream(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func attemptTo(addr string) *govern.Attempt {
	return &govern.Attempt{
		Method: "POST", Target: tool.Target{Scheme: "http", Authority: addr, Path: "/charge"},
		Body: []byte(`{"amount":5}`), HasBody: true, Timeout: 5 * time.Second,
	}
}

// sent is what became of one attempt.
type sent struct {
	answer *govern.Answer
	phase  govern.Phase
	err    error // of Send
	body   string
	cut    error // of reading the body; nil when it was whole
}

func send(t *testing.T, u *Upstream, a *govern.Attempt) (s sent) {
	t.Helper()
	return sendWith(t.Context(), u, a)
}

func sendWith(ctx context.Context, u *Upstream, a *govern.Attempt) (s sent) {
	if s.answer, s.phase, s.err = u.Send(ctx, a); s.err != nil {
		return s
	}
	body, err := io.ReadAll(s.answer.Body)
	s.body, s.cut = string(body), err
	_ = s.answer.Body.Close()
	return s
}

func (s sent) wantWhole(t *testing.T, status int, body string) {
	t.Helper()
	switch {
	case s.err != nil:
		t.Fatalf("no answer: %v (phase %d)", s.err, s.phase)
	case s.answer.Status != status || s.body != body || s.cut != nil:
		t.Fatalf("got %d %q, cut: %v; want a whole %d %q", s.answer.Status, s.body, s.cut, status, body)
	}
}

func (s sent) wantError(t *testing.T, phase govern.Phase, kind error, words string) {
	t.Helper()
	if s.err == nil {
		t.Fatalf("got %d %q, want an error", s.answer.Status, s.body)
	}
	if s.phase != phase || !errors.Is(s.err, kind) || !strings.Contains(s.err.Error(), words) {
		t.Fatalf("got phase %d, %v; want phase %d, %v with %q", s.phase, s.err, phase, kind, words)
	}
}

// noLeaks fails the test when goroutines are left after everything that was registered for clean-up behind it.
func noLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines were left:\n%s", runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}
