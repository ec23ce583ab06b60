package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// toldOf lists the events of a tool at a control plane, by request id.
func toldOf(t testing.TB, p *sidecar, tool string) (ids []string) {
	t.Helper()
	for offset := 0; ; offset += 500 {
		r := p.send("GET", fmt.Sprintf("%s/v1/events?limit=500&offset=%d", p.base(), offset), "", "Authorization", "Bearer "+operatorKey)
		var events []struct {
			Type, Tool string
			ReqID      string `json:"req_id"`
		}
		if err := json.Unmarshal([]byte(r.body), &events); err != nil || r.status != 200 {
			t.Fatalf("%d %v %s", r.status, err, r.body)
		}
		for _, e := range events {
			if e.Tool == tool && strings.HasPrefix(e.Type, "tool_") {
				ids = append(ids, e.ReqID)
			}
		}
		if len(events) < 500 {
			return ids
		}
	}
}

// TestControlEvents: what a sidecar decides is told to its control plane, each record once, through the end of either.
func TestControlEvents(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", nil)}, nil)
	s := under(t, p.base(), settings{"max_stale": "300s"}, nil)
	wanted := map[string]bool{}
	calls := func(n int) {
		for _, r := range many(n, 8, func(i int) answer {
			return s.call("pay", fmt.Sprintf(`{"n":%d}`, len(wanted)+i), "X-OnceOnly-Run-Id", "run-of-events")
		}) {
			wanted[r.header.Get("X-Request-Id")] = true
		}
	}
	arrived := func(when string) {
		t.Helper()
		eventually(t, when+": all records arrive", func() bool { return len(toldOf(t, p, "pay")) >= len(wanted) })
		ids := toldOf(t, p, "pay")
		seen := map[string]bool{}
		for _, id := range ids {
			if seen[id] || !wanted[id] {
				t.Errorf("%s: %s is told twice, or of nobody", when, id)
			}
			seen[id] = true
		}
		if len(seen) != len(wanted) {
			t.Errorf("%s: %d of %d records", when, len(seen), len(wanted))
		}
	}
	calls(250)
	arrived("whole")
	p.kill()
	calls(150)
	s.kill()
	s.launch()
	eventually(t, "it serves", s.serves)
	calls(50)
	p.run()
	arrived("after the end of both")
	r := p.send("GET", p.base()+"/v1/runs/run-of-events?limit=2000", "", "Authorization", "Bearer "+operatorKey)
	var run struct{ Total int }
	if err := json.Unmarshal([]byte(r.body), &run); err != nil || run.Total != len(wanted) {
		t.Errorf("the run has %d lines of %d", run.Total, len(wanted))
	}
	r = p.send("POST", p.base()+"/v1/events", `{"source":"x","events":[{"seq":2,"decision":"executed"},{"seq":1,"decision":"executed"}]}`, "Authorization", "Bearer "+sidecarKey)
	if r.status != 422 {
		t.Errorf("records out of order: %d %s", r.status, r.body)
	}
	r = p.send("POST", p.base()+"/v1/events", `{"source":"x","events":[{"seq":1,"decision":"executed","agent_id":"other"}]}`, "Authorization", "Bearer "+agentKey)
	if r.status == 200 {
		t.Errorf("an agent tells what sidecars did: %d %s", r.status, r.body)
	}
}

// service is a control plane as the hosted service is one: bare arrays, no agent read, no secrets, {"detail": …} errors,
// nothing of an oo-sidecar's extensions.
type service struct {
	mu       sync.Mutex
	policies []settings        // guarded by mu
	tools    []settings        // guarded by mu
	leases   map[string]*lease // guarded by mu
	events   []string          // guarded by mu: request ids
	unknown  []string          // guarded by mu: members of requests that it does not know
	fails    int               // guarded by mu: calls of fail
}

type lease struct {
	id, status, hash string
	result           json.RawMessage
	until            time.Time
	version          int
}

func (v *service) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+sidecarKey {
		say(w, 403, settings{"detail": "Invalid API key"})
		return
	}
	var body map[string]json.RawMessage
	_ = json.NewDecoder(r.Body).Decode(&body)
	text := func(name string) (s string) { _ = json.Unmarshal(body[name], &s); return s }
	known := map[string]string{"/v1/ai/lease": "key ttl metadata", "/v1/ai/extend": "key lease_id ttl", "/v1/ai/complete": "key lease_id result result_hash", "/v1/ai/cancel": "key lease_id reason"}
	if words, ok := known[r.URL.Path]; ok {
		for name := range body {
			if !strings.Contains(" "+words+" ", " "+name+" ") {
				v.unknown = append(v.unknown, r.URL.Path+" "+name)
			}
		}
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/policies":
		say(w, 200, v.policies)
	case "GET /v1/tools":
		say(w, 200, v.tools)
	case "POST /v1/events":
		v.events = append(v.events, text("req_id"))
		say(w, 200, settings{"ok": true, "event_id": len(v.events), "run_id": text("run_id")})
	case "POST /v1/ai/lease":
		v.acquire(w, text("key"), body["ttl"])
	case "GET /v1/ai/status", "GET /v1/ai/result":
		l := v.leases[r.URL.Query().Get("key")]
		if l == nil {
			say(w, 404, settings{"detail": settings{"error": "not_found"}})
			return
		}
		say(w, 200, settings{"ok": true, "status": l.shown(), "retry_after_sec": 1, "result": l.result, "result_hash": l.hash, "done_at": "2026-03-01T00:00:00Z"})
	case "POST /v1/ai/extend", "POST /v1/ai/complete", "POST /v1/ai/cancel", "POST /v1/ai/fail":
		v.step(w, r.URL.Path[len("/v1/ai/"):], v.leases[text("key")], text("lease_id"), body)
	default:
		say(w, 404, settings{"detail": "Not Found"})
	}
}

func (l *lease) shown() string {
	if l.status == "in_progress" && time.Now().After(l.until) {
		return "failed"
	}
	return l.status
}

func (v *service) acquire(w http.ResponseWriter, key string, rawTTL json.RawMessage) {
	ttl := int(number(string(rawTTL)))
	l := v.leases[key]
	if l == nil || l.status == "canceled" || l.status == "in_progress" && time.Now().After(l.until) {
		next := &lease{id: fmt.Sprintf("lease_%d", time.Now().UnixNano()), status: "in_progress", until: time.Now().Add(time.Duration(ttl) * time.Second), version: 1}
		v.leases[key] = next
		say(w, 200, settings{"ok": true, "status": "acquired", "key": key, "ttl": ttl, "ttl_left": nil, "lease_id": next.id, "version": 1, "charged": 1})
		return
	}
	status := l.status
	if status == "in_progress" {
		status = "polling"
	}
	say(w, 200, settings{"ok": true, "status": status, "key": key, "ttl": ttl, "lease_id": nil, "version": 1, "charged": 0, "retry_after_sec": 1, "result_hash": l.hash})
}

func (v *service) step(w http.ResponseWriter, act string, l *lease, id string, body map[string]json.RawMessage) {
	switch {
	case l == nil || l.id != id:
		say(w, 409, settings{"detail": settings{"error": "lease_mismatch"}})
		return
	case act == "fail":
		v.fails++
	case act == "extend":
		l.until = time.Now().Add(time.Duration(number(string(body["ttl"]))) * time.Second)
	case act == "cancel":
		l.status = "canceled"
	case act == "complete":
		l.status, l.result = "completed", body["result"]
		_ = json.Unmarshal(body["result_hash"], &l.hash)
	}
	say(w, 200, settings{"ok": true, "status": act, "ttl": number(string(body["ttl"])), "version": 2})
}

// TestControlHosted: under an API without an oo-sidecar's extensions the promises are smaller, and said so.
func TestControlHosted(t *testing.T) {
	t.Parallel()
	var declined atomic.Bool
	a := act(t, func(x *scene) {
		if strings.Contains(x.body, "declined") && !declined.Swap(true) {
			x.answer(429, "{}")
			return
		}
		ok(x)
	})
	v := &service{leases: map[string]*lease{}}
	v.policies = []settings{{"agent_id": "e2e-agent", "policy": settings{"blocked_tools": []string{"drop"}, "max_calls_per_tool": settings{"pay": 200}, "a_new_rule": 1}}}
	tool := func(name string, secret bool) settings {
		return settings{"name": name, "scope_id": "global", "url": a.URL + "/" + name, "timeout_ms": 5000, "max_retries": 0, "enabled": true, "has_secret": secret, "secret_mask": "***"}
	}
	v.tools = []settings{tool("pay", false), tool("drop", false), tool("signed", true)}
	p := newStub(t, v.serve)
	var fleet []*sidecar
	for range 3 {
		fleet = append(fleet, under(t, p.URL, settings{"lease": "remote", "results": true}, nil))
	}
	s := fleet[0]
	if r := s.call("drop", "{}"); r.code() != "tool_explicitly_blocked" {
		t.Errorf("blocked: %d %s", r.status, r.body)
	}
	if r := s.call("signed", "{}"); r.code() != "tool_secret_missing" {
		t.Errorf("without a secret: %d %s", r.status, r.body)
	}
	seen := map[int]int{}
	for _, r := range many(600, 30, func(i int) answer { return fleet[i%3].call("pay", `{"n":1}`) }) {
		seen[r.status]++
	}
	if a.ran("pay") != 1 || seen[200] != 600 {
		t.Errorf("ran %d times: %v", a.ran("pay"), seen)
	}
	if r := fleet[1].call("pay", `{"declined":1}`); r.status != 429 {
		t.Errorf("declined: %d %s", r.status, r.body)
	}
	if r := fleet[1].call("pay", `{"declined":1}`); r.status != 200 {
		t.Errorf("declined, again here: %d %s", r.status, r.body)
	}
	for _, want := range []string{"policies and tools only", "its kill switch is not seen here", "limit_scope: process", "Between sidecars", "e2e-agent.a_new_rule"} {
		if r := s.ready(); r.status != 200 || !strings.Contains(r.body, want) {
			t.Errorf("/readyz does not say %q: %s", want, r.body)
		}
	}
	v.mu.Lock()
	v.policies = []settings{{"agent_id": "e2e-agent", "policy": settings{"blocked_tools": []string{"pay"}}}}
	v.mu.Unlock()
	start := time.Now()
	eventually(t, "a policy arrives by polling", func() bool { return s.call("pay", `{"n":1}`).code() == "tool_explicitly_blocked" })
	t.Logf("a policy arrived by polling within %s (poll: 300ms)", time.Since(start).Round(time.Millisecond))
	if time.Since(start) > 3*time.Second {
		t.Errorf("it took %s", time.Since(start))
	}
	eventually(t, "all records are told", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return len(v.events) >= 605 })
	v.mu.Lock()
	if len(v.unknown) > 0 || v.fails > 0 {
		t.Errorf("it was sent %v; fail was said %d times", v.unknown, v.fails)
	}
	for key := range v.leases {
		if !strings.HasPrefix(key, "oo1s_") {
			t.Errorf("the key went out as %s", key)
		}
	}
	v.mu.Unlock()
	if out := s.export(); !strings.Contains(out, `"limit_scope":"process"`) {
		t.Error("the audit does not say who counts")
	}
}
