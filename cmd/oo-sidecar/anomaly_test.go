package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
)

// event is one line of /v1/events, as far as anomalies have it.
type event struct {
	Type, AgentID, Reason, Risk string
}

func (g *governed) anomalies() (list []event) {
	g.t.Helper()
	var all []struct {
		Type    string
		AgentID string `json:"agent_id"`
		Reason  string `json:"policy_reason"`
		Risk    string `json:"risk_level"`
	}
	g.get("/v1/events?limit=500", &all)
	for _, e := range all {
		if e.Type == "anomaly" {
			list = append(list, event(e))
		}
	}
	return list
}

// run calls a tool over the api and returns reason and risk.
func (g *governed) run(agent, tool, args string) string {
	g.t.Helper()
	status, text := g.ask(opsKey, "POST", "/v1/ai/run", fmt.Sprintf(`{"agent_id":%q,"tool":%q,"args":%s}`, agent, tool, args))
	if status != http.StatusOK {
		g.t.Fatal(status, text)
	}
	return member(text, "policy_reason") + " " + member(text, "risk_level")
}

// member is a string member of a JSON text.
func member(text, name string) string {
	_, after, _ := strings.Cut(text, `"`+name+`":"`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

func TestAnAgentThatHammersARefusalIsToldOfAndSwitchedOffWhereItsPolicySaysSo(t *testing.T) {
	g := newGoverned(t, `policies:
  - {agent_id: strict, blocked_tools: [broken], anomaly: disable}
  - {agent_id: loose, blocked_tools: [broken]}`)
	for _, agent := range []string{"strict", "loose"} {
		for n := range 19 {
			if got := g.run(agent, "broken", fmt.Sprint(`{"n":`, n, `}`)); got != "tool_explicitly_blocked medium" {
				t.Fatalf("%s %d: %s", agent, n, got)
			}
		}
		if got := g.run(agent, "broken", `{"n":19}`); got != "tool_explicitly_blocked high" {
			t.Errorf("%s, the twentieth: %s", agent, got)
		}
	}
	if got := g.run("strict", "charge", `{}`); got != "agent_disabled high" {
		t.Errorf("a switched off agent: %s", got)
	}
	if got := g.run("loose", "charge", `{}`); got != "ok low" {
		t.Errorf("an observed agent: %s", got)
	}
	list := g.anomalies()
	if len(list) != 2 || list[0].AgentID != "loose" || list[1].AgentID != "strict" || list[0].Risk != "high" {
		t.Fatalf("%+v", list)
	}
	why := "anomaly: identical_refusals: 20 refusals of broken (tool_explicitly_blocked) within "
	var state agentState
	g.get("/v1/agents/strict", &state)
	if !strings.HasPrefix(list[1].Reason, why) || state.IsEnabled || *state.DisabledReason != list[1].Reason {
		t.Errorf("%q, and the agent %+v", list[1].Reason, state)
	}
	g.expect(opsKey, trade{"POST", "/v1/agents/strict/enable", "", 200, `{"agent_id":"strict"…`})
	if got := g.run("strict", "broken", `{}`) + ", " + g.run("strict", "charge", `{}`); got != "tool_explicitly_blocked medium, ok low" {
		t.Errorf("let go on: %s", got)
	}
}

func TestAFirstSensitiveCallAndSpendingFarAboveThePastAreToldOf(t *testing.T) {
	dir := t.TempDir()
	shredder := httptest.NewServer(http.NotFoundHandler())
	defer shredder.Close()
	more := fmt.Sprintf(`  - {name: wipe, url: "%s/wipe", sensitive: true}
  - {name: gone, url: "http://127.0.0.1:1/gone", sensitive: true}
policies: [{agent_id: rich, anomaly: disable}]`, shredder.URL)
	g := governedIn(t, dir, more)
	past := time.Now().Truncate(time.Hour)
	for i := range 6 {
		deed := activity.Deed{Tenant: "default", Agent: "rich", Tool: "charge", Spend: 10_000}
		g.store.Book().Watch(deed, past.Add(time.Duration(i-6)*time.Hour))
		g.store.Book().Flush()
	}
	if got := g.run("poor", "gone", `{}`); got != "upstream_unreachable medium" {
		t.Errorf("a sensitive tool that was not reached: %s", got)
	}
	if got := g.run("poor", "wipe", `{"n":1}`); got != "tool_error high" {
		t.Errorf("a first use: %s", got)
	}
	if list := g.anomalies(); len(list) != 1 || list[0].Reason != "anomaly: first_sensitive_use: first call of wipe, a sensitive tool, by this agent" {
		t.Errorf("%+v", list)
	}
	g.stop()
	g = governedIn(t, dir, more)
	g.run("poor", "wipe", `{"n":2}`)
	if list := g.anomalies(); len(list) != 1 {
		t.Errorf("a second use after a restart: %+v", list)
	}
	if got := g.run("rich", "charge", `{"n":1}`); got != "ok low" {
		t.Errorf("below the least: %s", got)
	}
	if got := g.run("rich", "charge", `{"n":2}`); got != "ok high" {
		t.Errorf("far above the past: %s", got)
	}
	if got := g.run("rich", "charge", `{"n":3}`); got != "agent_disabled high" {
		t.Errorf("after it: %s", got)
	}
	want := "anomaly: spend_rate: $1.00 spent since the hour began; its 6 earlier hours with spending in 7 days averaged $0.01"
	if list := g.anomalies(); len(list) != 2 || list[0].Reason != want {
		t.Errorf("%+v", list)
	}
}

func TestProxiedCallsStandInTheTimelineOfTheirRun(t *testing.T) {
	g := newGoverned(t, "")
	for range 2 {
		r, _ := http.NewRequest("POST", "http://"+g.listeners.proxy.Addr().String()+"/tools/charge", strings.NewReader(`{"a":1}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-OnceOnly-Run-Id", "run 7")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
	}
	var line struct {
		Events []struct{ Type, Status, Tool, Message string }
	}
	g.get("/v1/runs/run%207", &line)
	if got := fmt.Sprint(line.Events); got != "[{tool_call start charge } {tool_result executed charge ok} {tool_call start charge } {tool_result dedup charge tool_idempotency}]" {
		t.Error(got)
	}
}
