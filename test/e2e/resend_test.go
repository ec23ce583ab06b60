package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// serial answers the n-th request for a tool as the n-th script says, and all later ones as the last one.
func serial(plays map[string][]func(*scene)) func(*scene) {
	return func(x *scene) {
		p := plays[x.name()]
		p[min(x.nth, len(p))-1](x)
	}
}

func resets(x *scene) { x.reset() }

// TestRetriesOfTheSidecar: only what may safely be sent again is, under the same upstream key, with a fence that grows
// and attempts that are counted, for one charge.
func TestRetriesOfTheSidecar(t *testing.T) {
	t.Parallel()
	a := act(t, serial(map[string][]func(*scene){
		"idempotent": {status(500), resets, ok},
		"read":       {status(503), resets, ok},
		"mutating":   {status(500), ok},
		"exhausted":  {status(502)},
	}))
	s := start(t, []settings{
		a.tool("idempotent", settings{"effect": "idempotent", "max_retries": 2, "auth": signed, "price_usd": "0.10"}),
		a.tool("read", settings{"effect": "read", "max_retries": 2, "auth": signed}),
		a.tool("mutating", settings{"max_retries": 3, "auth": signed}),
		a.tool("exhausted", settings{"effect": "idempotent", "max_retries": 1, "auth": signed}),
	}, settings{"policies": []settings{{"agent_id": "e2e-agent", "max_actions_per_hour": 4, "max_spend_usd_per_day": "0.10"}}})
	for name, want := range map[string]struct{ status, runs int }{"idempotent": {200, 3}, "read": {200, 3}, "mutating": {500, 1}, "exhausted": {502, 2}} {
		r := s.call(name, `{"n":1}`)
		sent := a.requests(name)
		if r.status != want.status || len(sent) != want.runs {
			t.Errorf("%s: %d %s after %d attempts, wanted %d after %d", name, r.status, r.code(), len(sent), want.status, want.runs)
		}
		for i, h := range sent {
			if h.get("X-OnceOnly-Attempt") != fmt.Sprint(i+1) || h.body != `{"n":1}` || h.get("X-OnceOnly-Signature-V2") == "" {
				t.Errorf("%s: attempt %d says %q", name, i+1, h.get("X-OnceOnly-Attempt"))
			}
			if i == 0 {
				continue
			}
			before := sent[i-1]
			if h.get("Idempotency-Key") != before.get("Idempotency-Key") || !strings.HasPrefix(h.get("Idempotency-Key"), "oo_") {
				t.Errorf("%s: key %q became %q", name, before.get("Idempotency-Key"), h.get("Idempotency-Key"))
			}
			if name != "read" && number(h.get("X-OnceOnly-Fence")) <= number(before.get("X-OnceOnly-Fence")) {
				t.Errorf("%s: fence %s became %s", name, before.get("X-OnceOnly-Fence"), h.get("X-OnceOnly-Fence"))
			}
		}
	}
	// Four calls, seven attempts: the hour has room for none more, the day was charged once.
	more := s.call("idempotent", `{"n":2}`)
	more.is(t, "past the hour", 429, "max_actions_per_hour_exceeded", "blocked", "not_sent")
	for _, r := range s.records() {
		if r.Tool == "idempotent" && r.Decision == "executed" && (r.Attempt != 3 || r.Outcome != "done") {
			t.Errorf("the record of three attempts says %+v", r)
		}
	}
}

// TestUnknownOfAnIdempotentTool: a duplicate sends it again under the same key, and only a success settles it.
func TestUnknownOfAnIdempotentTool(t *testing.T) {
	t.Parallel()
	a := act(t, serial(map[string][]func(*scene){
		"settled":  {resets, ok},
		"doubtful": {status(500), status(409), status(401), status(404), ok},
	}))
	once := settings{"effect": "idempotent", "max_retries": 0, "auth": signed, "price_usd": "0.01"}
	s := start(t, []settings{a.tool("settled", once), a.tool("doubtful", once)},
		settings{"policies": []settings{{"agent_id": "e2e-agent", "max_actions_per_hour": 2, "max_spend_usd_per_day": "0.02"}}})
	first := s.invoke("settled", "{}")
	first.is(t, "settled, first", 504, "upstream_outcome_unknown", "executed", "unknown")
	second := s.invoke("settled", "{}")
	second.is(t, "settled, second", 200, "", "executed", "done")
	if r := s.invoke("settled", "{}"); !r.replayed() || r.body != second.body {
		t.Errorf("settled, third: %d, replayed %t", r.status, r.replayed())
	}
	for i, want := range []int{500, 409, 401, 404} {
		r := s.invoke("doubtful", "{}")
		if r.status != want && r.code() != "outcome_unknown" || r.header.Get("X-OnceOnly-Outcome") != "unknown" {
			t.Errorf("doubtful, answer %d: %d %q, outcome %q", i+1, r.status, r.code(), r.header.Get("X-OnceOnly-Outcome"))
		}
		if n := s.unknowns(); n != 1 {
			t.Errorf("after answer %d %d calls are unknown", i+1, n)
		}
	}
	last := s.invoke("doubtful", "{}")
	last.is(t, "doubtful, last", 200, "", "executed", "done")
	for name, n := range map[string]int{"settled": 2, "doubtful": 5} {
		sent := a.requests(name)
		if len(sent) != n {
			t.Fatalf("%s was sent %d times, wanted %d", name, len(sent), n)
		}
		for i := 1; i < n; i++ {
			if sent[i].get("Idempotency-Key") != sent[0].get("Idempotency-Key") || number(sent[i].get("X-OnceOnly-Fence")) <= number(sent[i-1].get("X-OnceOnly-Fence")) || sent[i].get("X-OnceOnly-Attempt") != fmt.Sprint(i+1) {
				t.Errorf("%s, request %d: key %s, fence %s after %s, attempt %s", name, i+1, sent[i].get("Idempotency-Key"), sent[i].get("X-OnceOnly-Fence"), sent[i-1].get("X-OnceOnly-Fence"), sent[i].get("X-OnceOnly-Attempt"))
			}
		}
	}
	// One charge each, however often it was sent: the caps of two were enough, and nothing is left of them.
	more := s.call("settled", `{"n":2}`)
	more.is(t, "past the caps", 429, "max_actions_per_hour_exceeded", "blocked", "not_sent")
}

// TestIdempotencyWindow: past it nobody knows whether the tool still remembers the key.
func TestIdempotencyWindow(t *testing.T) {
	t.Parallel()
	a := act(t, status(500))
	s := start(t, []settings{a.tool("pay", settings{"effect": "idempotent", "max_retries": 0, "timeout": "500ms", "dedup": settings{"idempotency_window": "2s"}})}, nil)
	s.call("pay", "{}")
	if r := s.call("pay", "{}"); r.status != 500 || a.ran("") != 2 {
		t.Errorf("within the window: %d %s, ran %d", r.status, r.code(), a.ran(""))
	}
	eventually(t, "the window closed", func() bool { return s.call("pay", "{}").code() == "outcome_unknown" })
	before := a.ran("")
	if r := s.call("pay", "{}"); r.code() != "outcome_unknown" || a.ran("") != before {
		t.Errorf("past the window: %d %s, ran %d more", r.status, r.code(), a.ran("")-before)
	}
}

// TestForceNew: an intended repeat runs once for each label, never past an unknown outcome, and only where the policy allows it.
func TestForceNew(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		if x.name() == "broken" {
			x.reset()
			return
		}
		ok(x)
	})
	tools := []settings{a.tool("pay", nil), a.tool("broken", nil)}
	users := settings{"bold": "token-of-the-bold-agent", "meek": "token-of-the-meek-agent"}
	s := start(t, tools, settings{
		"agent":    settings{"id": "e2e-agent", "proxy_users": users},
		"policies": []settings{{"agent_id": "bold", "allow_force_new": true}},
	})
	as := func(agent, name string, headers ...string) answer {
		return s.call(name, "{}", append(headers, "Proxy-Authorization", basic(agent, users[agent].(string)))...)
	}
	force := func(label string) []string { return []string{"X-OnceOnly-Force-New", label} }
	if first, plain := as("bold", "pay"), as("bold", "pay"); first.status != 200 || first.replayed() || !plain.replayed() {
		t.Errorf("without force: %d, then replayed %t", first.status, plain.replayed())
	}
	for i, label := range []string{"again", "once more"} {
		forced, retried := as("bold", "pay", force(label)...), as("bold", "pay", force(label)...)
		if forced.replayed() || forced.status != 200 || !retried.replayed() || retried.body != forced.body || a.ran("pay") != i+2 {
			t.Errorf("%s: %d, replayed %t; its retry replayed %t; ran %d", label, forced.status, forced.replayed(), retried.replayed(), a.ran("pay"))
		}
	}
	keys := map[string]bool{}
	for _, h := range a.requests("pay") {
		keys[h.get("Idempotency-Key")] = true
	}
	if len(keys) != 3 {
		t.Errorf("three executions under %d upstream keys", len(keys))
	}
	as("bold", "broken")
	past := as("bold", "broken", force("again")...)
	past.is(t, "past an unknown", 409, "outcome_unknown", "dedup", "unknown")
	meek := as("meek", "pay", force("again")...)
	meek.is(t, "where it is not allowed", 403, "force_new_denied", "blocked", "not_sent")
	if a.ran("broken") != 1 || a.ran("pay") != 3 {
		t.Errorf("broken ran %d times, pay %d", a.ran("broken"), a.ran("pay"))
	}
	high := 0
	for _, r := range s.records() {
		if r.Risk == "high" && r.Decision == "executed" {
			high++
		}
	}
	if high != 2 {
		t.Errorf("%d executions are audited as high risk, wanted 2", high)
	}
}

// TestResolve: an operator says what became of an unknown call.
func TestResolve(t *testing.T) {
	t.Parallel()
	a := act(t, serial(map[string][]func(*scene){"pay": {resets, ok}}))
	s := start(t, []settings{a.tool("pay", settings{"timeout": "100ms"})}, nil)
	key := func(body string) string {
		s.call("pay", body)
		return s.call("pay", body).header.Get("X-OnceOnly-Key")
	}
	ran, not := key(`{"n":1}`), key(`{"n":2}`)
	if out, errs, code := s.cli("unknown", "resolve", ran, "--outcome", "done", "--why", "seen in the ledger"); code != 0 {
		t.Fatalf("resolve: exit %d: %s%s", code, out, errs)
	}
	resolve := func() bool {
		_, _, code := s.cli("unknown", "resolve", not, "--outcome", "not-executed", "--why", "the ledger has none")
		return code == 0
	}
	eventually(t, "the tool's timeout had passed and it was resolved", resolve)
	one := s.call("pay", `{"n":1}`)
	one.is(t, "done", 410, "result_not_kept", "dedup", "done")
	two := s.call("pay", `{"n":2}`)
	two.is(t, "not executed", 200, "", "executed", "done")
	if sent := a.requests(""); len(sent) != 3 || sent[1].get("Idempotency-Key") != sent[2].get("Idempotency-Key") {
		t.Errorf("%d requests; the one that was resolved went out under another key", len(sent))
	}
	if n := s.unknowns(); n != 0 {
		t.Errorf("%d calls are still unknown", n)
	}
	if out := s.export("--changes"); !strings.Contains(out, "seen in the ledger") || !strings.Contains(out, "the ledger has none") {
		t.Error("the audit does not tell who resolved what")
	}
}
