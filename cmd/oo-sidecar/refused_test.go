package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// refusals are the audit's records of requests that the api listener refused, oldest first.
func (g *governed) refusals() (list []string) {
	g.t.Helper()
	var rows []struct {
		Tool, Detail string
		Reason       string `json:"policy_reason"`
		AgentID      string `json:"agent_id"`
	}
	g.get("/v1/audit?order=oldest&limit=1000", &rows)
	for _, r := range rows {
		if r.Tool == "" {
			list = append(list, strings.TrimSpace(r.Reason+" "+r.AgentID+" "+r.Detail))
		}
	}
	return list
}

func TestARefusedRequestLeavesOneRecord(t *testing.T) {
	g := newGoverned(t, "")
	g.ask("nobody_knows_this_key_1234", "GET", "/v1/me", "")
	g.ask(botKey, "POST", "/v1/agents/support_bot/enable", "")
	g.ask(botKey, "POST", "/v1/ai/run", `{"agent_id":"other","tool":"charge"}`)
	g.ask(opsKey, "POST", "/v1/check-lock", `{"key":""}`)
	r, _ := http.NewRequest("GET", "http://"+g.listeners.api.Addr().String()+"/v1/me", nil)
	for _, header := range []string{"", "https://evil.example"} {
		if header != "" {
			r.Header.Set("Origin", header)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for _, c := range []trade{
		{"GET", "/v1/me", "", 200, `{…`},
		{"POST", "/v1/check-lock", `{"key":"k"}`, 200, `{…`},
		{"POST", "/v1/ai/run", `{"agent_id":"a","tool":"charge"}`, 200, `{…`},
		{"POST", "/v1/ai/run", `{"agent_id":"a","tool":"nobody"}`, 404, `{…`},
		{"GET", "/v1/nowhere", "", 404, `{…`},
	} {
		g.expect(opsKey, c) // these leave none here, or the governor's
	}
	want := []string{
		"api_key_invalid  GET /v1/me", "api_forbidden support_bot POST /v1/agents/support_bot/enable", "api_forbidden support_bot POST /v1/ai/run",
		"bad_request  POST /v1/check-lock", "api_key_missing  GET /v1/me", "browser_request_denied  GET /v1/me",
	}
	if got := g.refusals(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	g.expect(opsKey, trade{"GET", "/v1/agents/support_bot/logs", "", 200, `[]`})
	for range 300 {
		g.ask("nobody_knows_this_key_1234", "GET", "/v1/me", "")
	}
	if n := len(g.refusals()); n > 250 {
		t.Errorf("300 refusals in a moment left %d records", n)
	}
}

func TestADryRunJudgesTheLimits(t *testing.T) {
	g := newGoverned(t, `policies:
  - {agent_id: capped, max_calls_per_tool: {charge: 2}}
  - {agent_id: poor, max_spend_usd_per_day: "1.20"}
  - {agent_id: shadowed, mode: shadow, max_actions_per_hour: 1}
  - {agent_id: hourly, max_actions_per_hour: 3}`)
	g.run("hourly", "charge", `{"n":0}`)
	for agent, want := range map[string]string{
		"capped":   "executed executed max_calls_per_tool_exceeded",
		"poor":     "executed executed max_spend_usd_per_day_exceeded",
		"hourly":   "executed executed max_actions_per_hour_exceeded",
		"shadowed": "executed executed executed",
		"free":     "executed executed executed",
	} {
		body := fmt.Sprintf(`{"key":"dry %s","metadata":{"agent_id":%q,"dry_run":true,"actions":[{"tool":"charge","args":{"n":1}},{"tool":"charge","args":{"n":2}},{"tool":"charge","args":{"n":3}}]}}`, agent, agent)
		g.expect(opsKey, trade{"POST", "/v1/ai/run", body, 200, `{…`})
		var job struct {
			Status string
			Result struct {
				Actions []struct {
					Decision, Tool string
					Reason         string `json:"policy_reason"`
				}
			}
		}
		for job.Status != "completed" && job.Status != "failed" { // the worker signals nobody
			g.get("/v1/ai/result?key=dry%20"+agent, &job)
		}
		var got []string
		for _, a := range job.Result.Actions {
			if a.Decision == "blocked" {
				a.Decision = a.Reason
			}
			got = append(got, a.Decision)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", agent, got, want)
		}
	}
	if got := g.run("capped", "charge", `{"n":9}`); got != "ok low" {
		t.Errorf("a rehearsal used something up: %s", got)
	}
}

func TestAskingForAFinishedLeaseIsCounted(t *testing.T) {
	g := newGoverned(t, "")
	_, text := g.ask(opsKey, "POST", "/v1/ai/lease", `{"key":"k"}`)
	g.ask(opsKey, "POST", "/v1/ai/complete", fmt.Sprintf(`{"key":"k","lease_id":%q}`, member(text, "lease_id")))
	g.ask(opsKey, "POST", "/v1/ai/lease", `{"key":"k"}`)
	var all struct {
		AI struct {
			Usage    int `json:"usage"`
			Requests int `json:"requests_total_month"`
			Polling  int `json:"polling_total_month"`
		}
	}
	g.get("/v1/usage/all", &all)
	if all.AI.Usage != 1 || all.AI.Requests != 2 || all.AI.Polling != 1 {
		t.Errorf("%+v", all)
	}
}
