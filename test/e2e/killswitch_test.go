package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestKillSwitchIsFast: calls come without a pause; the last one that the tool sees was on its way when the switch was
// thrown. What is measured goes from the operator's request to the last call's arrival.
func TestKillSwitchIsFast(t *testing.T) {
	var last atomic.Int64
	a := act(t, func(x *scene) {
		last.Store(time.Now().UnixNano())
		ok(x)
	})
	s := start(t, []settings{a.tool("pay", nil)}, nil)
	var worst time.Duration
	for round := range 5 {
		var wg sync.WaitGroup
		stopped, served := make(chan bool), make(chan bool, 1)
		for worker := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stopped:
						return
					default:
					}
					r := s.call("pay", fmt.Sprintf(`{"round":%d,"worker":%d,"n":%d}`, round, worker, n))
					switch {
					case r.status == 200:
						select {
						case served <- true:
						default:
						}
					case r.code() != "agent_disabled":
						t.Errorf("%d %s", r.status, r.body)
						return
					}
				}
			})
		}
		got(t, "a call was served", served)
		thrown := time.Now()
		s.turn("e2e-agent", "disable")
		told := time.Now()
		// The operator has been answered: no call that comes now is served.
		before := a.ran("")
		for n := range 20 {
			if r := s.call("pay", fmt.Sprintf(`{"round":%d,"after":%d}`, round, n)); r.status != 403 || r.code() != "agent_disabled" {
				t.Errorf("after the switch: %d %s", r.status, r.code())
			}
		}
		close(stopped)
		wg.Wait()
		took := time.Duration(last.Load() - thrown.UnixNano())
		worst = max(worst, took, told.Sub(thrown))
		if late := a.ran("") - before; late > 4 {
			t.Errorf("%d calls reached the tool after the operator was told", late)
		}
		s.turn("e2e-agent", "enable")
		if r := s.call("pay", fmt.Sprintf(`{"round":%d,"enabled":true}`, round)); r.status != 200 {
			t.Errorf("enabled again: %d %s", r.status, r.code())
		}
	}
	t.Logf("the kill switch stopped the next call within %s (wanted: 100ms)", worst.Round(10*time.Microsecond))
	if worst > time.Second {
		t.Errorf("it took %s", worst)
	}
}

// TestKillSwitchStays: through a restart, through kill -9, and for duplicates of what was done before.
func TestKillSwitchStays(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("pay", nil)}, nil)
	s.call("pay", `{"n":0}`)
	if out, errs, code := s.cli("agent", "disable", "e2e-agent", "--reason", "it went astray"); code != 0 {
		t.Fatalf("agent disable: exit %d: %s%s", code, out, errs)
	}
	refused := func(when string) {
		t.Helper()
		for _, body := range []string{`{"n":0}`, `{"n":1}`} {
			r := s.invoke("pay", body)
			r.is(t, when, 403, "agent_disabled", "blocked", "not_sent")
		}
		r := s.forward("POST", a.URL+"/pay", `{"n":2}`)
		r.is(t, when+", forwarded", 403, "agent_disabled", "blocked", "not_sent")
	}
	refused("disabled")
	s.kill() // at once: the switch was durable before the operator was told
	s.run()
	refused("after kill -9")
	s.stop()
	s.run()
	refused("after a restart")
	if out, _, _ := s.cli("agent", "ls", "-o", "json"); !strings.Contains(out, "it went astray") {
		t.Errorf("agent ls does not say why: %s", out)
	}
	if _, errs, code := s.cli("agent", "enable", "e2e-agent"); code != 0 {
		t.Fatalf("agent enable: exit %d: %s", code, errs)
	}
	s.kill()
	s.run()
	if r := s.call("pay", `{"n":0}`); !r.replayed() || a.ran("") != 1 {
		t.Errorf("enabled: %d, replayed %t, ran %d", r.status, r.replayed(), a.ran(""))
	}
	changes := s.export("--changes")
	if !strings.Contains(changes, "agent_disabled") || !strings.Contains(changes, "agent_enabled") || !strings.Contains(changes, "it went astray") {
		t.Error("the audit does not tell of the switch")
	}
}

// TestKillSwitchOfOneAndOfAll: an agent's switch is its own; '*' is everybody's.
func TestKillSwitchOfOneAndOfAll(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	users := settings{"one": "token-of-agent-one", "two": "token-of-agent-two"}
	s := start(t, []settings{a.tool("pay", nil)}, settings{"agent": settings{"id": "e2e-agent", "proxy_users": users}})
	n := 0
	status := func(agent string) int {
		n++
		return s.call("pay", fmt.Sprintf(`{"n":%d}`, n), "Proxy-Authorization", basic(agent, users[agent].(string))).status
	}
	check := func(when string, one, two int) {
		t.Helper()
		if a, b := status("one"), status("two"); a != one || b != two {
			t.Errorf("%s: one gets %d, two %d; wanted %d and %d", when, a, b, one, two)
		}
	}
	check("before", 200, 200)
	s.turn("one", "disable")
	check("one disabled", 403, 200)
	if out, errs, code := s.cli("agent", "disable", "*", "--reason", "all of them"); code != 0 {
		t.Fatalf("agent disable '*': exit %d: %s%s", code, out, errs)
	}
	check("all disabled", 403, 403)
	s.kill()
	s.run()
	check("all disabled, after kill -9", 403, 403)
	if _, errs, code := s.cli("agent", "enable", "*"); code != 0 {
		t.Fatalf("agent enable '*': exit %d: %s", code, errs)
	}
	check("all enabled, one not", 403, 200)
}

// TestKillSwitchAndWhatRuns: running calls finish and are recorded, waiters are refused, no further attempt is made.
func TestKillSwitchAndWhatRuns(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan string, 8), map[string]chan bool{"pay": make(chan bool), "retried": make(chan bool)}
	a := act(t, func(x *scene) {
		began <- x.name()
		<-goOn[x.name()]
		if x.name() == "retried" {
			x.answer(500, "broken")
			return
		}
		ok(x)
	})
	s := start(t, []settings{a.tool("pay", nil), a.tool("retried", settings{"effect": "idempotent", "max_retries": 5})}, nil)
	first := later(func() answer { return s.call("pay", "{}") })
	got(t, "pay was called", began)
	retried := later(func() answer { return s.call("retried", "{}") })
	got(t, "retried was called", began)
	var waiters []<-chan answer
	for range 5 {
		waiters = append(waiters, later(func() answer { return s.call("pay", "{}") }))
	}
	eventually(t, "they waited", func() bool { return s.running() == 7 })
	s.turn("e2e-agent", "disable")
	close(goOn["pay"])
	close(goOn["retried"])
	if r := got(t, "the running call ended", first); r.status != 200 || r.decision() != "executed" || r.header.Get("X-OnceOnly-Outcome") != "done" {
		t.Errorf("the running call: %d %s", r.status, r.body)
	}
	for i, w := range waiters {
		if r := got(t, "a waiter was answered", w); r.status != 403 || r.code() != "agent_disabled" {
			t.Errorf("waiter %d: %d %s", i, r.status, r.code())
		}
	}
	if r := got(t, "the retried call ended", retried); r.status == 200 || a.ran("retried") != 1 {
		t.Errorf("retried: %d %s, ran %d times", r.status, r.code(), a.ran("retried"))
	}
	s.turn("e2e-agent", "enable")
	if r := s.call("pay", "{}"); !r.replayed() || a.ran("pay") != 1 {
		t.Errorf("enabled: %d, replayed %t, ran %d", r.status, r.replayed(), a.ran("pay"))
	}
	done := 0
	for _, r := range s.records() {
		if r.Tool == "pay" && r.Decision == "executed" && r.Outcome == "done" {
			done++
		}
	}
	if done != 1 {
		t.Errorf("the running call has %d records", done)
	}
}

// echo is a server that is no tool and no HTTP: it says back what it hears.
func echo(t testing.TB) string {
	t.Helper()
	ln := loopback(t)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// tunnel opens a CONNECT and says something through it.
func (s *sidecar) tunnel(target string, headers ...string) (net.Conn, answer) {
	s.t.Helper()
	c := s.dial()
	_, _ = io.WriteString(c, plain("CONNECT", target, target, "", headers...))
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"})
	if err != nil {
		s.t.Fatalf("CONNECT %s: %v", target, err)
	}
	if resp.StatusCode != 200 {
		body, _ := io.ReadAll(resp.Body)
		return nil, answer{resp.StatusCode, resp.Header, string(body)}
	}
	return c, answer{status: 200, header: resp.Header}
}

// speaks says whether the tunnel still leads to an echo.
func speaks(c net.Conn) bool {
	if _, err := io.WriteString(c, "\x00hello"); err != nil {
		return false
	}
	back := make([]byte, 6)
	_, err := io.ReadFull(c, back)
	return err == nil && string(back) == "\x00hello"
}

// TestKillSwitchClosesTunnels: nothing can be read in an opaque tunnel, so the switch cuts it; the others stay.
func TestKillSwitchClosesTunnels(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	users := settings{"one": "token-of-agent-one", "two": "token-of-agent-two"}
	s := start(t, []settings{a.tool("pay", nil)}, settings{
		"agent": settings{"id": "e2e-agent", "proxy_users": users},
		"proxy": settings{"unregistered": "pass", "resolve": settings{"elsewhere.test": "127.0.0.1"}},
	})
	target := "elsewhere.test:" + port(echo(t))
	as := func(agent string) []string {
		return []string{"Proxy-Authorization", basic(agent, users[agent].(string))}
	}
	tunnels := map[string]net.Conn{}
	for agent := range users {
		c, r := s.tunnel(target, as(agent)...)
		if c == nil || !speaks(c) {
			t.Fatalf("%s: CONNECT %d %s", agent, r.status, r.code())
		}
		tunnels[agent] = c
	}
	s.turn("one", "disable")
	if _, err := tunnels["one"].Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel of a disabled agent still speaks")
	} else if timeout, is := err.(net.Error); is && timeout.Timeout() {
		t.Error("the tunnel of a disabled agent is not closed")
	}
	if !speaks(tunnels["two"]) {
		t.Error("the tunnel of another agent was closed")
	}
	if _, r := s.tunnel(target, as("one")...); r.status != 403 || r.code() != "agent_disabled" {
		t.Errorf("another tunnel of a disabled agent: %d %s", r.status, r.code())
	}
	s.turn("*", "disable")
	if _, err := tunnels["two"].Read(make([]byte, 1)); err == nil {
		t.Error("a tunnel still speaks when all are disabled")
	} else if timeout, is := err.(net.Error); is && timeout.Timeout() {
		t.Error("a tunnel is not closed when all are disabled")
	}
	s.turn("*", "enable")
	if c, r := s.tunnel(target, as("two")...); c == nil || !speaks(c) {
		t.Errorf("enabled again: %d %s", r.status, r.code())
	}
	if total := metric(s, "oo_sidecar_opaque_tunnels_total"); !strings.Contains(total, " 3") {
		t.Errorf("three tunnels were opened; the metric says %q", total)
	}
}
