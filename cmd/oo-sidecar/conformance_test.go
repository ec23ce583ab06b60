package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestConformance has a client of our own do what both SDKs do, and read what they read, on each kind of store.
func TestConformance(t *testing.T) {
	const policies = `policies: [{agent_id: support_bot, blocked_tools: [broken]}]`
	for kind, start := range map[string]func(t *testing.T) *governed{
		"embedded": func(t *testing.T) *governed { return newGoverned(t, policies) },
		"redis by agent": func(t *testing.T) *governed {
			return governedOn(t, t.TempDir(), fmt.Sprintf("kind: redis, seal_key: a_seal_for_tests_1234, redis: {addrs: [%q], shard: agent}, ", redistest.Start(t).Addr), policies)
		},
		"redis": func(t *testing.T) *governed {
			return governedOn(t, t.TempDir(), fmt.Sprintf("kind: redis, seal_key: a_seal_for_tests_1234, redis: {addrs: [%q]}, ", redistest.Start(t).Addr), policies)
		},
	} {
		for _, typed := range []bool{false, true} {
			sdk := map[bool]string{false: "python", true: "typescript"}[typed]
			t.Run(kind+" "+sdk, func(t *testing.T) {
				g := start(t)
				t.Cleanup(apitest.HangUp)
				doc, err := openapi()
				if err != nil {
					t.Fatal(err)
				}
				c := &conformance{t: t, g: g, SDK: apitest.SDK{Description: doc, Base: "http://" + g.listeners.api.Addr().String(), Key: opsKey, Typed: typed}}
				for _, part := range []func(){c.locks, c.leases, c.jobs, c.calls, c.policies, c.agents, c.tools, c.account, c.timelines, c.refusals} {
					part()
				}
			})
		}
	}
}

// conformance is one run of the client against one sidecar.
type conformance struct {
	apitest.SDK
	t *testing.T
	g *governed
}

// do is a call that must succeed; a bare array stands in data, as both SDKs have it.
func (c *conformance) do(method, path string, body any) map[string]any {
	c.t.Helper()
	object, err := c.Call(method, path, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return object
}

// fails is a call that must fail so.
func (c *conformance) fails(key, method, path string, body any, kind string, status int, word string) {
	c.t.Helper()
	other := c.SDK
	other.Key = key
	_, err := other.Call(method, path, body)
	var e *apitest.APIError
	if !errors.As(err, &e) || e.Kind != kind || e.Status != status || word != "" && e.Detail["error"] != word {
		c.t.Errorf("%s %s: %v, want %s %d %s", method, path, err, kind, status, word)
	}
}

// is holds members of an answer against what is wanted.
func (c *conformance) is(object map[string]any, want map[string]any) {
	c.t.Helper()
	for name, v := range want {
		if fmt.Sprint(object[name]) != fmt.Sprint(v) {
			c.t.Errorf("%s is %v, want %v in %v", name, object[name], v, object)
		}
	}
}

type m = map[string]any

func (c *conformance) locks() {
	results := make([]apitest.LockResult, 50)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			r, err := c.CheckLock("käy:1/ä", 5)
			if err != nil {
				c.t.Error(err)
			}
			results[i] = r
		})
	}
	all.Wait()
	locked, first := 0, ""
	for _, r := range results {
		if r.Locked {
			locked++
			continue
		}
		if first == "" {
			first = r.FirstSeen
		}
		if !r.Duplicate || r.FailOpen || r.FirstSeen != first || r.TTL != 10 || r.RequestID == "" {
			c.t.Errorf("%+v", r)
		}
	}
	if locked != 1 || !strings.HasSuffix(first, "Z") {
		c.t.Errorf("%d callers have the lock; first seen %q", locked, first)
	}
}

func (c *conformance) leases() {
	ran := 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			r, err := c.RunFn("order 7", 30, func() (map[string]any, error) {
				mu.Lock()
				defer mu.Unlock()
				ran++
				return m{"order": 7}, nil
			})
			if err != nil || !r.OK || r.Status != "completed" || fmt.Sprint(r.Result) != "map[order:7]" {
				c.t.Errorf("%+v %v", r, err)
			}
		})
	}
	all.Wait()
	if ran != 1 {
		c.t.Errorf("the work was done %d times", ran)
	}
	if _, err := c.RunFn("bad", 30, func() (map[string]any, error) { return nil, errors.New("boom") }); err == nil {
		c.t.Error("the work's own error is lost")
	}
	if r, err := c.RunFn("bad", 30, func() (map[string]any, error) { return m{}, nil }); err != nil || r.OK || r.ErrorCode != "fn_error" {
		c.t.Errorf("%+v %v", r, err)
	}
	lease := c.do("POST", "/ai/lease", m{"key": "by hand", "ttl": 30})
	c.is(lease, m{"status": "acquired", "version": 1, "charged": 1, "ttl_left": nil})
	c.is(c.do("POST", "/ai/lease", m{"key": "by hand"}), m{"status": "polling", "lease_id": nil, "charged": 0, "retry_after_sec": 5})
	c.is(c.do("GET", "/ai/status?key=by+hand", nil), m{"status": "in_progress", "lease_id": nil, "version": 1})
	step := m{"key": "by hand", "lease_id": lease["lease_id"], "ttl": 60}
	c.is(c.do("POST", "/ai/extend", step), m{"status": "extended", "version": 2, "ttl": 60})
	c.fails(opsKey, "POST", "/ai/complete", m{"key": "by hand", "lease_id": "lease_x"}, "ApiError", 409, "lease_mismatch")
	c.is(c.do("POST", "/ai/complete", step), m{"status": "completed"})
	c.fails(opsKey, "POST", "/ai/fail", m{"key": "by hand", "lease_id": lease["lease_id"], "error_code": "late"}, "ApiError", 409, "already_completed")
	c.fails(opsKey, "POST", "/ai/extend", step, "ApiError", 409, "") // a heartbeat that comes late
	c.is(c.do("GET", "/ai/result?key=by+hand", nil), m{"ok": true, "status": "completed", "result": nil})
	lease = c.do("POST", "/ai/lease", m{"key": "given up"})
	c.is(c.do("POST", "/ai/cancel", m{"key": "given up", "lease_id": lease["lease_id"], "reason": "no"}), m{"status": "canceled"})
	c.is(c.do("GET", "/ai/status?key=given+up", nil), m{"status": "failed", "error_code": "canceled"})
	c.is(c.do("POST", "/ai/lease", m{"key": "given up"}), m{"status": "acquired", "version": 2})
	c.fails(opsKey, "GET", "/ai/status?key=nobody", nil, "ApiError", 404, "not_found")
}

func (c *conformance) jobs() {
	actions := []any{m{"tool": "charge", "args": m{"job": 1}}, m{"tool": "charge", "args": m{"job": 2}}}
	r, err := c.RunAndWait("job", m{"agent_id": "worker", "run_id": "run of the job", "actions": actions})
	if err != nil || !r.OK || len(r.Result["actions"].([]any)) != 2 {
		c.t.Errorf("%+v %v", r, err)
	}
	r, err = c.RunAndWait("blocked job", m{"agent_id": "support_bot", "actions": []any{m{"tool": "broken"}}})
	if err != nil || r.OK || r.ErrorCode != "policy_blocked" {
		c.t.Errorf("%+v %v", r, err)
	}
}

func (c *conformance) calls() {
	run := func(tool string, args map[string]any, more map[string]any) map[string]any {
		c.t.Helper()
		r, err := c.RunTool("support_bot", tool, args, more)
		if err != nil {
			c.t.Fatal(err)
		}
		return r
	}
	c.is(run("charge", m{"amount": 99.5, "run_id": "run x/y"}, m{"spend_usd": 1.0}), m{"ok": true, "allowed": true, "decision": "executed", "policy_reason": "ok", "run_id": "run x/y"})
	c.is(run("charge", m{"amount": 99.5, "run_id": "another"}, nil), m{"allowed": true, "decision": "dedup", "policy_reason": "tool_idempotency", "result": m{"id": "ch_1"}})
	c.is(run("broken", nil, nil), m{"ok": false, "allowed": false, "decision": "blocked", "policy_reason": "tool_explicitly_blocked", "result": nil})
	c.fails(opsKey, "POST", "/ai/run", m{"agent_id": "support_bot", "tool": "nobody"}, "ApiError", 404, "tool_not_found")
}

func (c *conformance) policies() {
	c.is(c.do("POST", "/policies/shop", m{"agent_id": "shop", "max_spend_usd_per_day": 5.5, "blocked_tools": []string{"x"}, "anything": 1}),
		m{"agent_id": "shop", "policy": m{"max_spend_usd_per_day": 5.5, "blocked_tools": "[x]"}})
	c.is(c.do("POST", "/policies/shop", m{"max_actions_per_hour": 3}), m{"policy": m{"max_actions_per_hour": 3, "max_spend_usd_per_day": 5.5, "blocked_tools": "[x]"}})
	desk := c.do("POST", "/policies/desk/from-template", m{"agent_id": "desk", "template": "moderate", "overrides": m{}})
	if p, _ := desk["policy"].(map[string]any); fmt.Sprint(p["max_actions_per_hour"]) != "200" {
		c.t.Errorf("%v", desk)
	}
	list, _ := c.do("GET", "/policies", nil)["data"].([]any)
	if len(list) != 3 {
		c.t.Errorf("%v", list)
	}
	c.fails(opsKey, "GET", "/policies/nobody", nil, "ApiError", 404, "policy_not_found")
	c.fails(opsKey, "POST", "/policies/desk/from-template", m{"template": "lax"}, "ValidationError", 422, "")
	c.fails(botKey, "POST", "/policies/support_bot", m{"blocked_tools": nil}, "UnauthorizedError", 403, "")
}

func (c *conformance) agents() {
	c.is(c.do("POST", "/agents/support_bot/disable", m{"reason": "r"}), m{"agent_id": "support_bot", "is_enabled": false, "disabled_reason": "r"})
	r, err := c.RunTool("support_bot", "charge", m{"n": 1}, nil)
	if err != nil || r["policy_reason"] != "agent_disabled" {
		c.t.Errorf("%v %v", r, err)
	}
	c.is(c.do("POST", "/agents/support_bot/enable", nil), m{"is_enabled": true, "disabled_reason": nil, "disabled_at": nil})
	logs, _ := c.do("GET", "/agents/support_bot/logs?limit=3", nil)["data"].([]any)
	if len(logs) != 3 || logs[0].(map[string]any)["policy_reason"] != "agent_disabled" {
		c.t.Errorf("%v", logs)
	}
	c.is(c.do("GET", "/agents/support_bot/metrics?period=hour", nil), m{"agent_id": "support_bot", "period": "hour", "total_actions": 1, "total_spend_usd": 1})
}

func (c *conformance) tools() {
	made := m{"name": "t:1.x", "url": c.g.tool.URL + "/t", "auth": m{"type": "hmac_sha256", "secret": "whisper_key"}}
	c.is(c.do("POST", "/tools", made), m{"name": "t:1.x", "scope_id": "global", "timeout_ms": 15000, "max_retries": 2, "enabled": true, "has_secret": true, "secret_mask": "***key"})
	c.is(c.do("POST", "/tools/t:1.x/toggle?scope_id=global", m{"enabled": false}), m{"name": "t:1.x", "enabled": false})
	c.is(c.do("GET", "/tools/t%3A1.x?scope_id=global", nil), m{"enabled": false})
	if list, _ := c.do("GET", "/tools?scope_id=all", nil)["data"].([]any); len(list) != 3 {
		c.t.Errorf("%v", list)
	}
	c.is(c.do("DELETE", "/tools/t:1.x?scope_id=global", nil), m{"ok": true, "deleted": "t:1.x"})
	c.fails(opsKey, "GET", "/tools/t:1.x", nil, "ApiError", 404, "tool_not_found")
}

func (c *conformance) account() {
	c.is(c.do("GET", "/me", nil), m{"plan": "agency", "is_active": true})
	c.is(c.do("POST", "/me/notifications", m{"tool_error_notifications_enabled": false}),
		m{"email_notifications_enabled": true, "tool_error_notifications_enabled": false, "run_failure_notifications_enabled": true})
	c.is(c.do("GET", "/usage?kind=make", nil), m{"usage": 49, "requests_total_month": 50})
	all := c.do("GET", "/usage/all", nil)
	c.is(all["make"].(map[string]any), m{"usage": 49})
	today := time.Now().UTC().Format(time.DateOnly)
	days, _ := c.do("GET", "/metrics?from_day="+today+"&to_day="+today, nil)["data"].([]any)
	if len(days) != 1 {
		c.t.Fatalf("%v", days)
	}
	c.is(days[0].(map[string]any), m{"day": today, "checks_total": 50, "locks_created": 1, "duplicates_blocked": 49})
	events, _ := c.do("GET", "/events?limit=500&offset=0", nil)["data"].([]any)
	var types []string
	for _, e := range events {
		types = append(types, fmt.Sprint(e.(map[string]any)["type"]))
	}
	for _, want := range []string{"locked", "duplicate", "ai_acquired", "ai_completed", "ai_failed", "ai_canceled", "tool_executed", "tool_dedup", "tool_blocked", "agent_disabled"} {
		if !slices.Contains(types, want) {
			c.t.Errorf("no event %s in %v", want, types)
		}
	}
}

func (c *conformance) timelines() {
	posted := c.do("POST", "/events", m{"run_id": "run x/y", "type": "note", "step": "plan", "data": m{"a": 1}, "extra": []int{1}})
	c.is(posted, m{"ok": true, "run_id": "run x/y"})
	line := c.do("GET", "/runs/run%20x%2Fy?limit=200&offset=0", nil)
	var types []string
	for _, e := range line["events"].([]any) {
		types = append(types, fmt.Sprint(e.(map[string]any)["type"]))
	}
	if got := strings.Join(types, " "); got != "run_started tool_call tool_result run_finished note" {
		c.t.Errorf("%s in %v", got, line)
	}
	c.is(c.do("GET", "/runs/nobody", nil), m{"total": 0, "events": "[]"})
	list := c.do("GET", "/runs?limit=50&offset=0&q=run+", nil)
	if items, _ := list["items"].([]any); len(items) != 2 {
		c.t.Errorf("%v", list)
	}
	c.fails(opsKey, "POST", "/events", m{"run_id": " ", "type": "note"}, "ValidationError", 422, "")
}

func (c *conformance) refusals() {
	c.fails("", "GET", "/me", nil, "UnauthorizedError", 401, "")
	c.fails("once_live_of_nobody_1234", "GET", "/me", nil, "UnauthorizedError", 403, "")
	c.fails(freeKey, "POST", "/policies/a/from-template", m{"agent_id": "a", "template": "strict"}, "ApiError", 403, "feature_not_available")
	c.fails(opsKey, "POST", "/check-lock", m{"key": strings.Repeat("x", 257)}, "ValidationError", 422, "")
	c.fails(opsKey, "POST", "/ai/run", m{"key": "k", "agent_id": "a", "tool": "charge"}, "ValidationError", 422, "")
	c.fails(opsKey, "GET", "/nowhere", nil, "ApiError", 404, "")
}
