package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestWhateverAnAgentsKeyAsksItChangesNothingAndSeesNothingOfOthers sends, by an agent's key, every operation that is
// described, with ids and bodies made of what may fool a path, a role or a merge. Before and after, what governs is the
// same to an operator, and no answer ever held a word of another agent's.
func TestWhateverAnAgentsKeyAsksItChangesNothingAndSeesNothingOfOthers(t *testing.T) {
	const secret = "okapi" // stands in what is another agent's, and in no request of this one
	g := newGoverned(t, `  - {name: zebra.tool, url: "http://127.0.0.1:1/okapi", scope: "agent:zebra-agent"}
policies:
  - {agent_id: zebra-agent, blocked_tools: [okapi.blocked]}
  - {agent_id: support_bot, blocked_tools: [broken], max_actions_per_hour: 100000}`)
	for _, c := range []trade{
		{"POST", "/v1/ai/run", `{"agent_id":"zebra-agent","tool":"charge","args":{"run_id":"okapi-run"}}`, 200, `{…`},
		{"POST", "/v1/events", `{"run_id":"zebra-run","type":"note","agent_id":"zebra-agent","message":"okapi"}`, 200, `{…`},
		{"POST", "/v1/check-lock", `{"key":"okapi-lock"}`, 200, `{…`},
		{"POST", "/v1/ai/lease", `{"key":"zebra-lease"}`, 200, `{…`},
		{"POST", "/v1/agents/zebra-agent/disable", `{"reason":"okapi"}`, 200, `{…`},
	} {
		g.expect(opsKey, c)
	}
	before := g.governance()
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	var paths, operations []string
	doc.Operations(func(path, method string) { operations = append(operations, method+" "+path) })
	slices.Sort(operations)
	ids := []string{"zebra-agent", "ZEBRA-agent", "*", "%2A", "support_bot", "support_bot%2F..%2Fzebra-agent", "support_bot%00", "..%2Fzebra-agent",
		"zebra-agent%20", "charge", "zebra.tool", "zebra-run", "default", "%2e%2e", "support_bot;zebra-agent", "support_bot%0A"}
	queries := []string{"", "?scope_id=all", "?scope_id=agent:zebra-agent", "?agent=zebra-agent&limit=1000", "?agent_id=zebra-agent", "?key=zebra-lease&limit=500",
		"?agent=support_bot&agent=zebra-agent", "?changes=true&order=oldest", "?role=operator"}
	bodies := []string{``, `{}`, `[]`, `{"agent_id":"zebra-agent"}`, `{"agent_id":"support_bot","max_actions_per_hour":null,"blocked_tools":[],"role":"operator"}`,
		`{"AGENT_ID":"zebra-agent","tool":"charge"}`, `{"agent_id":"support_bot","agent_id":"zebra-agent","tool":"charge","args":{"n":NUMBER}}`,
		`{"agent_id":"zebra-agent","tool":"charge","args":{"n":NUMBER}}`, `{"key":"kNUMBER","metadata":{"agent_id":"zebra-agent","actions":[{"tool":"charge"}]}}`,
		`{"name":"charge","url":"http://127.0.0.1:1/","auth":{"type":"hmac_sha256","secret":"longenough"},"enabled":false}`, `{"template":"permissive"}`,
		`{"reason":"x","enabled":false,"email_notifications_enabled":false}`, `{"key":"zebra-lease","lease_id":"lease_x","result":{}}`,
		`{"run_id":"zebra-run","type":"note","agent_id":"zebra-agent"}`, `{"key":"00","outcome":"not-executed","why":"x","force":true}`, `{"user":"u","agent_id":"zebra-agent"}`}
	random := rand.New(rand.NewPCG(5, 5))
	for n := range 4000 {
		method, path, _ := strings.Cut(operations[n%len(operations)], " ")
		for strings.Contains(path, "{") {
			i, j := strings.Index(path, "{"), strings.Index(path, "}")
			path = path[:i] + ids[random.IntN(len(ids))] + path[j+1:]
		}
		paths = append(paths, path)
		body := strings.ReplaceAll(bodies[random.IntN(len(bodies))], "NUMBER", fmt.Sprint(n))
		query := queries[random.IntN(len(queries))]
		if method == http.MethodGet {
			body = ""
		}
		status, text := g.ask(botKey, method, path+query, body)
		if status >= 500 && status != http.StatusNotImplemented {
			t.Errorf("%s %s %s: %d %s", method, path+query, body, status, text)
		}
		if status == http.StatusOK && strings.Contains(text, secret) {
			t.Errorf("%s %s %s told of another agent: %s", method, path+query, body, text)
		}
		if status == http.StatusOK && slices.Contains([]string{"/v1/me/notifications", "/v1/tools", "/v1/status", "/v1/agents", "/v1/unknown", "/v1/audit", "/v1/apply",
			"/v1/guests", "/v1/entries/tools", "/v1/entries/policies", "/v1/entries/keys"}, path) {
			t.Errorf("%s %s %s: an agent's key got %s", method, path+query, body, text)
		}
	}
	if after := g.governance(); after != before {
		t.Errorf("what governs has changed:\n%s\nwas\n%s", after, before)
	}
	if !strings.Contains(before, secret) {
		t.Error("the operator sees nothing of the other agent either")
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(paths)))); n < 50 {
		t.Errorf("only %d paths were asked for", n)
	}
}

// governance is all that an operator can see of what governs agents, and of who changed it.
func (g *governed) governance() string {
	g.t.Helper()
	var all strings.Builder
	for _, path := range []string{"/v1/policies", "/v1/tools?scope_id=all", "/v1/agents", "/v1/unknown", "/v1/agents/zebra-agent/logs?limit=500",
		"/v1/agents/zebra-agent/metrics", "/v1/runs/okapi-run", "/v1/ai/status?key=zebra-lease"} {
		status, text := g.ask(opsKey, "GET", path, "")
		if before, after, ok := strings.Cut(text, `"ttl_left":`); ok { // time goes on
			text = before + after[strings.Index(after, ","):]
		}
		fmt.Fprintln(&all, path, status, text)
	}
	var rows []struct{ What, Entity, Who string }
	g.get("/v1/audit?changes=true&order=oldest&limit=1000", &rows)
	for _, r := range rows {
		if r.What != "" {
			fmt.Fprintln(&all, r)
		}
	}
	return all.String()
}
