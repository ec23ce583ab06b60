package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var remote = settings{"lease": "remote", "key_secret": "a-secret-of-all-sidecars"}

// fleetOf starts three sidecars with remote leases under one control plane.
func fleetOf(t testing.TB, p *sidecar, more settings) (fleet []*sidecar) {
	t.Helper()
	for range 3 {
		control := settings{}
		for k, v := range remote {
			control[k] = v
		}
		for k, v := range more {
			control[k] = v
		}
		fleet = append(fleet, under(t, p.base(), control, nil))
	}
	return fleet
}

// TestControlOneKey: the same call at three sidecars, 5,000 times, runs once; what the others get is the answer where the
// control plane may have it, else 410.
func TestControlOneKey(t *testing.T) {
	for name, results := range map[string]bool{"results": true, "hashes": false} {
		t.Run(name, func(t *testing.T) {
			a := act(t, func(x *scene) {
				time.Sleep(20 * time.Millisecond) // the tool's own time
				ok(x)
			})
			p := plane(t, []settings{a.tool("pay", nil)}, nil)
			fleet := fleetOf(t, p, settings{"results": results})
			n := 5000
			if !results {
				n = 300
			}
			start := time.Now()
			all := many(n, 48, func(i int) answer { return fleet[i%3].call("pay", `{"amount":1}`) })
			seen := map[string]int{}
			for _, r := range all {
				what := fmt.Sprint(r.status, " ", r.code())
				if seen[what]++; seen[what] == 1 {
					t.Logf("%s: %.300s", what, r.body)
				}
			}
			t.Logf("%d calls at three sidecars in %s: %v", n, time.Since(start).Round(time.Millisecond), seen)
			if ran := a.ran("pay"); ran != 1 {
				t.Errorf("ran %d times", ran)
			}
			if wanted := map[bool]string{true: "200 ", false: "410 result_not_kept"}[results]; results && seen["200 "] != n || seen[wanted] == 0 || len(seen) > 2 {
				t.Errorf("%v, wanted %s", seen, wanted)
			}
			first := all[0].body
			for _, r := range all {
				if results && r.body != first {
					t.Fatalf("two answers: %s and %s", first, r.body)
				}
			}
		})
	}
}

// TestControlSharedCap: three sidecars share the caps of one agent, exactly; failed and unsent calls give back what they
// took.
func TestControlSharedCap(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		if strings.Contains(x.body, `"declined"`) {
			x.answer(402, "{}")
			return
		}
		ok(x)
	})
	p := plane(t, []settings{a.tool("pay", settings{"price_usd": "0.5"}), {"name": "gone", "url": "http://127.0.0.1:1/gone", "price_usd": "1"}}, nil)
	if r := p.admin("POST", "/entries/policies", `{"agent_id":"e2e-agent","max_calls_per_tool":{"pay":40},"max_spend_usd_per_day":"15.00"}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	fleet := fleetOf(t, p, nil)
	for i := range 6 {
		if r := fleet[i%3].call("gone", fmt.Sprintf(`{"n":%d}`, i)); r.status != 502 {
			t.Errorf("unreachable: %d %s", r.status, r.body)
		}
		if r := fleet[i%3].call("pay", fmt.Sprintf(`{"declined":%d}`, i)); r.status != 402 {
			t.Errorf("declined: %d %s", r.status, r.body)
		}
	}
	var done, over atomic.Int64
	many(150, 30, func(i int) bool {
		switch r := fleet[i%3].call("pay", fmt.Sprintf(`{"n":%d}`, i)); {
		case r.status == 200:
			done.Add(1)
		case r.status == 429 && r.code() == "max_spend_usd_per_day_exceeded":
			over.Add(1)
		default:
			t.Errorf("%d %s", r.status, r.body)
		}
		return true
	})
	if done.Load() != 30 || over.Load() != 120 {
		t.Errorf("%d calls of $0.50 under a cap of $15.00, %d refused", done.Load(), over.Load())
	}
	r := p.send("GET", p.base()+"/v1/agents/e2e-agent/metrics", "", "Authorization", "Bearer "+operatorKey)
	if !strings.Contains(r.body, `"total_spend_usd":15`) {
		t.Errorf("the control plane's own count: %s", r.body)
	}
	if !strings.Contains(fleet[0].ready().body, "limit_scope: control") || !strings.Contains(fleet[0].ready().body, "Between sidecars") {
		t.Errorf("/readyz: %s", fleet[0].ready().body)
	}
}

// TestControlPlaneFails: whatever the control plane does, nothing runs twice, nothing that ran is lost, and all goes on by
// itself.
func TestControlPlaneFails(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", nil), a.tool("lax", settings{"on_store_error": "allow"})}, nil)
	fleet := fleetOf(t, p, settings{"results": true, "max_stale": "300s"})
	one, two := fleet[0], fleet[1]
	again := func(when, body string, ran int) {
		t.Helper()
		eventually(t, when+": it goes on by itself", func() bool {
			r := two.call("pay", body)
			return r.status == 200
		})
		if n := a.ran("pay"); n != ran {
			t.Errorf("%s: ran %d times, wanted %d", when, n, ran)
		}
	}
	if r := one.call("pay", `{"n":0}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	again("whole", `{"n":0}`, 1)
	p.kill()
	r := one.call("pay", `{"n":1}`)
	r.is(t, "killed", 503, "store_unavailable", "blocked", "not_sent")
	if r := one.call("pay", `{"n":0}`); !r.replayed() {
		t.Errorf("killed: what ran here is not replayed: %d %s", r.status, r.body)
	}
	if r := one.call("lax", `{"n":1}`); r.status != 200 {
		t.Errorf("killed, on_store_error: allow: %d %s", r.status, r.body)
	}
	if r := one.call("lax", `{"n":1}`); !r.replayed() || a.ran("lax") != 1 {
		t.Errorf("a waived call is not a duplicate here: %d, ran %d", r.status, a.ran("lax"))
	}
	p.run()
	again("killed", `{"n":1}`, 2)
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	r = one.call("pay", `{"n":2}`)
	r.is(t, "paused", 503, "store_unavailable", "blocked", "not_sent")
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	again("paused", `{"n":2}`, 3)
}

// TestControlOwed: the control plane goes away while a call runs. That it ran is said when it is back, also by the next
// process, and no other sidecar runs it meanwhile or later.
func TestControlOwed(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan string, 8), make(chan bool, 8)
	a := act(t, func(x *scene) {
		began <- x.name()
		<-goOn
		if strings.Contains(x.body, "cut") {
			x.reset()
			return
		}
		ok(x)
	})
	p := plane(t, []settings{a.tool("pay", settings{"dedup": settings{"wait": "1s"}})}, nil)
	fleet := fleetOf(t, p, settings{"results": true, "max_stale": "300s"})
	one, two := fleet[0], fleet[1]
	for i, restart := range []bool{false, true} {
		body := fmt.Sprintf(`{"n":%d}`, i)
		first := later(func() answer { return one.call("pay", body) })
		got(t, "it was called", began)
		p.kill()
		goOn <- true
		if r := got(t, "it ended", first); r.status != 200 {
			t.Fatalf("the call that ran: %d %s", r.status, r.body)
		}
		if restart {
			one.kill()
			one.launch()
			eventually(t, "it serves", one.serves)
		}
		p.run()
		eventually(t, "the other sidecar hears of it", func() bool {
			r := two.call("pay", body)
			return r.replayed() || r.code() == "result_not_kept" // a body does not survive the kill
		})
		if n := a.ran("pay"); n != i+1 {
			t.Errorf("ran %d times, wanted %d", n, i+1)
		}
	}
	eventually(t, "the fleet is ready", func() bool { return one.ready().status == 200 && two.ready().status == 200 })
	lost := later(func() answer { return one.call("pay", `{"cut":1}`) })
	got(t, "it was called", began)
	waits := later(func() answer { return two.invoke("pay", `{"cut":1}`) })
	goOn <- true
	if r := got(t, "it was cut", lost); r.code() != "upstream_outcome_unknown" {
		t.Errorf("cut: %d %s", r.status, r.body)
	}
	if r := got(t, "who waited is told", waits); r.code() != "outcome_unknown" && r.code() != "in_flight" {
		t.Errorf("waited for what became unknown elsewhere: %d %s", r.status, r.body)
	}
	eventually(t, "unknown elsewhere is told as such", func() bool { return two.invoke("pay", `{"cut":1}`).code() == "outcome_unknown" })
	one.kill()
	if r := two.invoke("pay", `{"cut":1}`); r.code() != "outcome_unknown" || !strings.Contains(r.body, `"retryable":false`) {
		t.Errorf("unknown elsewhere: %d %s", r.status, r.body)
	}
	one.run()
	out, _, _ := one.cli("unknown", "ls", "-o", "json")
	key := out[strings.Index(out, `"key":`)+6:]
	key = strings.Trim(key[:strings.IndexAny(key, ",}")], "\" \n")
	if _, errs, code := one.cli("unknown", "resolve", key, "--outcome", "not-executed", "--why", "a test", "--force"); code != 0 {
		t.Fatalf("resolve: %d %s %s", code, errs, out)
	}
	goOn <- true
	goOn <- true
	eventually(t, "it is free elsewhere", func() bool {
		code := two.call("pay", `{"cut":1}`).code()
		return a.ran("pay") > 3 || a.ran("pay") == 3 && code != "in_flight" && code != "outcome_unknown"
	})
}

// TestControlAnswers: what a control plane answers that is no lease. 401, 402, 403 and 422 are never waived.
func TestControlAnswers(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	var how atomic.Value
	how.Store(func(w http.ResponseWriter, r *http.Request) { say(w, 200, settings{}) })
	p := newStub(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/snapshot") {
			if r.URL.Query().Get("after") == "5" {
				say(w, 200, settings{"version": 5, "unchanged": true})
				return
			}
			spec := func(name, allow, effect string) settings {
				return settings{"spec": settings{"name": name, "url": a.URL + "/" + name, "on_store_error": allow, "effect": effect, "dedup": settings{"wait": "200ms"}}}
			}
			say(w, 200, settings{"version": 5, "tools": []settings{spec("pay", "deny", "mutating"), spec("lax", "allow", "mutating"), spec("look", "allow", "read")},
				"policies": []settings{{"agent_id": "e2e-agent", "max_actions_per_hour": 1000}}, "agents": []settings{}})
			return
		}
		how.Load().(func(http.ResponseWriter, *http.Request))(w, r)
	})
	s := under(t, p.URL, settings{"lease": "remote", "timeout": "300ms"}, nil)
	status := func(n int, v any) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { say(w, n, v) }
	}
	detail := settings{"detail": settings{"error": "x"}}
	n := 0
	for _, c := range []struct {
		name   string
		serve  func(http.ResponseWriter, *http.Request)
		waived bool
	}{
		{"401", status(401, detail), false}, {"402", status(402, detail), false}, {"403", status(403, detail), false}, {"422", status(422, detail), false},
		{"429", status(429, detail), true}, {"500", status(500, detail), true}, {"503", status(503, detail), true},
		{"garbage", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }, true},
		{"nothing", status(200, settings{}), true},
		{"a lease without id", status(200, settings{"status": "acquired", "ttl": 60}), true},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, true},
		{"a cut", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, true},
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(2 * time.Second):
			}
		}, true},
	} {
		how.Store(c.serve)
		n++
		body := fmt.Sprintf(`{"n":%d}`, n)
		r := s.invoke("pay", body)
		r.is(t, c.name, 503, "store_unavailable", "blocked", "not_sent")
		for _, tool := range []string{"lax", "look"} {
			r := s.invoke(tool, body)
			if c.waived && r.status != 200 || !c.waived && r.code() != "store_unavailable" {
				t.Errorf("%s, %s: %d %s", c.name, tool, r.status, r.body)
			}
		}
	}
	if a.ran("pay") != 0 {
		t.Errorf("ran %d times without a lease", a.ran("pay"))
	}
	how.Store(status(200, settings{"status": "acquired", "ttl": 5, "lease_id": "lease_of_five_seconds"}))
	r := s.invoke("pay", `{"short":1}`)
	r.is(t, "a lease shorter than the tool's timeout", 503, "store_unavailable", "blocked", "not_sent")
	how.Store(status(200, settings{"status": "polling", "ttl": 60, "retry_after_sec": 5}))
	r = s.invoke("pay", `{"held":1}`)
	r.is(t, "held elsewhere", 409, "in_flight", "dedup", "")
	how.Store(status(200, settings{"status": "completed", "ttl": 60, "done_at": "2026-03-01T00:00:00Z", "result_hash": strings.Repeat("ab", 32)}))
	r = s.invoke("pay", `{"done":1}`)
	r.is(t, "done elsewhere", 410, "result_not_kept", "dedup", "done")
	if a.ran("pay") != 0 {
		t.Errorf("ran %d times", a.ran("pay"))
	}
}

// TestControlLostReplies: every answer of the control plane is lost the first time. Nothing runs twice, and nothing is
// charged twice.
func TestControlLostReplies(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", settings{"price_usd": "1"})}, nil)
	if r := p.admin("POST", "/entries/policies", `{"agent_id":"e2e-agent","max_spend_usd_per_day":"20.00"}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	var lost atomic.Int64
	wire := newStub(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		again, _ := http.NewRequestWithContext(r.Context(), r.Method, p.base()+r.URL.RequestURI(), bytes.NewReader(body))
		again.Header = r.Header.Clone()
		resp, err := clients.Do(again)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		if strings.HasPrefix(r.URL.Path, "/v1/ai/") && lost.Add(1)%2 == 1 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(answer)
	})
	s := under(t, wire.URL, remote, nil)
	two := under(t, p.base(), remote, nil)
	done := 0
	for n := range 40 {
		body := fmt.Sprintf(`{"n":%d}`, n)
		var r answer
		for range 5 {
			if r = s.call("pay", body); r.status != 503 && r.code() != "in_flight" {
				break // both say that nothing was sent and that it may be repeated
			}
		}
		switch {
		case r.status == 200:
			done++
		case r.code() != "max_spend_usd_per_day_exceeded":
			t.Errorf("call %d: %d %s", n, r.status, r.body)
		}
		if a.ran("pay") > done {
			t.Fatalf("call %d ran twice", n)
		}
	}
	if done != 20 || a.ran("pay") != 20 {
		t.Errorf("%d calls of $1 were done under a cap of $20, and ran %d times", done, a.ran("pay"))
	}
	eventually(t, "what was done is known at the other sidecar", func() bool {
		r := two.call("pay", `{"n":0}`)
		return r.code() == "result_not_kept"
	})
	if a.ran("pay") != 20 {
		t.Errorf("ran %d times", a.ran("pay"))
	}
}
