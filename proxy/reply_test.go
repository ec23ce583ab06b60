package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func TestReplyKeepsOrderAndFramesItself(t *testing.T) {
	g := newRig(t)
	g.answer = func(*govern.Request) *govern.Reply {
		return &govern.Reply{Status: 201, Body: []byte("made"), Header: []tool.Header{
			{Name: "x-last", Value: "1"}, {Name: "Set-Cookie", Value: "a=b"}, {Name: "Content-Type", Value: "text/x"}, {Name: "set-cookie", Value: "c=d"},
			{Name: "Content-Length", Value: "99"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Connection", Value: "x-last"},
			{Name: "Bad Name", Value: "x"}, {Name: "X-Split", Value: "a\r\nX-Injected: 1"},
		}}
	}
	want := "HTTP/1.1 201 Created\r\nx-last: 1\r\nSet-Cookie: a=b\r\nContent-Type: text/x\r\nset-cookie: c=d\r\nContent-Length: 4\r\n\r\nmade"
	if out := g.raw(call); out != want {
		t.Fatalf("%q, want %q", out, want)
	}
}

func TestRepliesWithoutBody(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		reply  govern.Reply
		want   string
	}{
		"HEAD":              {"HEAD", govern.Reply{Status: 200}, "HTTP/1.1 200 OK\r\n\r\n"},
		"HEAD with a body":  {"HEAD", govern.Reply{Status: 403, Body: []byte("no")}, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n"},
		"HEAD and a stream": {"HEAD", govern.Reply{Status: 200, Stream: &pieces{length: 7}}, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"},
		"204":               {"POST", govern.Reply{Status: 204}, "HTTP/1.1 204 No Content\r\n\r\n"},
		"304":               {"GET", govern.Reply{Status: 304, Body: []byte("x")}, "HTTP/1.1 304 Not Modified\r\n\r\n"},
		"empty":             {"GET", govern.Reply{Status: 200}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"close":             {"GET", govern.Reply{Status: 200, Close: true}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"a tool's 1xx":      {"GET", govern.Reply{Status: 102}, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"},
	} {
		g := newRig(t)
		g.answer = func(*govern.Request) *govern.Reply { return &c.reply }
		if out := g.raw(c.method + " http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n"); out != c.want {
			t.Errorf("%s: %q, want %q", name, out, c.want)
		}
	}
}

func TestConnectionsGoOnOrEnd(t *testing.T) {
	for request, want := range map[string]int{
		"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\n\r\n":                                        2,
		"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nConnection: Close\r\n\r\n":                   1,
		"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, foo, close\r\n\r\n":  1,
		"POST /tools/ok HTTP/1.0\r\nHost: localhost\r\n\r\n":                                        1,
		"POST /tools/ok HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n":              1,
		"GET /tools/ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n":                    2, // 405 keeps it
		"OPTIONS http://other.test/ HTTP/1.1\r\nHost: other.test\r\nConnection: Keep-Alive\r\n\r\n": 2,
	} {
		g := newRig(t)
		out := g.raw(request + request)
		if got := strings.Count(out, "HTTP/1.1 "); got != want || (want == 1) != strings.Contains(out, "Connection: close\r\n") {
			t.Errorf("%q: %d answers: %q", request, got, out)
		}
	}
}

func TestLargeReplyAndDelivered(t *testing.T) {
	g := newRig(t)
	body := []byte(strings.Repeat("0123456789abcdef", 100<<10))
	delivered := make(chan bool, 4)
	g.answer = func(*govern.Request) *govern.Reply {
		return &govern.Reply{Status: 200, Body: body, Delivered: func(whole bool) { delivered <- whole }}
	}
	c := g.connect()
	answers := bufio.NewReader(c)
	for range 2 {
		_, _ = io.WriteString(c, call)
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != string(body) {
			t.Fatal(len(got), err)
		}
		if !<-delivered {
			t.Error("not delivered, says the listener")
		}
	}
}

func TestAnAgentThatLeftDidNotGetItsAnswer(t *testing.T) {
	g := newRig(t)
	started, release, delivered := make(chan struct{}), make(chan struct{}), make(chan bool, 1)
	g.answer = func(*govern.Request) *govern.Reply {
		close(started)
		<-release
		return &govern.Reply{Status: 200, Delivered: func(whole bool) { delivered <- whole }}
	}
	c := g.connect()
	_, _ = io.WriteString(c, call)
	<-started
	_ = c.SetLinger(0)
	c.Close()
	release <- struct{}{}
	if <-delivered {
		t.Error("delivered, says the listener")
	}
}

// pieces is a streamed answer.
type pieces struct {
	length int64
	all    []string
	err    error
	sent   chan struct{} // told after each piece; nil: nobody asks
	next   chan struct{} // waited for before each piece; nil: at once
	ended  chan error    // told the writer's last error
	panics bool
}

func (p *pieces) Length() int64 { return p.length }

func (p *pieces) WriteTo(_ context.Context, w govern.Flusher) (err error) {
	var failed error
	for _, s := range p.all {
		if p.next != nil {
			<-p.next
		}
		if _, err := io.WriteString(w, s); err != nil {
			failed = err
		}
		if err := w.Flush(); err != nil {
			failed = err
		}
		if p.sent != nil {
			p.sent <- struct{}{}
		}
	}
	if p.panics {
		panic("boom")
	}
	if p.ended != nil {
		p.ended <- failed
	}
	return p.err
}

func TestStreams(t *testing.T) {
	broken := errors.New("cut")
	const get11, get10 = "GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n", "GET http://other.test/ HTTP/1.0\r\n\r\n"
	for name, c := range map[string]struct {
		request string
		stream  pieces
		want    string // what comes back of one request
		goesOn  bool
		reset   bool
	}{
		"chunked":           {get11, pieces{length: -1, all: []string{"one", "", "three"}}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n", true, false},
		"of known length":   {get11, pieces{length: 8, all: []string{"one", "three"}}, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nonethree", true, false},
		"to HTTP/1.0":       {get10, pieces{length: -1, all: []string{"one", "three"}}, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonethree", false, false},
		"cut, chunked":      {get11, pieces{length: -1, all: []string{"one"}, err: broken}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", false, false},
		"cut, known length": {get11, pieces{length: 8, all: []string{"one"}, err: broken}, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\none", false, false},
		"cut, to HTTP/1.0":  {get10, pieces{length: -1, all: []string{"one"}, err: broken}, "", false, true},
		"too short":         {get11, pieces{length: 8, all: []string{"one"}}, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\none", false, false},
		"too long":          {get11, pieces{length: 3, all: []string{"one", "two"}}, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", false, false},
		"panicking":         {get11, pieces{length: -1, all: []string{"one"}, panics: true}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t)
			delivered := make(chan bool, 2)
			g.answer = func(*govern.Request) *govern.Reply {
				return &govern.Reply{Status: 200, Stream: &c.stream, Delivered: func(whole bool) { delivered <- whole }}
			}
			conn := g.connect()
			_, _ = io.WriteString(conn, c.request+c.request)
			if c.goesOn {
				got := make([]byte, 2*len(c.want))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.want+c.want {
					t.Fatalf("%q, %v", got, err)
				}
				return
			}
			out, err := io.ReadAll(conn)
			if c.reset != (err != nil) && c.want == "" || c.want != "" && string(out) != c.want {
				t.Fatalf("%q, %v", out, err)
			}
			if whole := <-delivered; whole != (name == "to HTTP/1.0") {
				t.Errorf("delivered: %t", whole)
			}
		})
	}
}

func TestStreamedPiecesLeaveAtOnce(t *testing.T) {
	g := newRig(t)
	next := make(chan struct{})
	g.answer = func(*govern.Request) *govern.Reply {
		return &govern.Reply{Status: 200, Stream: &pieces{length: -1, all: []string{"a", "b"}, next: next}}
	}
	resp, err := http.Post("http://"+g.addr+"/tools/ok", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, want := range []string{"a", "b"} {
		next <- struct{}{} // the next piece is not made before this one was read
		var b [8]byte
		if n, _ := resp.Body.Read(b[:]); string(b[:n]) != want {
			t.Fatalf("%q", b[:n])
		}
	}
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Fatal(rest, err)
	}
}

func TestAStreamRunsToItsEndWhenTheAgentLeaves(t *testing.T) {
	g := newRig(t)
	s := &pieces{length: -1, all: []string{"a"}, sent: make(chan struct{}), next: make(chan struct{}), ended: make(chan error, 1)}
	for range 50 {
		s.all = append(s.all, strings.Repeat("b", 64<<10))
	}
	delivered := make(chan bool, 1)
	g.answer = func(*govern.Request) *govern.Reply {
		return &govern.Reply{Status: 200, Stream: s, Delivered: func(whole bool) { delivered <- whole }}
	}
	c := g.connect()
	_, _ = io.WriteString(c, call)
	s.next <- struct{}{}
	<-s.sent
	_ = c.SetLinger(0)
	c.Close()
	for range 50 {
		s.next <- struct{}{}
		<-s.sent
	}
	if err := <-s.ended; err == nil {
		t.Error("no write failed")
	}
	if <-delivered {
		t.Error("delivered, says the listener")
	}
}

func TestSlowHeadsAndSilentConnectionsEnd(t *testing.T) {
	g := newRig(t)
	c := newConn(g.Server, nil)
	now := time.Now()
	c.readBy = now.Add(idleTimeout) // an idle connection begins a head: the deadline must come closer
	rec := &deadlines{}
	c.Conn = rec
	c.setReadBy(now.Add(headTimeout))
	c.setReadBy(now.Add(headTimeout)) // no second timer
	c.setReadBy(time.Now().Add(idleTimeout))
	c.setReadBy(time.Now().Add(idleTimeout))
	if len(rec.set) != 2 || !rec.set[0].Equal(now.Add(headTimeout)) || rec.set[1].Before(now.Add(idleTimeout)) {
		t.Fatal(rec.set)
	}
}

// deadlines records the read deadlines that are set on it.
type deadlines struct {
	given
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}
