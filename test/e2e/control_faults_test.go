package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// briefly stands before a control plane and asks it for leases as short as it gives them (10 s). answered is called when
// an answer to a lease is there and before it is passed on.
func briefly(t testing.TB, p *sidecar, answered func()) *stub {
	return newStub(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var members map[string]any
		lease := r.URL.Path == "/v1/ai/lease"
		if strings.HasPrefix(r.URL.Path, "/v1/ai/") && json.Unmarshal(body, &members) == nil && members["ttl"] != nil && members["ttl"].(float64) < 3600 {
			members["ttl"] = 10
			body, _ = json.Marshal(members)
		}
		again, _ := http.NewRequestWithContext(r.Context(), r.Method, p.base()+r.URL.RequestURI(), bytes.NewReader(body))
		again.Header = r.Header.Clone()
		resp, err := clients.Do(again)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		if lease && answered != nil {
			answered()
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(answer)
	})
}

// TestControlPaused: a sidecar that stands still for longer than its lease, between asking and sending, does not send.
func TestControlPaused(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", settings{"timeout": "2s"})}, nil)
	var one *sidecar
	var stopped atomic.Bool
	still := make(chan bool, 1)
	wire := briefly(t, p, func() {
		if stopped.CompareAndSwap(false, true) {
			_ = one.cmd.Process.Signal(syscall.SIGSTOP)
			still <- true
		}
	})
	control := settings{"lease": "remote", "timeout": "30s", "key_secret": remote["key_secret"]}
	one = under(t, wire.URL, control, nil)
	two := under(t, p.base(), remote, nil)
	first := later(func() answer { return one.call("pay", `{"n":1}`) })
	got(t, "it stands still", still)
	eventually(t, "the other one may run it", func() bool { return two.invoke("pay", `{"n":1}`).status == 200 })
	_ = one.cmd.Process.Signal(syscall.SIGCONT)
	if r := got(t, "it goes on", first); r.status == 200 && !r.replayed() {
		t.Errorf("after its lease was over: %d %s", r.status, r.body)
	}
	if n := a.ran("pay"); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

// TestControlLateRestart: a sidecar that died in a call and comes back after the lease is over takes it again: nobody
// knows whether the call ran, and no other sidecar runs it.
func TestControlLateRestart(t *testing.T) {
	t.Parallel()
	began, never := make(chan bool, 8), make(chan bool)
	t.Cleanup(func() { close(never) })
	a := act(t, func(*scene) {
		began <- true
		<-never
	})
	p := plane(t, []settings{a.tool("pay", settings{"timeout": "3s"})}, nil)
	one := under(t, briefly(t, p, nil).URL, remote, nil)
	two := under(t, p.base(), remote, nil)
	go func() {
		_, _ = trySend("POST", "http://"+one.proxy+"/tools/pay", `{"n":1}`, "Content-Type", "application/json")
	}()
	got(t, "it is called", began)
	one.kill()
	key := ""
	for _, line := range strings.Split(p.send("GET", p.base()+"/v1/events", "", "Authorization", "Bearer "+operatorKey).body, `"`) {
		if strings.HasPrefix(line, "oo1h_") {
			key = line
		}
	}
	eventually(t, "the lease of "+key+" is over", func() bool {
		r := p.send("GET", p.base()+"/v1/ai/status?key="+key, "", "Authorization", "Bearer "+operatorKey)
		return strings.Contains(r.body, "lease_expired")
	})
	one.launch()
	eventually(t, "it serves", one.serves)
	eventually(t, "it is held again", func() bool { return strings.Contains(one.ready().body, "1 of unknown outcomes") })
	if r := two.invoke("pay", `{"n":1}`); r.code() != "outcome_unknown" {
		t.Errorf("at the other sidecar: %d %s", r.status, r.body)
	}
	if n := a.ran("pay"); n != 1 || number(one.metric("oo_sidecar_possible_double_executions_total")) != 0 {
		t.Errorf("ran %d times; %v", n, one.metric("oo_sidecar_possible_double_executions_total"))
	}
}

// TestControlChangedTool: a tool gets another address. What was done under the former one is no new call, at no sidecar,
// also not at one that never saw the former one.
func TestControlChangedTool(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, nil, nil)
	register := func(path string) {
		t.Helper()
		if r := p.admin("POST", "/entries/tools", fmt.Sprintf(`{"name":"pay","url":%q}`, a.URL+path)); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}
	register("/v1/pay")
	fleet := fleetOf(t, p, nil)
	if r := fleet[0].call("pay", `{"n":1}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	register("/v2/pay")
	eventually(t, "the change arrived", func() bool {
		r := fleet[1].call("pay", fmt.Sprintf(`{"t":%d}`, time.Now().UnixNano()))
		return r.status == 200 && slices.ContainsFunc(a.requests("pay"), func(h heard) bool { return h.target == "/v2/pay" })
	})
	fresh := under(t, p.base(), remote, nil)
	for i, s := range []*sidecar{fleet[1], fleet[2], fresh} {
		r := s.call("pay", `{"n":1}`)
		for n := 0; n < 50 && r.code() == "in_flight"; n++ { // the one before is about to give its lease back
			r = s.call("pay", `{"n":1}`)
		}
		if r.code() != "result_not_kept" {
			t.Errorf("sidecar %d: %d %s", i, r.status, r.body)
		}
	}
	if n := a.times(`{"n":1}`); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

// TestControlOnRedis: a control plane whose store is Redis does what one on its own disk does.
func TestControlOnRedis(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", settings{"price_usd": "1"})}, settings{"store": settings{"kind": "redis", "seal_key": "oo_test_seal_key_1234", "redis": settings{"addrs": []string{keep(t).addr}}}})
	if r := p.admin("POST", "/entries/policies", `{"agent_id":"e2e-agent","max_spend_usd_per_day":"10.00"}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	fleet := fleetOf(t, p, settings{"results": true})
	for _, r := range many(60, 12, func(i int) answer { return fleet[i%3].call("pay", `{"n":0}`) }) {
		if r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := a.ran("pay"); n != 1 {
		t.Errorf("one call ran %d times", n)
	}
	var done, over atomic.Int64
	many(40, 10, func(i int) bool {
		switch r := fleet[i%3].call("pay", fmt.Sprintf(`{"n":%d}`, i+1)); {
		case r.status == 200:
			done.Add(1)
		case r.code() == "max_spend_usd_per_day_exceeded":
			over.Add(1)
		default:
			t.Errorf("%d %s", r.status, r.body)
		}
		return true
	})
	if done.Load() != 9 || over.Load() != 31 || a.ran("pay") != 10 {
		t.Errorf("%d done, %d refused, %d ran under a cap of 10 calls", done.Load()+1, over.Load(), a.ran("pay"))
	}
	took := arrives(t, "the kill switch", fleet, func() { p.turn("e2e-agent", "disable") },
		func(s *sidecar, n int) bool {
			return s.call("pay", fmt.Sprintf(`{"n":"%s %d"}`, s.proxy, n)).code() == "agent_disabled"
		})
	t.Logf("the kill switch arrived within %s", took)
}

// TestControlNeverRead: a sidecar that has not read its control plane yet knows no tool of its, and lets nothing pass that
// may be one: not as unregistered, and not through a tunnel.
func TestControlNeverRead(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	away := func(w http.ResponseWriter, r *http.Request) { say(w, 503, settings{}) }
	p := newStub(t, away)
	for _, mode := range []string{"deny", "pass", "govern"} {
		p.be(func(w http.ResponseWriter, r *http.Request) {
			say(w, 200, settings{"version": 1, "tools": []settings{}, "policies": []settings{}})
		})
		s := under(t, p.URL, remote, settings{"proxy": settings{"unregistered": mode, "allow_private": []string{"127.0.0.0/8"}}})
		p.be(away)
		s.stop()
		if err := os.Remove(filepath.Join(s.dir, "store", "control", "snapshot.json")); err != nil {
			t.Fatal(err)
		}
		s.launch()
		eventually(t, "it serves", s.serves)
		for what, r := range map[string]answer{
			"by name": s.invoke("pay", "{}"), "forwarded": s.forward("POST", a.URL+"/pay", "{}"),
			"a tunnel": s.say("CONNECT " + strings.TrimPrefix(a.URL, "http://") + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(a.URL, "http://") + "\r\n\r\n"),
		} {
			if r.status != 503 || r.code() != "policy_stale" || !strings.Contains(r.body, `"retryable":true`) {
				t.Errorf("%s, %s: %d %s", mode, what, r.status, r.body)
			}
		}
		if r := s.forward("GET", a.URL+"/page", ""); mode != "deny" && r.status != 200 {
			t.Errorf("%s, a read: %d %s", mode, r.status, r.body)
		}
	}
	if n := a.ran("pay"); n != 0 {
		t.Errorf("ran %d times", n)
	}
}

// TestControlCrashes: sidecars and their control plane are killed in turn, in the middle of the same calls at all of
// them. No call runs twice, and all goes on.
func TestControlCrashes(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		time.Sleep(5 * time.Millisecond) // the tool's own time
		ok(x)
	})
	p := plane(t, []settings{a.tool("pay", settings{"dedup": settings{"wait": "300ms"}})}, nil)
	fleet := fleetOf(t, p, settings{"results": true})
	all := append([]*sidecar{p}, fleet...)
	n := 0
	for round := range 12 {
		victim := all[round%4]
		const calls = 40
		var left atomic.Int64
		left.Store(calls * 3)
		over := later(func() bool {
			many(calls*3, 24, func(i int) bool {
				_, _ = trySend("POST", "http://"+fleet[i%3].proxy+"/tools/pay", fmt.Sprintf(`{"n":%d}`, n+i/3), "Content-Type", "application/json")
				left.Add(-1)
				return true
			})
			return true
		})
		eventually(t, "some calls are over", func() bool { return left.Load() < calls*3-10 })
		victim.kill()
		victim.launch()
		eventually(t, "it serves", victim.serves)
		got(t, "the calls are over", over)
		n += calls
	}
	ran := map[string]int{}
	for _, h := range a.requests("pay") {
		ran[h.body]++
	}
	for body, times := range ran {
		if times > 1 {
			t.Errorf("%s ran %d times", body, times)
		}
	}
	t.Logf("%d of %d calls ran", len(ran), n)
	eventually(t, "all goes on", func() bool {
		for i, s := range fleet {
			if r := s.call("pay", fmt.Sprintf(`{"after":%d,"t":%d}`, i, time.Now().UnixNano())); r.status != 200 {
				return false
			}
		}
		return true
	})
}
