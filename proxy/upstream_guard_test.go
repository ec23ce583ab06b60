package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// What arrives behind a whole answer is never the answer to the next call, and the next call runs once.
func TestExtraBytesAreNeverTheNextAnswer(t *testing.T) {
	const stale = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTALE"
	for name, behind := range map[string]string{"a second answer": stale, "junk": "x", "an empty line": "\r\n", "half a head": "HTTP/1.1 "} {
		for _, together := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				noLeaks(t)
				arrived := make(chan struct{}, 2)
				read := make(chan struct{}, 2)
				x := newRawTool(t, func(c *rawConn) {
					c.request()
					if together {
						c.say(okAnswer + behind)
					} else {
						c.say(okAnswer)
						<-read
						c.say(behind)
					}
					arrived <- struct{}{}
					c.request() // must not come
					c.say(stale)
				})
				u := newUpstream(t, loopback)
				for range 2 {
					s := send(t, u, attemptTo(x.addr))
					s.wantWhole(t, 200, "ok")
					read <- struct{}{}
					<-arrived // on loopback what was written is there to be read
				}
				if len(x.requests()) != 2 || x.connections() != 2 {
					t.Errorf("%d executions on %d connections, want 2 on 2", len(x.requests()), x.connections())
				}
			})
		}
	}
}

// A connection that the server has closed or reset meanwhile is left alone, and the call runs once on a new one.
func TestStaleConnections(t *testing.T) {
	for name, leave := range map[string]func(c *rawConn){
		"closed": func(c *rawConn) { c.Conn.Close() },
		"reset":  func(c *rawConn) { c.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			gone, read := make(chan struct{}), make(chan struct{})
			x := newRawTool(t, func(c *rawConn) {
				c.request()
				c.say(okAnswer)
				<-read
				leave(c)
				gone <- struct{}{}
			})
			u := newUpstream(t, loopback)
			for range 20 {
				s := send(t, u, attemptTo(x.addr))
				s.wantWhole(t, 200, "ok")
				read <- struct{}{}
				<-gone
			}
			if len(x.requests()) != 20 {
				t.Errorf("%d executions of 20 calls", len(x.requests()))
			}
		})
	}
}

// A connection that dies between the look at it and the first write has taken nothing: the same attempt goes on with
// another one.
func TestConnectionDiesBeforeTheFirstByte(t *testing.T) {
	noLeaks(t)
	done := make(chan struct{})
	x := newRawTool(t, func(c *rawConn) { serving(okAnswer)(c); <-done })
	defer close(done)
	u := newUpstream(t, loopback)
	a := attemptTo(x.addr)
	send(t, u, a).wantWhole(t, 200, "ok")
	p := &u.routes.Load().pool
	c := p.take(backendOf(a), time.Now())
	if err := c.under.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.put(c, time.Now())
	send(t, u, a).wantWhole(t, 200, "ok")
	if len(x.requests()) != 2 || x.connections() != 2 {
		t.Errorf("%d executions on %d connections, want 2 on 2", len(x.requests()), x.connections())
	}
}

// A fresh connection on which the server speaks first is no HTTP; nothing is sent to it.
func TestServerSpeaksFirst(t *testing.T) {
	spoken := make(chan struct{})
	x := newRawTool(t, func(c *rawConn) { c.say("220 mail.test ESMTP\r\n"); close(spoken); c.request() })
	u := newUpstream(t, loopback)
	r := u.routes.Load()
	at, err := r.place(attemptTo(x.addr))
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := r.dialer.open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-spoken
	if newLink(conn, backend{}, nil, time.Now()).quiet() {
		t.Error("taken for a quiet connection")
	}
}

// An answer that is not read to its end takes its connection with it.
func TestClosedBody(t *testing.T) {
	noLeaks(t)
	x := newRawTool(t, serving("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000)))
	u := newUpstream(t, loopback)
	for range 3 {
		answer, _, err := u.Send(t.Context(), attemptTo(x.addr))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(answer.Body, make([]byte, 10))
		_ = answer.Body.Close()
		_ = answer.Body.Close()
		if n, err := answer.Body.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("reading after Close: %d, %v", n, err)
		}
	}
	if x.connections() != 3 {
		t.Errorf("%d connections, want 3", x.connections())
	}
}

// A Close that comes late does not touch the connection that serves another call by then.
func TestLateClose(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	first, _, err := u.Send(t.Context(), attemptTo(x.addr))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(first.Body); err != nil || string(body) != "ok" {
		t.Fatal(string(body), err)
	}
	second, _, err := u.Send(t.Context(), attemptTo(x.addr))
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Body.Close()
	if body, err := io.ReadAll(second.Body); err != nil || string(body) != "ok" {
		t.Errorf("the second answer reads %q, %v", body, err)
	}
	if x.connections() != 1 {
		t.Errorf("%d connections, want 1", x.connections())
	}
}

// io.ReadFull of the announced length is enough to give the connection back.
func TestReadToTheLastByte(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	for range 3 {
		answer, _, err := u.Send(t.Context(), attemptTo(x.addr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(answer.Body, make([]byte, answer.Length)); err != nil {
			t.Fatal(err)
		}
	}
	if x.connections() != 1 {
		t.Errorf("%d connections, want 1", x.connections())
	}
}

func TestConnectionsThatEndWithTheirAnswer(t *testing.T) {
	for name, text := range map[string]string{
		"close":      "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0":   "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"impatience": "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
	} {
		x := newRawTool(t, serving(text))
		u := newUpstream(t, loopback)
		send(t, u, attemptTo(x.addr)).wantWhole(t, 200, "ok")
		send(t, u, attemptTo(x.addr)).wantWhole(t, 200, "ok")
		if x.connections() != 2 {
			t.Errorf("%s: %d connections, want 2", name, x.connections())
		}
	}
}

// A connection that a tool with permissions opened does not serve a call without them.
func TestConnectionsDoNotLendPermissions(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, Config{})
	permitted := attemptTo(x.addr)
	permitted.Tool = &tool.Tool{Name: "permitted", Private: true}
	send(t, u, permitted).wantWhole(t, 200, "ok")

	for name, other := range map[string]*tool.Tool{"no tool": nil, "another tool": {Name: "other"}} {
		a := attemptTo(x.addr)
		a.Tool = other
		send(t, u, permitted).wantWhole(t, 200, "ok")
		t.Log(name)
		send(t, u, a).wantError(t, govern.Queued, govern.ErrDestination, "is loopback")
	}
	if n := len(x.requests()); n != 3 {
		t.Errorf("%d executions, want 3", n)
	}
}

func TestReloadGivesUpOldConnections(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	u := newUpstream(t, loopback)
	send(t, u, attemptTo(x.addr)).wantWhole(t, 200, "ok")
	running, _, err := u.Send(t.Context(), attemptTo(x.addr))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Reload(Config{AllowPrivate: []string{"10.0.0.0/33"}}); err == nil || !strings.Contains(err.Error(), "proxy.allow_private") {
		t.Fatalf("a bad configuration was taken: %v", err)
	}
	if err := u.Reload(Config{}); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(running.Body); err != nil || string(body) != "ok" {
		t.Errorf("a running call was cut: %q, %v", body, err)
	}
	send(t, u, attemptTo(x.addr)).wantError(t, govern.Queued, govern.ErrDestination, "is loopback")
	if x.connections() != 1 {
		t.Errorf("%d connections, want 1", x.connections())
	}
}

// closing is a connection of which nothing but its end matters.
type closing struct {
	net.Conn
	onClose func()
}

func (c closing) Close() error { c.onClose(); return nil }

func TestPoolBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		kept := func() (connections, backends int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.count, len(p.idle)
		}
		a, b := backend{authority: "a:80"}, backend{https: true, authority: "a:80"}
		var closed atomic.Int64
		idle := func(to backend) *link {
			return &link{to: to, born: time.Now(), patience: idleTime, under: closing{onClose: func() { closed.Add(1) }}}
		}
		first, second := idle(a), idle(a)
		p.put(first, time.Now())
		p.put(second, time.Now())
		if p.take(b, time.Now()) != nil {
			t.Error("a connection in the clear was given for one over TLS")
		}
		if p.take(a, time.Now()) != second || p.take(a, time.Now()) != first || p.take(a, time.Now()) != nil {
			t.Error("not the latest first")
		}

		p.put(first, time.Now())
		time.Sleep(idleTime - time.Second)
		p.put(second, time.Now())
		time.Sleep(time.Second)
		synctest.Wait()
		if p.take(a, time.Now()) != second || p.take(a, time.Now()) != nil || closed.Load() != 1 {
			t.Errorf("idle time is not kept: %d closed", closed.Load())
		}
		time.Sleep(lifetime)
		if p.put(second, time.Now()); closed.Load() != 2 {
			t.Error("lifetime is not kept")
		}

		closed.Store(0)
		for range idlePerHost + 3 {
			p.put(idle(a), time.Now())
		}
		if n, _ := kept(); closed.Load() != 3 || n != idlePerHost {
			t.Errorf("%d closed, %d kept", closed.Load(), n)
		}
		for i := range 2 * idleTogether {
			p.put(idle(backend{authority: string(rune('a'+i%1000)) + ":1"}), time.Now())
		}
		if n, _ := kept(); n != idleTogether {
			t.Errorf("%d kept in all", n)
		}
		time.Sleep(3 * idleTime)
		synctest.Wait()
		if n, backends := kept(); n != 0 || backends != 0 {
			t.Errorf("%d left for %d backends after a silence", n, backends)
		}

		closed.Store(0)
		p.put(idle(a), time.Now())
		p.close()
		if p.put(idle(a), time.Now()); closed.Load() != 2 {
			t.Errorf("%d closed after the end, want 2", closed.Load())
		}
	})
}

// TestGuardedWrite has many connections die at any moment around the next call: no call may run twice, and none may be
// lost without the phase that says so.
func TestGuardedWrite(t *testing.T) {
	noLeaks(t)
	x := newRawTool(t, func(c *rawConn) {
		for i := 0; c.request() != "" && i < c.n%3; i++ {
			c.say(okAnswer)
		}
		if c.n%2 == 0 {
			c.reset()
		}
	})
	u := newUpstream(t, loopback)
	var all sync.WaitGroup
	var mu sync.Mutex
	phases := map[string]govern.Phase{}
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				a := attemptTo(x.addr)
				a.Body = bytes.Repeat([]byte{byte('a' + g)}, i+1)
				s := sendWith(t.Context(), u, a)
				mu.Lock()
				if phases[string(a.Body)] = s.phase; s.err != nil && s.phase >= govern.FirstByte != errors.Is(s.err, govern.ErrBroken) {
					t.Errorf("phase %d with %v", s.phase, s.err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	ran := map[string]int{}
	for _, text := range x.requests() {
		_, body, _ := strings.Cut(text, "\r\n\r\n")
		if ran[body]++; ran[body] > 1 {
			t.Errorf("%q ran %d times", body, ran[body])
		}
	}
	for body, phase := range phases {
		if phase < govern.FirstByte && ran[body] > 0 {
			t.Errorf("%q ran and is said not to have been sent", body)
		}
	}
}
