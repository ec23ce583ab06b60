package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// stage is a tool that stops at one point of a call, tells that it has come there, and never goes on.
type stage struct {
	url  string
	here chan bool

	mu    sync.Mutex
	ran   map[string]int // guarded by mu: executions by the call's number
	conns int            // guarded by mu
}

// tally is the number of executions that the tool has seen of a call.
func (g *stage) tally(call string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ran[call]
}

// execute counts a call whose bytes have reached the tool. It is named by what stands behind # in its body.
func (g *stage) execute(text string) {
	_, call, _ := strings.Cut(text, "#")
	call, _, _ = strings.Cut(call, `"`)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ran[call]++
}

// point is where the sidecar is killed, and what a repeated call must find afterwards.
type point struct {
	name string
	// play is the tool's side of the first connection of a call: it returns when the sidecar shall be killed.
	play func(*stage, net.Conn, *bufio.Reader)
	// send is the agent's side; nil sends the whole call.
	send  func(io.Writer, string)
	agent bool   // the agent's side tells when to kill, not the tool's
	ran   int    // executions at the tool before the kill
	after string // what the five calls after each restart get: "run once", "unknown", "replay"
}

// until reads until the tool has seen that many bytes of the request, or all of it with 0.
func until(g *stage, c net.Conn, r *bufio.Reader, bytes int) {
	if bytes > 0 {
		part := make([]byte, bytes)
		if _, err := io.ReadFull(r, part); err != nil {
			return
		}
		g.execute("#torn\"")
		return
	}
	if h, err := read(r); err == nil {
		g.execute(h.body)
	}
}

var points = []point{
	{name: "before the claim: the request is cut", agent: true, after: "run once",
		send: func(w io.Writer, post string) { _, _ = io.WriteString(w, post[:len(post)-1]) }},
	{name: "after the claim: the tool's TLS never answers", after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) { _, _ = r.Peek(1) }},
	{name: "after the first byte", after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) { until(g, c, r, 1) }},
	{name: "within the request's body", after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) { until(g, c, r, 64<<10) }},
	{name: "after the request", ran: 1, after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) { until(g, c, r, 0) }},
	{name: "within the answer's head", ran: 1, after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) {
			until(g, c, r, 0)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le")
			drained(c)
		}},
	{name: "within the answer's body", ran: 1, after: "unknown",
		play: func(g *stage, c net.Conn, r *bufio.Reader) {
			until(g, c, r, 0)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			drained(c)
		}},
	{name: "within a stream", ran: 1, after: "unknown", agent: true,
		play: func(g *stage, c net.Conn, r *bufio.Reader) {
			until(g, c, r, 0)
			_, _ = io.WriteString(c, sseHead+chunk("data: one\n\n"))
		}},
	{name: "after the reply", ran: 1, after: "replay", agent: true,
		play: func(g *stage, c net.Conn, r *bufio.Reader) {
			until(g, c, r, 0)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
		}},
	{name: "after the end of a stream", ran: 1, after: "replay", agent: true,
		play: func(g *stage, c net.Conn, r *bufio.Reader) {
			until(g, c, r, 0)
			_, _ = io.WriteString(c, sseHead+chunk("whole")+"0\r\n\r\n")
		}},
}

// drained waits until the other side's kernel has all that was written.
func drained(c net.Conn) {
	for range 1000 {
		if unsent(c) == 0 {
			return
		}
		time.Sleep(time.Millisecond) // the kernel tells nobody
	}
}

// setting is the stage of a point. The first connection plays it; every later one is served as a good tool would.
func (p *point) setting(t testing.TB) *stage {
	g := &stage{here: make(chan bool, 1), ran: map[string]int{}}
	ln := loopback(t)
	g.url = "http://" + ln.Addr().String() + "/tool"
	if strings.Contains(p.name, "TLS") {
		g.url = "https://" + ln.Addr().String() + "/tool"
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns++
			first := g.conns == 1 && p.play != nil
			g.mu.Unlock()
			t.Cleanup(func() { c.Close() })
			go g.serve(p, c, first)
		}
	}()
	return g
}

func (g *stage) serve(p *point, c net.Conn, first bool) {
	r := bufio.NewReader(c)
	if first {
		p.play(g, c, r)
		g.here <- true
		return
	}
	if strings.HasPrefix(g.url, "https") {
		_ = tls.Server(c, &tls.Config{}).Handshake() // never trusted, and never reached
		return
	}
	for {
		h, err := read(r)
		if err != nil {
			return
		}
		g.execute(h.body)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
	}
}

// TestKillAtEveryPoint kills the sidecar with kill -9 at each point of a call's path, twice, and calls again five times
// after each restart: no key is executed twice, no completed answer is lost, and a call is unknown only from the durable
// claim on.
func TestKillAtEveryPoint(t *testing.T) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "killed\texecuted before\tafter the restart, five calls\tafter the second\texecuted in all")
	for i, p := range points {
		t.Run(p.name, func(t *testing.T) {
			g := p.setting(t)
			s := start(t, []settings{{"name": "tool", "url": g.url, "timeout": "20s"}}, nil)
			body := fmt.Sprintf(`{"call":"#%d","filler":%q}`, i, strings.Repeat("x", 200<<10))
			c := s.dial()
			post := s.post("tool", body)
			if p.send == nil {
				p.send = func(w io.Writer, post string) { _, _ = io.WriteString(w, post) }
			}
			p.send(c, post)
			if p.play != nil {
				got(t, "the tool came to its point", g.here)
			}
			var reply string
			if p.agent {
				reply = hear(t, c, p.after)
			}
			s.kill()
			before := g.tally(fmt.Sprint(i))
			s.run()
			one := s.five(t, &p, body, reply)
			s.kill()
			s.run()
			two := s.five(t, &p, body, reply)
			total := g.tally(fmt.Sprint(i))
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\n", p.name, before, one, two, total)
			if want := map[string]int{"run once": 1, "unknown": p.ran, "replay": 1}[p.after]; before != p.ran || total != want {
				t.Errorf("executed %d times before the kill and %d in all, wanted %d and %d", before, total, p.ran, want)
			}
			if n, want := s.unknowns(), map[string]int{"unknown": 1}[p.after]; n != want {
				t.Errorf("%d unknown calls are listed, wanted %d", n, want)
			}
			s.stop()
			s.verify()
		})
	}
	w.Flush()
	t.Logf("kill -9 at each point of the path:\n%s", &table)
}

// hear reads the agent's reply as far as the point wants it: its end, the first piece of a stream, or, for a request that
// was cut, nothing, once the sidecar has taken what there is of it.
func hear(t testing.TB, c net.Conn, after string) string {
	t.Helper()
	if after == "run once" {
		drained(c)
		return ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	if after == "unknown" {
		piece := make([]byte, 11)
		if _, err := io.ReadFull(resp.Body, piece); err != nil {
			t.Fatal(err)
		}
		return string(piece)
	}
	whole, err := io.ReadAll(resp.Body)
	if err != nil || string(whole) != "whole" {
		t.Fatalf("the reply is %q, %v", whole, err)
	}
	return string(whole)
}

// five repeats the call five times and says what came of it.
func (s *sidecar) five(t testing.TB, p *point, body, reply string) string {
	t.Helper()
	seen := ""
	for i := range 5 {
		r := s.invoke("tool", body)
		what := fmt.Sprint(r.status, " ", r.code())
		switch {
		case r.status == 200 && r.replayed():
			what = "replay"
		case r.status == 200:
			what = "executed"
		case r.code() == "outcome_unknown":
			what = "unknown"
		}
		fine := what == p.after && (what != "replay" || r.body == reply) || p.after == "run once" && (what == "executed" || what == "replay" && r.body == "again")
		if !fine {
			t.Errorf("call %d: %s, wanted %s: %.200s", i+1, what, p.after, r.body)
		}
		switch seen {
		case "":
			seen = what
		case what:
		default:
			seen = "executed, then replay"
		}
	}
	return seen
}

// TestKillAtAnyTime kills at random moments, of which many fall between the points that can be held from outside:
// between the claim and the first byte, between the answer's arrival and its outcome, between the outcome and the reply.
func TestKillAtAnyTime(t *testing.T) {
	a := act(t, func(x *scene) { x.answer(200, "answer to "+x.body) })
	s := start(t, []settings{a.tool("tool", settings{"max_retries": 0})}, nil)
	const rounds, parallel = 40, 4
	seen := map[string]int{}
	for round := range rounds {
		began := make(chan bool, parallel)
		type result struct {
			body string
			answer
			err error
		}
		var results []<-chan result
		for n := range parallel {
			body := fmt.Sprintf(`{"round":%d,"n":%d}`, round, n)
			results = append(results, later(func() result {
				began <- true
				a, err := trySend("POST", "http://"+s.proxy+"/tools/tool", body)
				return result{body, a, err}
			}))
		}
		got(t, "a call began", began)
		time.Sleep(rand.N(6 * time.Millisecond)) // the moment of the kill
		s.kill()
		var all []result
		for _, r := range results {
			all = append(all, got(t, "a call ended", r))
		}
		s.run()
		for _, r := range all {
			ran := a.times(r.body)
			again := s.invoke("tool", r.body)
			what := "no reply, "
			if r.err == nil && r.status == 200 {
				what = "replied, "
			}
			switch {
			case again.status == 200 && again.replayed():
				what += "replay"
			case again.status == 200:
				what += "executed anew"
			default:
				what += again.code()
			}
			what += fmt.Sprintf(", had run %d", ran)
			seen[what]++
			switch {
			case strings.HasPrefix(what, "replied") && (!again.replayed() || again.body != r.answer.body):
				t.Errorf("%s: a completed answer is lost: %s", r.body, what)
			case a.times(r.body) > 1:
				t.Errorf("%s: executed %d times: %s", r.body, a.times(r.body), what)
			case again.status == 200 && again.body != "answer to "+r.body:
				t.Errorf("%s: answered with %q", r.body, again.body)
			case again.status != 200 && (again.status != 409 || again.code() != "outcome_unknown"):
				t.Errorf("%s: %d %s", r.body, again.status, again.code())
			}
			for range 4 {
				if last := s.invoke("tool", r.body); last.status != again.status || last.status == 200 && last.body != again.body || a.times(r.body) > 1 {
					t.Errorf("%s: %d, then %d; executed %d times", r.body, again.status, last.status, a.times(r.body))
				}
			}
		}
	}
	var table strings.Builder
	for what, n := range seen {
		fmt.Fprintf(&table, "%4d  %s\n", n, what)
	}
	t.Logf("%d calls, killed at any time:\n%s", rounds*parallel, &table)
	s.stop()
	s.verify()
}
