package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

func number(n int64) *int64 { return &n }

func dollars(s string) *tool.Money {
	m, err := tool.ParseMoney(s)
	if err != nil {
		panic(err)
	}
	return &m
}

// charge is a plain tool of the shop.
func charge(path string) tool.Config {
	return tool.Config{Name: strings.Trim(path, "/"), URL: path}
}

func TestToolCallOnTheWire(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/charge")}})
	c := &apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}
	first, err := c.RunTool("support_bot", "charge", map[string]any{"amount": 99.5, "run_id": "run x/y"}, map[string]any{"spend_usd": 1.0})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"ok": true, "allowed": true, "decision": "executed", "policy_reason": "ok", "risk_level": "low",
		"result": map[string]any{"id": "ch_1"}, "run_id": "run x/y", "spend_usd": 1, "outcome": "done"} {
		if !equal(first[name], want) {
			t.Errorf("%s is %v, want %v", name, first[name], want)
		}
	}
	again, err := c.RunTool("support_bot", "charge", map[string]any{"run_id": "another", "amount": 99.5}, nil)
	if err != nil || again["decision"] != "dedup" || again["allowed"] != true || again["policy_reason"] != "tool_idempotency" || !equal(again["result"], first["result"]) || again["spend_usd"] != 0.0 {
		t.Errorf("%v %v", again, err)
	}
	if n := h.tool.calls("/charge"); n != 1 {
		t.Fatalf("the tool ran %d times", n)
	}
	if body := h.tool.bodies[0]; body != `/charge {"amount":99.5,"run_id":"run x/y"}` {
		t.Errorf("the tool got %s", body)
	}
	if got := strings.Join(h.line("run x/y"), " "); got != "run_started:started tool_call:start tool_result:executed run_finished:completed" {
		t.Error(got)
	}
	if got := strings.Join(h.line("another"), " "); got != "run_started:started tool_call:start tool_result:dedup run_finished:completed" {
		t.Error(got)
	}
	generated, err := c.RunTool("support_bot", "charge", nil, nil)
	if id, _ := generated["run_id"].(string); err != nil || !strings.HasPrefix(id, "run_") || len(h.line(id)) != 4 {
		t.Errorf("%v %v", generated, err)
	}
}

// TestTheToolGetsTheArgumentsAsTheyStand: not one byte of them goes through a JSON library.
func TestTheToolGetsTheArgumentsAsTheyStand(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/charge")}})
	args := `{ "b":9007199254740993 ,"a":[1.0e2, "\u00e4<>&"],"n":{"run_id":7}}`
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":`+args+`,"extra":{}}`).is(t, 200, map[string]any{"decision": "executed"})
	if h.tool.bodies[0] != "/charge "+args {
		t.Errorf("sent %s\ngot  %s", args, h.tool.bodies[0])
	}
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{"b":9007199254740992,"a":[100,"ä<>&"],"n":{"run_id":7}}}`).is(t, 200, map[string]any{"decision": "executed"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{"b":9007199254740993.0,"a":[100,"ä<>&"],"n":{"run_id":7},"run_id":"x"}}`).is(t, 200, map[string]any{"decision": "dedup"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{"b":9007199254740993,"a":[100,"ä<>&"],"n":{"run_id":7},"run_id":5}}`).is(t, 200, map[string]any{"decision": "executed"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge"}`).is(t, 200, map[string]any{"decision": "executed"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{}}`).is(t, 200, map[string]any{"decision": "dedup"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{"run_id":"r"}}`).is(t, 200, map[string]any{"decision": "dedup"})
	h.post("/v1/ai/run", `{"agent_id":"b","tool":"charge","args":{}}`).is(t, 200, map[string]any{"decision": "executed"})
	h.ask(otherKey, "POST", "/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{}}`).is(t, 200, map[string]any{"decision": "executed"})
}

// TestTheProxyDecidesTheSame: a call that came through the proxy and the same one through the api are one call.
func TestTheProxyDecidesTheSame(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/charge")}})
	reply := h.gov.Govern(t.Context(), &govern.Request{ID: "r", Arrived: time.Now(), Route: govern.Reverse, Tenant: "default", Agent: "support_bot", Name: "charge", Method: "POST",
		Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}}, Body: []byte(`{"amount":1}`), HasBody: true})
	if reply.Decision != govern.Executed {
		t.Fatalf("%+v", reply)
	}
	h.ask(botKey, "POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"charge","args":{"run_id":"r1","amount":1.0}}`).is(t, 200, map[string]any{"decision": "dedup"})
}

func TestToolCallsThatAreRefused(t *testing.T) {
	off := false
	tools := []tool.Config{charge("/a"), charge("/b"), charge("/c"), charge("/d"), charge("/once"), {Name: "off", URL: "/off", Enabled: &off}, charge("/delete_user"), charge("/gone")}
	h := newHouse(t, setup{tools: tools, policies: []policy.Config{
		{AgentID: "blocked", BlockedTools: []string{"a", "delete_user"}},
		{AgentID: "listed", AllowedTools: []string{"b"}},
		{AgentID: "hourly", MaxActionsPerHour: number(1)},
		{AgentID: "daily", MaxCallsPerTool: map[string]int64{"once": 1}},
		{AgentID: "poor", MaxSpendUSDPerDay: dollars("1.00")},
	}})
	if _, err := h.store.Disable(t.Context(), "killed", "why", "ops"); err != nil {
		t.Fatal(err)
	}
	n := 0
	ask := func(agent, name, spend string) got {
		n++
		return h.post("/v1/ai/run", fmt.Sprintf(`{"agent_id":%q,"tool":%q,"args":{"n":%d}%s}`, agent, name, n, spend))
	}
	ask("hourly", "a", "").is(t, 200, map[string]any{"decision": "executed"})
	ask("daily", "once", "").is(t, 200, map[string]any{"decision": "executed"})
	ask("poor", "a", `,"spend_usd":0.75`).is(t, 200, map[string]any{"decision": "executed"})
	for _, c := range []struct{ agent, name, spend, reason, risk string }{
		{"blocked", "a", "", "tool_explicitly_blocked", "medium"},
		{"blocked", "delete_user", "", "tool_explicitly_blocked", "high"},
		{"listed", "a", "", "tool_not_in_allowed_list", "medium"},
		{"hourly", "a", "", "max_actions_per_hour_exceeded", "low"},
		{"daily", "once", "", "max_calls_per_tool_exceeded", "low"},
		{"poor", "a", `,"spend_usd":0.5`, "max_spend_usd_per_day_exceeded", "low"},
		{"killed", "a", "", "agent_disabled", "high"},
		{"anybody", "off", "", "tool_disabled", ""},
	} {
		g := ask(c.agent, c.name, c.spend)
		g.is(t, 200, map[string]any{"ok": false, "allowed": false, "decision": "blocked", "policy_reason": c.reason, "result": nil})
		if c.risk != "" && g.body["risk_level"] != c.risk {
			t.Errorf("%s %s: risk %v, want %s", c.agent, c.reason, g.body["risk_level"], c.risk)
		}
		if e, _ := g.body["error"].(map[string]any); e["code"] != c.reason || e["message"] == "" || e["hint"] == "" {
			t.Errorf("%s", g.text)
		}
	}
	g := ask("anybody", "nobody.knows", "")
	g.is(t, 404, nil)
	if g.detail() != "tool_not_found" || !strings.Contains(g.text, `"tool":"nobody.knows","agent_id":"anybody"`) {
		t.Error(g.text)
	}
	if g := ask("blocked", "nobody.knows", ""); g.status != 404 {
		t.Error(g.text)
	}
	if g := ask("listed", "nobody.knows", ""); g.status != 200 || g.body["policy_reason"] != "tool_not_in_allowed_list" {
		t.Error(g.text) // the lists speak first: the api tells nobody which tools there are
	}
	if calls := h.tool.calls("/a") + h.tool.calls("/once") + h.tool.calls("/delete_user") + h.tool.calls("/off"); calls != 3 {
		t.Errorf("%d calls reached the tools", calls)
	}
	h.gov.Draining.Store(true)
	ask("anybody", "a", "").is(t, 200, map[string]any{"allowed": false, "policy_reason": "draining"})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.records {
		if r.Route != "api" || r.Tenant != "default" {
			t.Errorf("%+v", r)
		}
	}
	if len(h.records) != n-3 { // the executed ones stand in the store with their outcome
		t.Errorf("%d records of %d requests", len(h.records), n)
	}
}

func TestWhatToolsAnswer(t *testing.T) {
	h := newHouse(t, setup{})
	var tools []tool.Config
	for _, c := range []struct {
		name   string
		serve  http.HandlerFunc
		result string // JSON; empty: not allowed
		reason string
	}{
		{"object", say(200, `{"a":{"b":[1.50]}}`), `{"a":{"b":[1.50]}}`, "ok"},
		{"array", say(200, ` [1, 2]`), `{"data":[1,2]}`, "ok"},
		{"scalar", say(201, `42`), `{"value":42}`, "ok"},
		{"string", say(200, `"done"`), `{"value":"done"}`, "ok"},
		{"text", say(200, `<p>it's "done"</p>`), `{"value":"<p>it's \"done\"</p>"}`, "ok"},
		{"null", say(200, `null`), `{"value":null}`, "ok"},
		{"empty", say(200, ``), `{}`, "ok"},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, `{}`, "ok"},
		{"pieces", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"in":`)
			w.(http.Flusher).Flush()
			io.WriteString(w, `"pieces"}`)
		}, `{"in":"pieces"}`, "ok"},
		{"large", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"x":"`+strings.Repeat("x", 2<<20)+`"}`)
		}, `null`, "ok"},
		{"declined", say(402, `{"error":"card_declined"}`), "", "tool_error"},
		{"missing", say(404, ``), "", "tool_error"},
		{"broken", say(500, `boom`), "", "tool_error"},
		{"moved", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.test/", http.StatusFound)
		}, "", "tool_error"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"half":`)
			panic(http.ErrAbortHandler)
		}, "", "upstream_outcome_unknown"},
		{"cut-stream", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"half":`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "", "upstream_outcome_unknown"},
	} {
		h.tool.on("/"+c.name, c.serve)
		tools = append(tools, charge("/"+c.name))
		h.use(tools, nil)
		g := h.post("/v1/ai/run", fmt.Sprintf(`{"agent_id":"a","tool":%q}`, c.name))
		if c.result == "" {
			g.is(t, 200, map[string]any{"ok": false, "allowed": false, "decision": "blocked", "policy_reason": c.reason, "risk_level": "medium"})
			if c.reason != "tool_error" {
				continue
			}
			r, _ := g.body["result"].(map[string]any)
			if e, _ := r["error"].(map[string]any); e["status"] == nil || e["message"] == "" {
				t.Errorf("%s: %s", c.name, g.text)
			}
			continue
		}
		var want any
		if err := json.Unmarshal([]byte(c.result), &want); err != nil {
			t.Fatal(err)
		}
		g.is(t, 200, map[string]any{"ok": true, "allowed": true, "decision": "executed", "policy_reason": c.reason, "result": want})
	}
	// What may have run never runs again, and a duplicate is told so.
	for _, name := range []string{"broken", "cut", "cut-stream"} {
		h.post("/v1/ai/run", fmt.Sprintf(`{"agent_id":"a","tool":%q}`, name)).is(t, 200, map[string]any{"allowed": false, "policy_reason": "outcome_unknown", "outcome": "unknown"})
	}
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"large"}`).is(t, 200, map[string]any{"allowed": false, "policy_reason": "result_not_kept", "outcome": "done"})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"declined"}`).is(t, 200, map[string]any{"allowed": false, "policy_reason": "tool_error"})
	h.use([]tool.Config{{Name: "nowhere", URL: "http://127.0.0.1:1/x"}}, nil)
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"nowhere"}`).is(t, 200, map[string]any{"allowed": false, "policy_reason": "upstream_unreachable", "outcome": "not_sent"})
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// TestAnEnvelope: a tool registered for it gets the arguments byte for byte, with who asks and in which run.
func TestAnEnvelope(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{{Name: "mail", URL: "/mail", Body: "envelope", Price: *dollars("0.001"),
		Auth: &tool.AuthConfig{Type: "hmac_sha256", Secrets: []string{"a_secret_of_the_tool"}}}}})
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"mail","args":{"to":"x","run_id":"r7"},"spend_usd":0.0005}`).is(t, 200, map[string]any{"decision": "executed", "spend_usd": 0.001})
	var body struct {
		Tool    string          `json:"tool"`
		Args    json.RawMessage `json:"args"`
		AgentID string          `json:"agent_id"`
		RunID   string          `json:"run_id"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(h.tool.bodies[0], "/mail ")), &body); err != nil {
		t.Fatal(err)
	}
	if body.Tool != "mail" || string(body.Args) != `{"to":"x","run_id":"r7"}` || body.AgentID != "a" || body.RunID != "r7" {
		t.Errorf("%s", h.tool.bodies[0])
	}
	if header := h.tool.header["/mail"]; header.Get("X-OnceOnly-Signature") == "" || header.Get("X-OnceOnly-Run-Id") != "r7" || header.Get("Idempotency-Key") == "" {
		t.Errorf("%v", header)
	}
}

func TestToolCallsThatAreNone(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/charge")}})
	for body, loc := range map[string]string{
		`{}`:                                  "[body]",
		`{"key":"k","agent_id":"a"}`:          "[body]",
		`{"key":"k","tool":"t"}`:              "[body]",
		`{"key":null}`:                        "[body]",
		`{"agent_id":"a"}`:                    "[body tool]",
		`{"tool":"charge"}`:                   "[body agent_id]",
		`{"agent_id":"a\nb","tool":"charge"}`: "[body agent_id]",
		`{"agent_id":"a","tool":"charge","args":[]}`:                     "[body args]",
		`{"agent_id":"a","tool":"charge","args":"x"}`:                    "[body args]",
		`{"agent_id":"a","tool":"charge","args":{"run_id":"a\r\nX: y"}}`: "[body args run_id]",
		`{"agent_id":"a","tool":"charge","spend_usd":-1}`:                "[body spend_usd]",
		`{"agent_id":"a","tool":"charge","spend_usd":"1"}`:               "[body spend_usd]",
		`{"agent_id":"a","tool":"charge","spend_usd":1e300}`:             "[body spend_usd]",
		`{"key":"k","metadata":{"actions":{}}}`:                          "[body metadata actions]",
		`{"key":"k","metadata":{"actions":[1]}}`:                         "[body metadata actions 0]",
		`{"key":"k","metadata":{"actions":[{"tool":"a"},{"args":{}}]}}`:  "[body metadata actions 1 tool]",
		`{"key":"k","metadata":{"run_id":7}}`:                            "[body metadata run_id]",
	} {
		g := h.post("/v1/ai/run", body)
		list, _ := g.body["detail"].([]any)
		if g.status != 422 || len(list) == 0 || fmt.Sprint(list[0].(map[string]any)["loc"]) != loc {
			t.Errorf("%s: %d %s, want %s", body, g.status, g.text, loc)
		}
	}
	// Arguments that two parsers could read differently are the governor's to refuse, with a record.
	h.post("/v1/ai/run", `{"agent_id":"a","tool":"charge","args":{"a":1,"a":2}}`).is(t, 200, map[string]any{"allowed": false, "policy_reason": "arguments_unparseable"})
	if h.tool.calls("/charge") != 0 || len(h.records) != 1 {
		t.Error("something was sent, or nothing recorded")
	}
}

// TestADuplicateWhileItRuns: the SDKs give up after 5 s and ask again. The call goes on, whoever waits gets its answer,
// and whoever cannot wait is told so before his own deadline.
func TestADuplicateWhileItRuns(t *testing.T) {
	slow := charge("/slow")
	slow.Dedup.Wait = new(time.Duration)
	*slow.Dedup.Wait = 50 * time.Millisecond
	h := newHouse(t, setup{tools: []tool.Config{slow}})
	gate, entered := make(chan struct{}), make(chan struct{})
	h.tool.on("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-gate
		io.WriteString(w, `{"slow":true}`)
	})
	var gone sync.WaitGroup
	gone.Go(func() {
		c := &apitest.SDK{Description: openapi, Base: h.http.URL, Key: opsKey, Timeout: 100 * time.Millisecond}
		if _, err := c.RunTool("a", "slow", nil, nil); err == nil {
			t.Error("an answer before the tool gave one")
		}
	})
	<-entered
	gone.Wait()
	g := h.post("/v1/ai/run", `{"agent_id":"a","tool":"slow"}`)
	g.is(t, 200, map[string]any{"allowed": false, "decision": "blocked", "policy_reason": "in_flight"})
	if e, _ := g.body["error"].(map[string]any); e["retryable"] != true || e["retry_after_s"] == nil {
		t.Error(g.text)
	}
	close(gate)
	until(t, "the answer is kept", func() bool {
		g = h.post("/v1/ai/run", `{"agent_id":"a","tool":"slow"}`)
		return g.body["decision"] == "dedup"
	})
	g.is(t, 200, map[string]any{"result": map[string]any{"slow": true}})
	if n := h.tool.calls("/slow"); n != 1 {
		t.Fatalf("the tool ran %d times", n)
	}
}

// TestWaitersGetTheAnswer: many callers at once of one call.
func TestWaitersGetTheAnswer(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/slow")}})
	h.tool.on("/slow", func(w http.ResponseWriter, _ *http.Request) {
		until(t, "the others wait", func() bool { return h.gov.Running() >= 40 })
		io.WriteString(w, `{"n":1}`)
	})
	decisions := map[any]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			r, err := (&apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}).RunTool("support_bot", "slow", map[string]any{"x": 1}, nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r["allowed"] != true || !equal(r["result"], map[string]any{"n": 1}) {
				t.Errorf("%v %v", r, err)
			}
			decisions[r["decision"]]++
		})
	}
	all.Wait()
	if decisions["executed"] != 1 || decisions["dedup"] != 39 || h.tool.calls("/slow") != 1 {
		t.Fatal(decisions, h.tool.calls("/slow"))
	}
}

// TestADuplicateIsToldInTime: whatever the tool's own patience, an SDK hears before its 5 seconds are over.
func TestADuplicateIsToldInTime(t *testing.T) {
	t.Parallel()
	h := newHouse(t, setup{tools: []tool.Config{charge("/slow")}})
	reached, gate := h.tool.hang("/slow")
	c := &apitest.SDK{Description: openapi, Base: h.http.URL, Key: opsKey}
	var first sync.WaitGroup
	first.Go(func() { _, _ = c.RunTool("a", "slow", nil, nil) })
	<-reached
	r, err := c.RunTool("a", "slow", nil, nil)
	if err != nil || r["policy_reason"] != "in_flight" || r["allowed"] != false {
		t.Errorf("%v %v", r, err)
	}
	close(gate)
	first.Wait()
}
