package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.all); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.all, got, c.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("4242 (nginx: (w) x) S 17 4242 4242 0 -1 4194560 1 0 0 0 150 25 9 9 20 0 1 0 100 1 1")
	if want := (stat{pid: 4242, parent: 17, cpu: 1750 * time.Millisecond}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 2 3", "1 (x) S a 0 0 0 0 0 0 0 0 0 0 1 1"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestFileSystemOf(t *testing.T) {
	mounts := "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/my\\040disk xfs rw 0 0\nx /tmpfoo btrfs rw 0 0\n"
	for path, want := range map[string]string{"/": "ext4", "/home/x": "ext4", "/tmp": "tmpfs", "/tmp/a": "tmpfs", "/tmp/my disk/a": "xfs", "/tmpfo": "ext4"} {
		if got := fileSystemOf(mounts, path); got != want {
			t.Errorf("%s is on %s, want %s", path, got, want)
		}
	}
}

// What the load sends must be calls that differ as said, of the size said.
func TestLoadSendsWhatItSays(t *testing.T) {
	bodies := make(chan string, 100_000)
	address := serveForTest(t, func(rc *fasthttp.RequestCtx) {
		select {
		case bodies <- string(rc.Request.Body()):
		default:
		}
		rc.Response.SetBodyRaw(answer())
	})
	for _, differ := range []bool{true, false} {
		l, err := startLoad(contender{name: "test", address: address, path: "/ok", differ: differ}, 4, 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		seen, n := map[string]int{}, 0
		for ; n < 50; n++ {
			body := <-bodies
			if seen[body]++; len(body) != requestBytes || !json.Valid([]byte(body)) {
				t.Fatalf("%d bytes were sent: %s", len(body), body)
			}
		}
		if err := l.stop(); err != nil {
			t.Fatal(err)
		}
		for len(bodies) > 0 {
			<-bodies
		}
		if want := map[bool]int{true: n, false: 1}[differ]; len(seen) != want {
			t.Errorf("differ %t: %d different of %d calls, want %d", differ, len(seen), n, want)
		}
	}
}

// An answer that is not what is measured must end the run: a fast refusal is no throughput.
func TestLoadRefusesWrongAnswers(t *testing.T) {
	for name, h := range map[string]fasthttp.RequestHandler{
		"status":   func(rc *fasthttp.RequestCtx) { rc.SetStatusCode(503); rc.Response.SetBodyRaw(answer()) },
		"length":   func(rc *fasthttp.RequestCtx) { rc.Response.SetBodyRaw(answer()[:10]) },
		"unmarked": func(rc *fasthttp.RequestCtx) { rc.Response.SetBodyRaw(answer()) },
		"chunked": func(rc *fasthttp.RequestCtx) {
			rc.Response.Header.Set("X-OnceOnly-Decision", "executed")
			rc.Response.SetBodyStream(strings.NewReader(string(answer())), -1)
		},
	} {
		if err := callOnce(serveForTest(t, h), "/ok", executed, 1); err == nil {
			t.Errorf("%s: was taken for the answer", name)
		}
	}
	right := serveForTest(t, func(rc *fasthttp.RequestCtx) {
		rc.Response.Header.SetNoDefaultContentType(true)
		rc.Response.Header.Set("X-OnceOnly-Decision", "executed")
		rc.Response.SetBodyRaw(answer())
	})
	if err := callOnce(right, "/ok", "X-Onceonly-Decision: executed", 1); err != nil { // as fasthttp spells it
		t.Errorf("the right answer: %v", err)
	}
}

// The bare proxy must give the tool's answer, or all ratios are to something else.
func TestBareProxyPassesOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tool := roleForTest(t, func(out io.Writer) error { return serveTool(ctx, out) })
	bare := roleForTest(t, func(out io.Writer) error { return serveBare(ctx, out, tool) })
	for n := range uint64(3) {
		if err := callOnce(bare, "/ok", "", n); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	r := &results{samples: map[string]map[int][]sample{
		"a": {1: {{perSecond: 10}, {perSecond: 60}, {perSecond: 20}}},
		"b": {1: {{perSecond: 10}, {perSecond: 20}, {perSecond: 10}}},
	}}
	if got := fmt.Sprint(r.ratios("a", "b", 1, throughput)); got != "[1 2 3]" {
		t.Errorf("got %s", got)
	}
	if got := r.ratios("a", "absent", 1, throughput); len(got) != 0 {
		t.Errorf("over one that did not run: %v", got)
	}
}

func serveForTest(t *testing.T, h fasthttp.RequestHandler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go (&fasthttp.Server{Handler: h}).Serve(l)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// roleForTest runs a role in this process and returns the address that it prints.
func roleForTest(t *testing.T, role func(io.Writer) error) string {
	r, w := io.Pipe()
	go func() { w.CloseWithError(role(w)) }()
	var address string
	if _, err := fmt.Fscanln(r, &address); err != nil {
		t.Fatal(err)
	}
	return address
}
