package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// statuses are those of the refusals that the wire makes.
var statuses = map[string]int{
	"bad_request": 400, "tool_not_registered": 403, "browser_request_denied": 403, "destination_denied": 403, "agent_disabled": 403,
	"not_found": 404, "method_not_allowed": 405, "proxy_auth_required": 407, "request_too_large": 413, "expectation_failed": 417,
	"headers_too_large": 431, "internal": 500, "not_supported": 501, "upstream_unreachable": 502, "draining": 503, "overloaded": 503,
	"upstream_outcome_unknown": 504,
}

// rig is a listener with a stand-in for the governor behind it, which remembers what reaches it.
type rig struct {
	*Server
	addr string
	t    *testing.T

	mu       sync.Mutex
	governed []*govern.Request
	refused  []string // codes
	details  []string
	logged   []string
	tunnels  int
	unused   int
	off      map[string]bool
	snapshot govern.Snapshot
	identity Identity
	answer   func(*govern.Request) *govern.Reply
	dial     func(context.Context, string) (net.Conn, error)
	names    map[string]netip.Addr
	ca       *intercept.CA
	served   chan error
}

func newRig(t *testing.T, change ...func(*rig, *Config)) *rig {
	t.Helper()
	registry, err := tool.NewRegistry([]*tool.Tool{
		registered(t, tool.Config{Name: "ok", URL: "http://tool.test/ok"}),
		registered(t, tool.Config{Name: "read", URL: "http://read.test/", Effect: "read", Match: []tool.MatchConfig{{Methods: []string{"GET"}, URL: "http://read.test/"}}}),
		registered(t, tool.Config{Name: "pay", URL: "https://pay.test/v1/charges"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, off: map[string]bool{}, identity: Identity{Default: "default"}, served: make(chan error, 1), names: map[string]netip.Addr{}}
	g.snapshot = govern.Snapshot{Registry: registry, Unregistered: govern.Pass}
	g.answer = func(r *govern.Request) *govern.Reply {
		return &govern.Reply{Status: 200, Header: []tool.Header{{Name: "X-Body", Value: fmt.Sprint(len(r.Body))}}, Body: []byte("fine")}
	}
	g.dial = func(context.Context, string) (net.Conn, error) { return nil, govern.ErrUnreachable }
	c := Config{MaxRequestBytes: 1 << 20, TunnelIdle: time.Minute}
	for _, f := range change {
		f(g, &c)
	}
	if g.Server, err = New(c, 32<<10, g.backend()); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	go func() { g.served <- g.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond) // what a test leaves open is closed
		defer cancel()
		g.Close(ctx)
	})
	return g
}

func registered(t *testing.T, c tool.Config) *tool.Tool {
	t.Helper()
	made, err := tool.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (g *rig) backend() Backend {
	b := g.parts()
	if g.ca != nil {
		b.Certificate = g.ca.Certificate
	}
	return b
}

func (g *rig) parts() Backend {
	return Backend{
		Govern: func(_ context.Context, r *govern.Request) *govern.Reply {
			g.mu.Lock()
			g.governed = append(g.governed, r)
			g.mu.Unlock()
			return g.answer(r)
		},
		Refuse: func(r *govern.Request, code, detail string) *govern.Reply {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.refused, g.details = append(g.refused, code), append(g.details, detail)
			f := &govern.Refusal{Status: statuses[code], Code: code, Detail: detail, Instance: r.ID}
			return &govern.Reply{Status: f.Status, Refusal: f, Body: f.Problem(), Reason: code, Decision: govern.Blocked,
				Header: []tool.Header{{Name: "Content-Type", Value: "application/problem+json"}, {Name: "X-OnceOnly-Reason", Value: code}}}
		},
		RefuseEarly: func(r *govern.Request) *govern.Reply {
			if r.Name != "nosuch" {
				return nil
			}
			return g.Refuse(r, "tool_not_registered", "")
		},
		Snapshot: func() *govern.Snapshot { return &g.snapshot },
		Identity: func() *Identity { return &g.identity },
		Disabled: func(agent string) bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.off[agent]
		},
		Tunnelled: func(*govern.Request) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.tunnels++
		},
		Unused: func(*govern.Request) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.unused++
		},
		Dial: func(ctx context.Context, authority string) (net.Conn, error) { return g.dial(ctx, authority) },
		Addresses: func(_ context.Context, host string) ([]netip.Addr, error) {
			if a, err := netip.ParseAddr(host); err == nil {
				return []netip.Addr{a}, nil
			}
			if a, ok := g.names[host]; ok {
				return []netip.Addr{a}, nil
			}
			return nil, errors.New("no such host")
		},
		Log: func(_ slog.Level, msg string, args ...any) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.logged = append(g.logged, fmt.Sprint(append([]any{msg}, args...)...))
		},
	}
}

// seen are the requests that reached the governor and the codes of the refusals so far.
func (g *rig) seen() ([]*govern.Request, []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*govern.Request(nil), g.governed...), append([]string(nil), g.refused...)
}

func (g *rig) connect() *net.TCPConn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	g.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// raw sends bytes and the end of them, and returns all that comes back until the listener closes.
func (g *rig) raw(data string) string {
	g.t.Helper()
	c := g.connect()
	if _, err := io.WriteString(c, data); err == nil {
		_ = c.CloseWrite()
	}
	out, err := io.ReadAll(c)
	if errors.Is(err, context.DeadlineExceeded) {
		g.t.Fatalf("the connection stayed open after %.80q", data)
	}
	return string(out)
}

// statusOf is the status of the first answer in raw, 0 without one.
func statusOf(raw string) int {
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

const call = "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"

func TestReversePath(t *testing.T) {
	g := newRig(t)
	out := g.raw(call)
	if !strings.HasPrefix(out, "HTTP/1.1 200 OK\r\nX-Body: 7\r\nContent-Length: 4\r\n\r\nfine") {
		t.Fatalf("answer %q", out)
	}
	governed, refused := g.seen()
	if len(governed) != 1 || len(refused) != 0 {
		t.Fatalf("governed %d, refused %v", len(governed), refused)
	}
	r := governed[0]
	if r.Name != "ok" || r.Route != govern.Reverse || r.Method != "POST" || string(r.Body) != `{"a":1}` || !r.HasBody || len(r.ID) != 32 || r.Agent != "default" || r.Target != (tool.Target{}) {
		t.Fatalf("request %+v", r)
	}
}

func TestPathsOfTheListener(t *testing.T) {
	for request, want := range map[string]int{
		"POST /tools/ok":         200,
		"GET /tools/ok":          405,
		"POST /tools/":           404,
		"POST /tools/a/b":        404,
		"POST /tools/a%20b":      404,
		"POST /other":            404,
		"POST /":                 404,
		"POST /tools/ok?dry=run": 400,
		"OPTIONS *":              400,
		"POST tool.test:80":      400,
		"CONNECT /tools/ok":      400,
	} {
		t.Run(request, func(t *testing.T) {
			g := newRig(t)
			out := g.raw(request + " HTTP/1.1\r\nHost: " + g.addr + "\r\nContent-Length: 0\r\n\r\n")
			governed, refused := g.seen()
			if statusOf(out) != want || len(governed)+len(refused) != 1 {
				t.Fatalf("answer %.60q, governed %d, refused %v", out, len(governed), refused)
			}
		})
	}
}

func TestForwardTargetAndHeaders(t *testing.T) {
	g := newRig(t)
	g.raw("POST HTTP://Tool.TEST./a%20b//c?x=1&x=%zz HTTP/1.1\r\nhost: tool.test:80\r\nX-b: 2\r\nx-A:  1 \r\nX-b: 3\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n" +
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nForwarded: for=x\r\nX-Forwarded-For: x\r\nX_Forwarded_Host: x\r\nVia: x\r\nTE: trailers\r\nX-HTTP-Method-Override: DELETE\r\n" +
		"X-OnceOnly-Run-Id: run\r\nX-OnceOnly-Spend-Usd: 1.5\r\nX-OnceOnly-Nonsense: 1\r\nIdempotency-Key: \"k\"\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")
	_, refused := g.seen()
	if len(refused) != 1 { // the path of a tool's host holds //
		t.Fatalf("refused %v", refused)
	}
	g.raw("POST HTTP://Other.TEST./a%20b//c?x=1&x=%zz HTTP/1.1\r\nhost: other.test:80\r\nX-b: 2\r\nx-A:  1 \r\nX-b: 3\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n" +
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nForwarded: for=x\r\nX-Forwarded-For: x\r\nX_Forwarded_Host: x\r\nVia: x\r\nTE: trailers\r\nX-HTTP-Method-Override: DELETE\r\n" +
		"X-OnceOnly-Run-Id: run\r\nX-OnceOnly-Spend-Usd: 1.5\r\nX-OnceOnly-Nonsense: 1\r\nIdempotency-Key: \"k\"\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")
	governed, refused := g.seen()
	if len(governed) != 1 {
		t.Fatalf("refused %v %v", refused, g.details)
	}
	r := governed[0]
	if want := (tool.Target{Scheme: "http", Authority: "other.test:80", Path: "/a%20b//c", Query: "x=1&x=%zz"}); r.Target != want || r.Route != govern.Forward {
		t.Fatalf("target %+v", r.Target)
	}
	if got, want := fmt.Sprint(r.Header), `[{X-b 2} {x-A 1} {X-b 3} {Idempotency-Key "k"}]`; got != want {
		t.Fatalf("header %s, want %s", got, want)
	}
	if r.RunID != "run" || r.Spend != "1.5" || fmt.Sprint(r.IdempotencyKey) != `["k"]` {
		t.Fatalf("hints %+v", r)
	}
}

func TestPipelinedRequestsAreJudgedEach(t *testing.T) {
	g := newRig(t)
	out := g.raw(call + "\r\n" + call + strings.Replace(call, "Content-Length: 7", "Content-Length: +7", 1) + call)
	if got := strings.Count(out, "HTTP/1.1 200"); got != 2 || strings.Count(out, "HTTP/1.1 400") != 1 {
		t.Fatalf("answers %q", out)
	}
	if governed, refused := g.seen(); len(governed) != 2 || len(refused) != 1 {
		t.Fatalf("governed %d, refused %v", len(governed), refused)
	}
}

func TestChunkedBodyInSmallPieces(t *testing.T) {
	g := newRig(t)
	c := g.connect()
	request := "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n, my world\r\n0\r\n\r\n"
	answers := bufio.NewReader(c)
	for range 2 {
		for i := range len(request) {
			if _, err := c.Write([]byte{request[i]}); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Body") != "15" {
			t.Fatal(resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if governed, _ := g.seen(); string(governed[1].Body) != "hello, my world" {
		t.Fatalf("body %q", governed[1].Body)
	}
}

func TestLargeBodyAndLimit(t *testing.T) {
	g := newRig(t)
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1 << 20, 1<<20 + 1, 3 << 20} {
			var body io.Reader = bytes.NewReader(bytes.Repeat([]byte("x"), size))
			if chunked {
				body = io.MultiReader(body)
			}
			resp, err := http.Post("http://"+g.addr+"/tools/ok", "application/octet-stream", body)
			if err != nil {
				t.Fatal(size, chunked, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			want := 200
			if size > 1<<20 {
				want = 413
			}
			if resp.StatusCode != want || want == 200 && resp.Header.Get("X-Body") != fmt.Sprint(size) {
				t.Fatal(size, chunked, resp.Status)
			}
		}
	}
}

// A client that is still writing when its body is refused finds the answer, not a reset, although only a part of what
// it writes is read.
func TestLargeBodyIsAnsweredWhileItIsWritten(t *testing.T) {
	g := newRig(t)
	c := g.connect()
	if _, err := fmt.Fprintf(c, "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", 1<<30); err != nil {
		t.Fatal(err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(lingerTime / 8))
	var err error
	wrote := 0
	for piece := make([]byte, 64<<10); err == nil && wrote < 1<<30; {
		var n int
		n, err = c.Write(piece)
		wrote += n
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || wrote < lingerBytes {
		t.Errorf("%d bytes were taken, then: %v; want a writer that waits", wrote, err)
	}
	answer, _ := io.ReadAll(c)
	if statusOf(string(answer)) != 413 || !bytes.Contains(answer, []byte(`"code":"request_too_large"`)) {
		t.Errorf("%d bytes: %.80q", len(answer), answer)
	}
}

func TestPassthroughTakesLargerBodies(t *testing.T) {
	g := newRig(t, func(g *rig, _ *Config) {
		g.snapshot.Passthrough = func(host string) bool { return host == "model.test" || host == "tool.test" }
	})
	body := strings.Repeat("x", 2<<20)
	for url, want := range map[string]int{"http://model.test/v1/chat": 200, "http://other.test/v1/chat": 413, "http://tool.test/ok": 413} {
		host := strings.Split(url, "/")[2]
		out := g.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", url, host, len(body), body))
		if statusOf(out) != want {
			t.Errorf("%s: %.60q", url, out)
		}
	}
}

func TestExpectations(t *testing.T) {
	g := newRig(t)
	head := "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: %s\r\n\r\n"
	c := g.connect()
	fmt.Fprintf(c, head, "100-continue")
	answers := bufio.NewReader(c)
	if line, err := answers.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatal(line, err)
	}
	if governed, _ := g.seen(); len(governed) != 0 {
		t.Fatal("governed before its body came")
	}
	_, _ = answers.ReadString('\n')
	_, _ = io.WriteString(c, "body")
	if resp, err := http.ReadResponse(answers, nil); err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Body") != "4" {
		t.Fatal(resp, err)
	}
	if out := g.raw(fmt.Sprintf(head, "something")); statusOf(out) != 417 {
		t.Fatalf("%q", out)
	}
	if out := g.raw(strings.Replace(fmt.Sprintf(head, "100-continue"), "POST", "PUT", 1)); statusOf(out) != 405 || strings.Contains(out, "100 Continue") {
		t.Fatalf("%q", out)
	}
}

func TestWebPages(t *testing.T) {
	for field, want := range map[string]int{
		"Origin: http://evil.example": 403, "Origin: null": 403, "Sec-Fetch-Site: cross-site": 403, "Sec-Fetch-Site: same-origin": 403,
		"Sec-Fetch-Site: none": 200, "Sec-Fetch-Mode: cors": 200,
	} {
		g := newRig(t)
		if out := g.raw("POST /tools/ok HTTP/1.1\r\nHost: " + g.addr + "\r\n" + field + "\r\n\r\n"); statusOf(out) != want || strings.Contains(out, "Access-Control") {
			t.Errorf("%s: %.60q", field, out)
		}
	}
	g := newRig(t, func(_ *rig, c *Config) { c.Hosts = []string{"Sidecar.test"} })
	for host, want := range map[string]int{
		g.addr: 200, "localhost": 200, "LOCALHOST:9": 200, "sidecar.test": 200, "127.0.0.1": 200,
		"evil.test": 403, "127.0.0.1:9": 403, "127.0.0.2": 403, "localhost.evil.test": 403,
	} {
		if out := g.raw("POST /tools/ok HTTP/1.1\r\nHost: " + host + "\r\n\r\n"); statusOf(out) != want {
			t.Errorf("Host %s: %.60q", host, out)
		}
	}
}

func TestWebSocketIsRefusedAndOtherUpgradesAreNot(t *testing.T) {
	g := newRig(t)
	head := "GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAA\r\n\r\n"
	if out := g.raw(fmt.Sprintf(head, "WebSocket")); statusOf(out) != 501 {
		t.Errorf("%q", out)
	}
	if out := g.raw(fmt.Sprintf(head, "h2c")); statusOf(out) != 200 {
		t.Errorf("%q", out)
	}
	if governed, _ := g.seen(); len(governed) != 1 || len(governed[0].Header) != 0 {
		t.Errorf("governed %+v", governed)
	}
}

func TestBodiesOfGovernedCalls(t *testing.T) {
	for request, want := range map[string]int{
		"POST http://tool.test/ok HTTP/1.1\r\nHost: tool.test\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx":                400,
		"POST http://tool.test/ok HTTP/1.1\r\nHost: tool.test\r\nContent-Encoding: identity\r\nContent-Length: 1\r\n\r\nx":            200,
		"POST http://other.test/ok HTTP/1.1\r\nHost: other.test\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx":              200,
		"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\ncontent-encoding: br\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n": 400,
		"GET http://read.test/ HTTP/1.1\r\nHost: read.test\r\nContent-Length: 1\r\n\r\nx":                                             400,
		"GET http://read.test/ HTTP/1.1\r\nHost: read.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                            400,
		"GET http://read.test/ HTTP/1.1\r\nHost: read.test\r\nContent-Length: 0\r\n\r\n":                                              200,
		"GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\nContent-Length: 1\r\n\r\nx":                                           200,
	} {
		g := newRig(t)
		if out := g.raw(request); statusOf(out) != want {
			t.Errorf("%q: %.60q %v", request, out, g.details)
		}
	}
}

func TestReloadOfTheListener(t *testing.T) {
	g := newRig(t)
	request := "POST /tools/ok HTTP/1.1\r\nHost: sidecar.test\r\nContent-Length: 4\r\n\r\nbody"
	if out := g.raw(request); statusOf(out) != 403 {
		t.Errorf("%q", out)
	}
	if err := g.Use(Config{MaxRequestBytes: 4, Hosts: []string{"sidecar.test"}}); err != nil {
		t.Fatal(err)
	}
	if out := g.raw(request); statusOf(out) != 200 {
		t.Errorf("%q", out)
	}
	if err := g.Use(Config{}); err == nil {
		t.Error("a limit of 0 was taken")
	}
	if out := g.raw(strings.Replace(request, "4\r\n\r\n", "5\r\n\r\n!", 1)); statusOf(out) != 413 {
		t.Errorf("%q", out)
	}
}

func TestToolHostsPathsHaveOneSpelling(t *testing.T) {
	g := newRig(t)
	for url, want := range map[string]int{
		"http://tool.test/ok": 200, "http://tool.test/%6fk": 400, "http://tool.test/OK": 400, "http://tool.test/ok/": 400, "http://tool.test//ok": 400,
		"http://tool.test/a/../ok": 400, "http://tool.test/a;b": 400, "http://pay.test/v1/%63harges": 400, "http://other.test/a/../%6fk": 200,
	} {
		if out := g.raw("POST " + url + " HTTP/1.1\r\nHost: " + strings.Split(url, "/")[2] + "\r\n\r\n"); statusOf(out) != want {
			t.Errorf("%s: %.80q", url, out)
		}
	}
}

func TestAPanicIsAnInternalErrorAndTheNextCallIsServed(t *testing.T) {
	g := newRig(t)
	fine := g.answer
	g.answer = func(*govern.Request) *govern.Reply { panic("boom") }
	if out := g.raw(call); statusOf(out) != 500 {
		t.Fatalf("%q", out)
	}
	if _, refused := g.seen(); fmt.Sprint(refused) != "[internal]" {
		t.Fatal(refused)
	}
	g.answer = fine
	if out := g.raw(call); statusOf(out) != 200 {
		t.Fatalf("%q", out)
	}
}

func TestDrain(t *testing.T) {
	g := newRig(t)
	started, release := make(chan struct{}), make(chan struct{})
	fine := g.answer
	g.answer = func(r *govern.Request) *govern.Reply {
		close(started)
		<-release
		return fine(r)
	}
	first := make(chan string)
	go func() { first <- g.raw(call) }()
	<-started
	idle := g.connect() // an idle connection must not keep the shutdown
	ended := make(chan error)
	go func() {
		defer g.Close(context.Background())
		ended <- g.Drain(context.Background())
	}()
	for !g.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	if out := g.raw(call); statusOf(out) != 503 || !strings.Contains(out, "draining") || !strings.Contains(out, "Connection: close") {
		t.Errorf("while draining: %q", out)
	}
	close(release)
	if out := <-first; statusOf(out) != 200 || !strings.Contains(out, "Connection: close") {
		t.Errorf("the running call: %q", out)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-g.served; err != nil {
		t.Error(err)
	}
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection: %v", err)
	}
}

func TestDrainGivesUp(t *testing.T) {
	g := newRig(t)
	started := make(chan struct{})
	g.answer = func(*govern.Request) *govern.Reply { close(started); select {} }
	c := g.connect()
	_, _ = io.WriteString(c, call)
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Drain(ctx); err != context.Canceled {
		t.Fatal(err)
	}
	g.Close(ctx)
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
}

// TestAbandonedCallsAreAnswered: what outlived the drain ends with ctx, and its client is told before its connection is
// closed.
func TestAbandonedCallsAreAnswered(t *testing.T) {
	g := newRig(t)
	started, abandoned := make(chan struct{}), make(chan struct{})
	g.answer = func(r *govern.Request) *govern.Reply {
		close(started)
		<-abandoned
		return g.Refuse(r, "upstream_outcome_unknown", "")
	}
	out := make(chan string)
	go func() { out <- g.raw(call) }()
	<-started
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Drain(over); err != context.Canceled {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		g.Close(context.Background())
	}()
	for {
		c, err := net.Dial("tcp", g.addr) // the listener is closed before anything is waited for
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(abandoned)
	if out := <-out; statusOf(out) != 504 || !strings.Contains(out, "upstream_outcome_unknown") || !strings.Contains(out, "Connection: close") {
		t.Errorf("%q", out)
	}
	<-closed
}
