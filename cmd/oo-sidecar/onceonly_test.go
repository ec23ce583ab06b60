package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
)

const (
	opsKey    = "once_live_operator_for_tests"
	botKey    = "once_live_support_bot_for_tests"
	freeKey   = "once_live_free_plan_for_tests"
	freeAgent = "once_live_free_agent_for_tests"
	otherKey  = "once_live_other_namespace_for_tests"
)

// governed is a whole sidecar in this process, with one tool behind it, trade over its api listener.
type governed struct {
	*sidecar
	t    *testing.T
	dir  string
	tool *httptest.Server
	last http.Header // of the tool's last request
	body string      // of it
	said string      // the file of its log
}

func newGoverned(t *testing.T, more string) *governed { return governedIn(t, t.TempDir(), more) }

// governedIn starts on the state in dir.
func governedIn(t *testing.T, dir, more string) *governed {
	t.Helper()
	return governedOn(t, dir, "", more)
}

// governedOn is governedIn with more words about the store.
func governedOn(t *testing.T, dir, store, more string) *governed {
	t.Helper()
	g := &governed{t: t, dir: dir}
	g.tool = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.last, g.body = r.Header, string(body)
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"ch_1"}`)
	}))
	t.Cleanup(g.tool.Close)
	text := fmt.Sprintf(`version: 1
proxy: {listen: "127.0.0.1:0"}
health: {listen: "127.0.0.1:0"}
api:
  listen: "127.0.0.1:0"
  keys:
    - {name: ops, role: operator, key: %s}
    - {name: bot, role: agent, agent_id: support_bot, key: %s}
    - {name: free, role: operator, key: %s, plan: free, namespace: frugal}
    - {name: freeagent, role: agent, agent_id: saver, key: %s, plan: free, namespace: frugal}
    - {name: other, role: operator, key: %s, namespace: other}
store: {%sembedded: {dir: %q, durability: process}}
tools:
  - {name: charge, url: "%s/charge", price_usd: 0.5}
  - {name: broken, url: "%s/broken"}
%s
`, opsKey, botKey, freeKey, freeAgent, otherKey, store, dir, g.tool.URL, g.tool.URL, more)
	file := filepath.Join(t.TempDir(), "oo.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.said = filepath.Join(t.TempDir(), "log")
	log, err := os.Create(g.said)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	if g.sidecar, err = newSidecar(cfg, slog.New(slog.NewJSONHandler(log, nil))); err != nil {
		t.Fatal(err)
	}
	if err := g.listen(); err != nil {
		t.Fatal(err)
	}
	g.start()
	t.Cleanup(g.stop)
	return g
}

// stop shuts the sidecar down, once.
func (g *governed) stop() {
	if g.sidecar == nil {
		return
	}
	if err := g.shutdown(); err != nil {
		g.t.Error(err)
	}
	g.sidecar = nil
}

// ask sends a request and returns the status and the answer.
func (g *governed) ask(key, method, path, body string) (int, string) {
	g.t.Helper()
	r, err := http.NewRequest(method, "http://"+g.listeners.api.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 == 3 || resp.Header.Get("X-Request-Id") == "" {
		g.t.Fatalf("%s %s: %v %v", method, path, resp, err)
	}
	text := strings.TrimSpace(string(data))
	described(g.t, r, resp, text)
	return resp.StatusCode, text
}

// trade is one request of an operator's and what its answer must be.
type trade struct {
	method, path, body string
	status             int
	want               string // the whole answer, or with … at its end what it begins with
}

func (g *governed) expect(key string, list ...trade) {
	g.t.Helper()
	for _, c := range list {
		status, text := g.ask(key, c.method, c.path, c.body)
		begin, cut := strings.CutSuffix(c.want, "…")
		if status != c.status || !(text == c.want || cut && strings.HasPrefix(text, begin)) {
			g.t.Errorf("%s %s %s:\n%d %s\nwant %d\n%s", c.method, c.path, c.body, status, text, c.status, c.want)
		}
	}
}

// get decodes an operator's answer.
func (g *governed) get(path string, into any) {
	g.t.Helper()
	status, text := g.ask(opsKey, "GET", path, "")
	if err := json.Unmarshal([]byte(text), into); status != 200 || err != nil {
		g.t.Fatalf("%s: %d %s %v", path, status, text, err)
	}
}

func TestPoliciesOverTheAPI(t *testing.T) {
	g := newGoverned(t, `policies: [{agent_id: filed, template: strict, anomaly: disable}]`)
	g.expect(opsKey,
		trade{"GET", "/v1/policies/support_bot", "", 404, `{"detail":{"error":"policy_not_found",…`},
		trade{"POST", "/v1/policies/support_bot", `{"agent_id":"support_bot","max_actions_per_hour":10.0,"max_spend_usd_per_day":12.5,"allowed_tools":["charge"],"max_calls_per_tool":{"charge":3},"pricing_rules":[{"tool":"charge","price_usd":0.001}],"unknown":1}`, 200,
			`{"agent_id":"support_bot","policy":{"allowed_tools":["charge"],"max_actions_per_hour":10,"max_calls_per_tool":{"charge":3},"max_spend_usd_per_day":12.5,"pricing_rules":[{"tool":"charge","price_usd":0.001}]}}`},
		trade{"POST", "/v1/policies/support_bot", `{"max_actions_per_hour":null,"blocked_tools":["x"]}`, 200,
			`{"agent_id":"support_bot","policy":{"allowed_tools":["charge"],"blocked_tools":["x"],"max_calls_per_tool":{"charge":3},"max_spend_usd_per_day":12.5,"pricing_rules":[{"tool":"charge","price_usd":0.001}]}}`},
		trade{"POST", "/v1/policies/support_bot", `{"agent_id":"other"}`, 422, `{"detail":[{"type":"value_error","loc":["body","agent_id"],…`},
		trade{"POST", "/v1/policies/support_bot", `{"max_actions_per_hour":-1}`, 422, `{"detail":[{"type":"greater_than_equal",…`},
		trade{"POST", "/v1/policies/support_bot", `{"max_actions_per_hour":"ten"}`, 422, `{"detail":[{"type":"int_type",…`},
		trade{"POST", "/v1/policies/support_bot", `{"allowed_tools":["a*"]}`, 422, `{"detail":[{"type":"string_pattern_mismatch",…`},
		trade{"POST", "/v1/policies/support_bot", `{"pricing_rules":[{"tool":"a"}]}`, 422, `{"detail":[{"type":"…`},
		trade{"POST", "/v1/policies/support_bot", `{"pricing_rules":[5]}`, 422, `{"detail":[{"type":"…`},
		trade{"POST", "/v1/policies/support_bot", `[]`, 422, `{"detail":[{"type":"model_attributes_type",…`},
		trade{"POST", "/v1/policies/filed", `{"max_actions_per_hour":7}`, 200,
			`{"agent_id":"filed","policy":{"anomaly":"disable","blocked_tools":["delete_user","delete_customer","refund_all"],"max_actions_per_hour":7,"max_spend_usd_per_day":5}}`},
		trade{"POST", "/v1/policies/a%2Fb%20c/from-template", `{"agent_id":"a/b c","template":"moderate","overrides":{"blocked_tools":["x"]}}`, 200,
			`{"agent_id":"a/b c","policy":{"blocked_tools":["x"],"max_actions_per_hour":200,"max_spend_usd_per_day":50,"template":"moderate"}}`},
		trade{"POST", "/v1/policies/x/from-template", `{"template":"lax"}`, 422, `{"detail":[{"type":"value_error",…`},
		trade{"GET", "/v1/policies", "", 200, `[{"agent_id":"a/b c",…`},
		trade{"DELETE", "/v1/policies/support_bot", "", 405, `{"detail":"Method Not Allowed"}`},
	)
	g.expect(botKey,
		trade{"GET", "/v1/policies/support_bot", "", 200, `{"agent_id":"support_bot",…`},
		trade{"GET", "/v1/policies", "", 200, `[{"agent_id":"support_bot",…`},
		trade{"GET", "/v1/policies/filed", "", 403, `{"detail":"Forbidden"}`},
		trade{"POST", "/v1/policies/support_bot", `{"max_actions_per_hour":null}`, 403, `{"detail":"Forbidden"}`},
		trade{"POST", "/v1/policies/support_bot/from-template", `{"template":"permissive"}`, 403, `{"detail":"Forbidden"}`},
	)
	g.expect(freeKey,
		trade{"POST", "/v1/policies/trimmed", `{"max_actions_per_hour":1,"blocked_tools":["x"]}`, 200, `{"agent_id":"trimmed","policy":{"blocked_tools":["x"]}}`},
		trade{"POST", "/v1/policies/trimmed/from-template", `{"template":"strict"}`, 403, `{"detail":{"error":"feature_not_available",…`},
		trade{"POST", "/v1/agents/saver/disable", `{}`, 200, `{"agent_id":"saver","is_enabled":false,…`}, // no plan stands between an operator and the switch
		trade{"POST", "/v1/agents/saver/enable", `{}`, 200, `{"agent_id":"saver","is_enabled":true,…`},
	)
}

func TestPoliciesOutliveARestart(t *testing.T) {
	g := newGoverned(t, "")
	g.expect(opsKey, trade{"POST", "/v1/policies/support_bot", `{"max_actions_per_hour":1}`, 200, `{"agent_id":"support_bot","policy":{"max_actions_per_hour":1}}`})
	g.stop()
	g = governedIn(t, g.dir, "")
	g.expect(opsKey, trade{"GET", "/v1/policies/support_bot", "", 200, `{"agent_id":"support_bot","policy":{"max_actions_per_hour":1}}`})
}

func TestAgentsLogsAndMetrics(t *testing.T) {
	g := newGoverned(t, "")
	call := func(args string) trade {
		return trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"charge","args":` + args + `,"spend_usd":0.25}`, 200, `{"ok":…`}
	}
	g.expect(botKey, call(`{"n":1}`), call(`{"n":1}`), call(`{"n":2}`))
	g.expect(opsKey,
		trade{"POST", "/v1/agents/support_bot/disable", `{"reason":"loops"}`, 200, `{"agent_id":"support_bot","is_enabled":false,"disabled_reason":"loops",…`},
		trade{"GET", "/v1/agents/support_bot", "", 200, `{"agent_id":"support_bot","is_enabled":false,"disabled_reason":"loops",…`},
		call(`{"n":3}`),
		trade{"POST", "/v1/agents/support_bot/enable", "", 200, `{"agent_id":"support_bot","is_enabled":true,"disabled_reason":null,"disabled_at":null}`},
		trade{"GET", "/v1/agents/nobody", "", 200, `{"agent_id":"nobody","is_enabled":true,"disabled_reason":null,"disabled_at":null}`},
		trade{"GET", "/v1/agents/support_bot/metrics?period=hour", "", 200, `{"agent_id":"support_bot","period":"hour","total_actions":2,"blocked_actions":1,"total_spend_usd":1,"top_tools":[{"tool":"charge","count":2}]}`},
		trade{"GET", "/v1/agents/nobody/metrics", "", 200, `{"agent_id":"nobody","period":"day","total_actions":0,"blocked_actions":0,"total_spend_usd":0,"top_tools":[]}`},
		trade{"GET", "/v1/agents/nobody/logs", "", 200, `[]`},
		trade{"GET", "/v1/agents/support_bot/logs?limit=501", "", 422, `{"detail":[{"type":"less_than_equal","loc":["query","limit"],…`},
		trade{"GET", "/v1/agents/support_bot/metrics?period=year", "", 422, `{"detail":[{"type":"enum",…`},
	)
	var lines []struct {
		TS                    int64
		Agent, Tool, Decision string
		Allowed               bool
		Reason                string  `json:"policy_reason"`
		Spend                 float64 `json:"spend_usd"`
		ArgsHash              string  `json:"args_hash"`
	}
	g.get("/v1/agents/support_bot/logs?limit=3", &lines)
	if len(lines) != 3 || lines[0].Reason != "agent_disabled" || lines[0].Allowed || lines[1].Decision != "executed" || lines[1].Spend != 0.5 ||
		lines[2].Decision != "dedup" || !lines[2].Allowed || lines[1].TS < 1e9 || lines[1].ArgsHash == "" {
		t.Errorf("%+v", lines)
	}
	g.expect(otherKey, trade{"GET", "/v1/agents/support_bot/logs", "", 200, `[]`})
	g.expect(botKey,
		trade{"GET", "/v1/agents/support_bot/logs?limit=1", "", 200, `[{"ts":…`},
		trade{"GET", "/v1/agents/other/logs", "", 403, `{"detail":"Forbidden"}`},
		trade{"GET", "/v1/agents/other/metrics", "", 403, `{"detail":"Forbidden"}`},
		trade{"GET", "/v1/agents/other", "", 403, `{"detail":"Forbidden"}`},
		trade{"POST", "/v1/agents/support_bot/enable", "", 403, `{"detail":"Forbidden"}`},
	)
	g.expect(freeKey, trade{"GET", "/v1/agents/saver/logs", "", 403, `{"detail":{"error":"feature_not_available",…`})
}

func TestToolsOverTheAPI(t *testing.T) {
	g := newGoverned(t, "")
	at := func(path string) string { return g.tool.URL + path }
	g.expect(opsKey,
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `"}`, 422, `{"detail":[{"type":"missing","loc":["body","auth","secret"],…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"short"}}`, 422, `{"detail":[{"type":"string_too_short",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","auth":{"type":"basic","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"literal_error",…`},
		trade{"POST", "/v1/tools", `{"name":"ma il","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"string_pattern_mismatch",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","timeout_ms":249,"auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"greater_than_equal",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","max_retries":11,"auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"less_than_equal",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"nowhere","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"value_error",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","scope_id":"team:x","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 422, `{"detail":[{"type":"value_error",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"},"price_usd":0.001,"effect":"idempotent"}`, 200,
			`{"name":"mail","scope_id":"global","url":"` + at("/mail") + `","timeout_ms":15000,"max_retries":2,"enabled":true,"description":"","effect":"idempotent","body":"envelope","has_secret":true,"secret_id":"sec_…`},
		trade{"GET", "/v1/tools/nothing", "", 404, `{"detail":{"error":"tool_not_found",…`},
		trade{"POST", "/v1/tools", `{"name":"charge","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 409, `{"detail":{"error":"owned_by_file",…`},
		trade{"POST", "/v1/tools", `{"name":"charge","url":"` + at("/charge") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 409, `{"detail":{"error":"owned_by_file",…`},
		trade{"POST", "/v1/tools", `{"name":"charge","url":"` + at("/charge") + `","match":[{"url":"` + at("/mail") + `"}]}`, 409, `{"detail":{"error":"owned_by_file",…`},
		trade{"POST", "/v1/tools/mail/toggle?scope_id=global", `{}`, 422, `{"detail":[{"type":"missing",…`},
	)
	first := g.toolNamed("mail")
	if first.Mask != "***key" || !first.HasSecret || first.AuthType != "hmac_sha256" || first.Price != 0.001 {
		t.Errorf("%+v", first)
	}
	run := trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"mail","args":{"to":"x"}}`, 200, `{"ok":true,"allowed":true,"decision":"executed",…`}
	g.expect(botKey, run)
	if g.last.Get("X-OnceOnly-Signature") == "" || !strings.HasPrefix(g.body, `{"tool":"mail","args":{"to":"x"},"agent_id":"support_bot"`) {
		t.Errorf("sent %v %s", g.last, g.body)
	}
	g.expect(opsKey,
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail2") + `","auth":{"type":"hmac_sha256"},"timeout_ms":250}`, 200, `{"name":"mail","scope_id":"global","url":"` + at("/mail2") + `","timeout_ms":250,…`},
		trade{"POST", "/v1/tools/mail/toggle?scope_id=global", `{"enabled":false}`, 200, `{"enabled":false,"name":"mail","scope_id":"global"}`},
	)
	kept := g.toolNamed("mail")
	if kept.SecretID != first.SecretID || kept.Mask != first.Mask || kept.Effect != "idempotent" || kept.Enabled {
		t.Errorf("after an update without a secret: %+v, was %+v", kept, first)
	}
	g.expect(opsKey,
		trade{"POST", "/v1/tools", `{"name":"mail","scope_id":"agent:support_bot","url":"` + at("/own") + `","auth":{"type":"hmac_sha256","secret":"another_one"}}`, 200, `{"name":"mail","scope_id":"agent:support_bot",…`},
		trade{"GET", "/v1/tools/mail?scope_id=agent:support_bot", "", 200, `{"name":"mail","scope_id":"agent:support_bot",…`},
		trade{"POST", "/v1/tools", `{"name":"mail","url":"` + at("/mail") + `","auth":{"type":"hmac_sha256","secret":"rotated_text"}}`, 200, `{"name":"mail",…`},
	)
	if rotated := g.toolNamed("mail"); rotated.SecretID == first.SecretID || rotated.Mask != "***ext" {
		t.Errorf("after a rotation: %+v", rotated)
	}
	for scope, want := range map[string]int{"": 3, "?scope_id=global": 3, "?scope_id=all": 4, "?scope_id=agent:support_bot": 1, "?scope_id=agent:x": 0} {
		var list []struct{ Name string }
		if g.get("/v1/tools"+scope, &list); len(list) != want {
			t.Errorf("%s: %v, want %d", scope, list, want)
		}
	}
	for _, c := range []trade{{"GET", "/v1/tools", "", 403, ""}, {"POST", "/v1/tools", "{}", 403, ""}, {"GET", "/v1/tools/mail", "", 403, ""},
		{"DELETE", "/v1/tools/mail", "", 403, ""}, {"POST", "/v1/tools/mail/toggle", `{"enabled":true}`, 403, ""}} {
		c.want = `{"detail":"Forbidden"}`
		g.expect(botKey, c)
	}
	g.expect(freeKey, trade{"POST", "/v1/tools", `{"name":"more","url":"` + at("/more") + `","auth":{"type":"hmac_sha256","secret":"whisper_key"}}`, 403, `{"detail":{"error":"plan_limit","message":"FREE plan limit: max 1 tools"}}`})
	g.expect(opsKey,
		trade{"DELETE", "/v1/tools/mail?scope_id=global", "", 200, `{"deleted":"mail","ok":true,"scope_id":"global"}`},
		trade{"DELETE", "/v1/tools/mail?scope_id=global", "", 404, `{"detail":{"error":"tool_not_found",…`},
	)
}

func TestAToolOfTheFileIsChangedOverTheAPIAndKeepsItsSecrets(t *testing.T) {
	dir := t.TempDir()
	more := func(price string) string {
		return `  - {name: paid, url: "http://127.0.0.1:1/paid", price_usd: ` + price + `, headers: {Authorization: "Bearer of-the-file"}, auth: {type: hmac_sha256, secrets: ["secret of the file"]}}`
	}
	g := governedIn(t, dir, more("0.25"))
	g.expect(opsKey,
		trade{"POST", "/v1/tools", `{"name":"paid","url":"http://127.0.0.1:2/elsewhere"}`, 409, `{"detail":{"error":"owned_by_file",…`},
		trade{"POST", "/v1/tools/paid/toggle", `{"enabled":false}`, 200, `{"enabled":false,"name":"paid","scope_id":"global"}`},
		trade{"POST", "/v1/tools", `{"name":"paid","url":"http://127.0.0.1:1/paid","timeout_ms":3000,"price_usd":0.75}`, 200, `{"name":"paid",…`},
		trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"paid"}`, 200, `{"ok":false,"allowed":false,"decision":"blocked","policy_reason":"tool_disabled",…`},
	)
	before := g.toolNamed("paid")
	if before.Enabled || before.Price != 0.75 || before.Mask != "***ile" {
		t.Errorf("%+v", before)
	}
	g.stop()
	for _, name := range []string{"of-the-file", "secret of the file"} {
		if found(t, dir, name) {
			t.Errorf("%q stands in the store", name)
		}
	}
	g = governedIn(t, dir, more("0.25"))
	if after := g.toolNamed("paid"); after != before {
		t.Errorf("after a restart %+v, was %+v", after, before)
	}
	g.stop()
	g = governedIn(t, dir, more("0.30"))
	if newer := g.toolNamed("paid"); !newer.Enabled || newer.Price != 0.30 {
		t.Errorf("after a newer change of the file: %+v", newer)
	}
	g.expect(opsKey, trade{"POST", "/v1/tools/paid/toggle", `{"enabled":false}`, 200, `{…`})
	g.stop()
	g = governedIn(t, dir, "")
	g.expect(opsKey, trade{"GET", "/v1/tools/paid", "", 404, `{"detail":{"error":"tool_not_found",…`})
}

// found says whether any file below dir holds the text.
func found(t *testing.T, dir, text string) (is bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		is = is || strings.Contains(string(data), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return is
}

type shownTool struct {
	Enabled   bool
	Effect    string
	Price     float64 `json:"price_usd"`
	HasSecret bool    `json:"has_secret"`
	SecretID  string  `json:"secret_id"`
	Mask      string  `json:"secret_mask"`
	AuthType  string  `json:"auth_type"`
}

func (g *governed) toolNamed(name string) (shown shownTool) {
	g.t.Helper()
	g.get("/v1/tools/"+name, &shown)
	return shown
}

func TestSecretsAreSealedAndOutliveARestart(t *testing.T) {
	g := newGoverned(t, "")
	const secret = "a_secret_that_stands_nowhere"
	g.expect(opsKey, trade{"POST", "/v1/tools", `{"name":"mail","url":"http://127.0.0.1:9/mail","auth":{"type":"hmac_sha256","secret":"` + secret + `"}}`, 200, `{"name":"mail",…`})
	was := g.toolNamed("mail")
	g.stop()
	files, err := os.ReadDir(g.dir)
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(filepath.Join(g.dir, f.Name())); err == nil && strings.Contains(string(data), secret) {
			t.Errorf("the secret stands in %s", f.Name())
		}
	}
	g = governedIn(t, g.dir, "")
	if now := g.toolNamed("mail"); now != was {
		t.Errorf("after a restart: %+v, was %+v", now, was)
	}
	g.stop()
	if err := os.Remove(filepath.Join(g.dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	g = governedIn(t, g.dir, "")
	if lost := g.toolNamed("mail"); !lost.HasSecret || lost.Mask != "***" {
		t.Errorf("without the key: %+v", lost)
	}
	g.expect(opsKey, trade{"POST", "/v1/ai/run", `{"agent_id":"x","tool":"mail","args":{}}`, 200, `{"ok":false,"allowed":false,"decision":"blocked",…`})
}

func TestAccountUsageEventsAndMetrics(t *testing.T) {
	g := newGoverned(t, "")
	lock := trade{"POST", "/v1/check-lock", `{"key":"k1"}`, 200, `{"success":…`}
	lease := trade{"POST", "/v1/ai/lease", `{"key":"l1"}`, 200, `{"ok":true,…`}
	run := trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"charge","args":{"run_id":"run 1/x","n":1}}`, 200, `{"ok":true,…`}
	g.expect(botKey, lock, lock, lease, lease, run, run)
	g.expect(opsKey, trade{"POST", "/v1/check-lock", `{"key":"k2"}`, 200, `{"success":true,…`}, lock)
	month, today := time.Now().UTC().Format("2006-01"), time.Now().UTC().Format(time.DateOnly)
	g.expect(opsKey,
		trade{"GET", "/v1/usage", "", 200, `{"plan":"agency","month":"` + month + `","usage":2,"limit":2000000,"requests_total_month":4,"blocked_total_month":0}`},
		trade{"GET", "/v1/usage?kind=ai", "", 200, `{"plan":"agency","month":"` + month + `","usage":2,"limit":10000000,"requests_total_month":3,"blocked_total_month":0}`},
		trade{"GET", "/v1/usage?kind=other", "", 422, `{"detail":[{"type":"enum",…`},
		trade{"GET", "/v1/metrics?from_day=" + today + "&to_day=" + today, "", 200,
			`[{"day":"` + today + `","checks_total":4,"locks_created":2,"duplicates_blocked":2,"rate_limited":0,"ai_acquired":1,"ai_completed":0,"ai_failed":0}]`},
		trade{"GET", "/v1/metrics?from_day=yesterday", "", 422, `{"detail":[{"type":"date_from_datetime_parsing",…`},
		trade{"GET", "/v1/metrics?from_day=2026-02-02&to_day=2026-02-01", "", 422, `{"detail":[{"type":"value_error",…`},
		trade{"GET", "/v1/me", "", 200, `{"plan":"agency","key_preview":"once_live_****ests","email":null,"is_active":true,"current_period_end":null,"requests_total_all_time":6,"blocked_total_all_time":2,"email_notifications_enabled":true,…`},
		trade{"POST", "/v1/me/notifications", `{}`, 422, `{"detail":[{"type":"value_error",…`},
		trade{"POST", "/v1/me/notifications", `{"tool_error_notifications_enabled":"no"}`, 422, `{"detail":[{"type":"bool_type",…`},
		trade{"POST", "/v1/me/notifications", `{"tool_error_notifications_enabled":false}`, 200,
			`{"email_notifications_enabled":true,"tool_error_notifications_enabled":false,"run_failure_notifications_enabled":true}`},
		trade{"POST", "/v1/agents/a/disable", `{"reason":"why"}`, 200, `{"agent_id":"a",…`},
		trade{"GET", "/v1/events?limit=501", "", 422, `{"detail":[…`},
		trade{"GET", "/v1/events?offset=-1", "", 422, `{"detail":[…`},
	)
	g.expect(botKey,
		trade{"GET", "/v1/usage/all", "", 200, `{"plan":"agency","month":"` + month + `","make":{"usage":1,"limit":2000000,"requests_total_month":2,"blocked_total_month":0,"charged_total_month":0,"polling_total_month":0},"ai":{"usage":2,"limit":10000000,"requests_total_month":3,"blocked_total_month":0,"charged_total_month":2,"polling_total_month":1}}`},
		trade{"POST", "/v1/me/notifications", `{"tool_error_notifications_enabled":true}`, 403, `{"detail":"Forbidden"}`},
	)
	g.expect(otherKey, trade{"GET", "/v1/events", "", 200, g.only("agent_disabled")})
	if types := g.types(opsKey); types != "agent_disabled ai_acquired ai_in_progress duplicate duplicate locked locked tool_dedup tool_executed" {
		t.Errorf("events: %s", types)
	}
	if types := g.types(botKey); types != "ai_acquired ai_in_progress duplicate locked tool_dedup tool_executed" {
		t.Errorf("events of the agent's key: %s", types)
	}
	g.stop()
	g = governedIn(t, g.dir, "")
	g.expect(opsKey,
		trade{"GET", "/v1/usage", "", 200, `{"plan":"agency","month":"` + month + `","usage":2,"limit":2000000,"requests_total_month":4,"blocked_total_month":0}`},
		trade{"GET", "/v1/runs?q=run", "", 200, `{"total":1,"items":[{"run_id":"run 1/x",…`},
		trade{"POST", "/v1/me/notifications", `{"run_failure_notifications_enabled":false}`, 200,
			`{"email_notifications_enabled":true,"tool_error_notifications_enabled":false,"run_failure_notifications_enabled":false}`},
	)
}

// only is the list of events with that one, whatever its time.
func (g *governed) only(kind string) string {
	_, text := g.ask(otherKey, "GET", "/v1/events", "")
	if strings.Count(text, `"type":`) == 1 && strings.Contains(text, `"type":"`+kind+`"`) {
		return text
	}
	return `only ` + kind
}

// types are the types of the events that the key sees, sorted.
func (g *governed) types(key string) string {
	g.t.Helper()
	var list []struct{ Type string }
	_, text := g.ask(key, "GET", "/v1/events?limit=100", "")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		g.t.Fatal(text, err)
	}
	var types []string
	for _, e := range list {
		types = append(types, e.Type)
	}
	slices.Sort(types)
	return strings.Join(types, " ")
}

func TestTimelines(t *testing.T) {
	g := newGoverned(t, "")
	g.expect(botKey,
		trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"charge","args":{"run_id":"run x/y"}}`, 200, `{"ok":true,…`},
		trade{"POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"nothing","args":{"run_id":"run fails"}}`, 404, `{"detail":{"error":"tool_not_found",…`},
		trade{"POST", "/v1/events", `{"run_id":"run x/y","type":"note","step":"plan","message":"m","data":{"a":1},"duration_ms":5,"extra":[1],"ts":1}`, 200, `{"event_id":9,"ok":true,"run_id":"run x/y"}`},
		trade{"POST", "/v1/events", `{"run_id":" ","type":"note"}`, 422, `{"detail":[{"type":"string_too_short",…`},
		trade{"POST", "/v1/events", `{"run_id":"r"}`, 422, `{"detail":[{"type":"missing","loc":["body","type"],…`},
		trade{"POST", "/v1/events", `{"run_id":"r","type":"t","data":[]}`, 422, `{"detail":[{"type":"dict_type",…`},
		trade{"POST", "/v1/events", `{"run_id":"r","type":"t","agent_id":"other"}`, 403, `{"detail":"Forbidden"}`},
		trade{"GET", "/v1/runs/unknown?limit=2000", "", 200, `{"run_id":"unknown","total":0,"events":[]}`},
		trade{"GET", "/v1/runs?limit=501", "", 422, `{"detail":[…`},
	)
	g.expect(opsKey, trade{"POST", "/v1/events", `{"run_id":"run x/y","type":"secret","agent_id":"other"}`, 200, `{"event_id":10,…`})
	var line struct {
		Total  int
		Events []struct {
			ID                            int
			Type, Status, Message, Source string
			Agent                         string `json:"agent_id"`
		}
	}
	g.get("/v1/runs/run%20x%2Fy?limit=200&offset=0", &line)
	var told []string
	for _, e := range line.Events {
		told = append(told, e.Source+" "+e.Type+" "+e.Status)
	}
	if got := strings.Join(told, ", "); got != "client note , server run_started started, server tool_call start, server tool_result executed, server run_finished completed, client secret " {
		t.Errorf("the timeline is %s", got)
	}
	_, text := g.ask(botKey, "GET", "/v1/runs/run%20x%2Fy?limit=1&offset=1", "")
	if !strings.HasPrefix(text, `{"run_id":"run x/y","total":5,"events":[{"id":1,"run_id":"run x/y","ts":`) || strings.Contains(text, "secret") {
		t.Errorf("the agent sees %s", text)
	}
	g.expect(otherKey, trade{"GET", "/v1/runs", "", 200, `{"total":0,"items":[]}`})
	var runs struct {
		Total int
		Items []struct {
			RunID  string `json:"run_id"`
			Status string `json:"last_status"`
			Count  int    `json:"events_count"`
		}
	}
	g.get("/v1/runs?q=run%20f", &runs)
	if runs.Total != 1 || runs.Items[0].RunID != "run fails" || runs.Items[0].Status != "failed" || runs.Items[0].Count != 4 {
		t.Errorf("%+v", runs)
	}
}

func TestTheFreePlanStopsAndOthersGoOn(t *testing.T) {
	g := newGoverned(t, "")
	for range 1000 {
		g.store.Book().Add(activity.Event{Tenant: "frugal", Type: "duplicate"}, time.Now())
		g.store.Book().Add(activity.Event{Tenant: "default", Type: "duplicate"}, time.Now())
	}
	g.expect(freeKey,
		trade{"POST", "/v1/check-lock", `{"key":"k"}`, 402, `{"detail":{"error":"payment_required","highlights":"Plan limit reached","plan":"free","limit":1000,"usage":1000,"upgrade_url":""}}`},
		trade{"POST", "/v1/ai/lease", `{"key":"k"}`, 200, `{"ok":true,"status":"acquired",…`},
		trade{"GET", "/v1/usage", "", 200, `{"plan":"free","month":"` + time.Now().UTC().Format("2006-01") + `","usage":1000,"limit":1000,"requests_total_month":1001,"blocked_total_month":1}`},
	)
	g.expect(opsKey, trade{"POST", "/v1/check-lock", `{"key":"k"}`, 200, `{"success":true,…`})
}

func TestStrictPoliciesNameRegisteredToolsOnly(t *testing.T) {
	g := newGoverned(t, "")
	cfg := *g.cfg.Load()
	cfg.API.StrictPolicyTools = true
	g.cfg.Store(&cfg)
	g.expect(opsKey,
		trade{"POST", "/v1/policies/a", `{"allowed_tools":["charge","b"],"max_calls_per_tool":{"a":1}}`, 400,
			`{"detail":{"error":"unknown_tools","message":"the policy names tools that are not registered","tools":["a","b"]}}`},
		trade{"POST", "/v1/policies/a", `{"allowed_tools":["charge"]}`, 200, `{"agent_id":"a","policy":{"allowed_tools":["charge"]}}`},
	)
}
