package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// onRedis is what a configuration says of a store in that server.
func onRedis(server *redistest.Server) string {
	return fmt.Sprintf("kind: redis, seal_key: 0123456789abcdef-seal, redis: {addrs: [%q], prefix: \"t:\", poll: 50ms}, ", server.Addr)
}

// file writes a file for apply.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "apply.yaml")
	if err := os.WriteFile(name, []byte("version: 1\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// cli runs a command against the sidecar.
func (g *governed) cli(args ...string) (code int, out string) {
	g.t.Helper()
	code, out, errs := command(g.t, written(g.t, g.listeners.api.Addr().String(), g.listeners.health.Addr().String(), opsKey), "", args...)
	return code, out + errs
}

// eventually waits for what another sidecar did to arrive.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// applies is the table that apply prints, in short.
func applies(out string) string {
	var words []string
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "tool" || f[0] == "policy" || f[0] == "key") {
			words = append(words, f[1]+" "+f[len(f)-1])
		}
	}
	return strings.Join(words, ", ")
}

// TestApply: on both stores, what a file says holds whole or not at all, and says of each entry what became of it.
func TestApply(t *testing.T) {
	for _, kind := range []string{"embedded", "redis"} {
		t.Run(kind, func(t *testing.T) {
			words := "seal_key: 0123456789abcdef-seal, "
			if kind == "redis" {
				words = onRedis(redistest.Start(t))
			}
			g := governedOn(t, t.TempDir(), words, "  - {name: signed, url: \"http://127.0.0.1:1/s\", auth: {type: hmac_sha256, secrets: [file-secret-0123456789]}, headers: {X-Token: file-header-0123456789}}\npolicies: [{agent_id: kept, max_actions_per_hour: 7}]\n")
			text := fmt.Sprintf(`
tools:
  - {name: charge, url: "%s/charge", price_usd: 0.5}
  - {name: fresh, url: "%s/fresh", timeout: 3s}
  - {name: signed, url: "http://127.0.0.1:1/s", timeout: 9s, auth: {type: hmac_sha256, secrets: [file-secret-0123456789]}, headers: {X-Token: file-header-0123456789}}
  - {name: sealed, url: "%s/sealed", auth: {type: hmac_sha256, secrets: [apply-secret-0123456789, apply-older-0123456789]}, headers: {X-Token: apply-header-0123456789}}
policies:
  - {agent_id: support_bot, blocked_tools: [broken]}
`, g.tool.URL, g.tool.URL, g.tool.URL)
			code, out := g.cli("apply", "-f", file(t, text))
			if want := "charge unchanged, fresh created, signed changed, sealed created, support_bot created"; code != 0 || applies(out) != want {
				t.Fatal(code, out)
			}
			code, out = g.cli("apply", "-f", file(t, text))
			if want := "charge unchanged, fresh unchanged, signed unchanged, sealed unchanged, support_bot unchanged"; code != 0 || applies(out) != want {
				t.Fatal(code, out)
			}
			if status, body := g.ask(opsKey, "POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"broken","args":{}}`); status != 200 || !strings.Contains(body, "tool_explicitly_blocked") {
				t.Fatal(status, body)
			}
			g.ask(opsKey, "POST", "/v1/ai/run", `{"agent_id":"x","tool":"sealed","args":{}}`)
			if g.last.Get("X-Token") != "apply-header-0123456789" || g.last.Get("X-OnceOnly-Signature") == "" {
				t.Fatal("not signed", g.last)
			}
			for _, wrong := range []string{
				"policies: [{agent_id: support_bot, allow_force_new: true}]\ntools: [{name: charge, url: \"http://h.test/other\", match: [{url: \"http://h.test/a\"}]}, {name: fresh, url: \"http://h.test/a\"}]\n",
			} {
				if code, out := g.cli("apply", "-f", file(t, wrong)); code == 0 {
					t.Fatal(out)
				}
			}
			if _, policies := g.ask(opsKey, "GET", "/v1/entries/policies", ""); strings.Contains(policies, "allow_force_new") || !strings.Contains(policies, `"agent_id":"kept"`) {
				t.Fatal("half of it holds, or another one went:", policies)
			}
			for _, e := range g.store.Entries() {
				if strings.Contains(string(e.Value), "secret-0123456789") || strings.Contains(string(e.Value), "header-0123456789") {
					t.Fatalf("a secret in the clear: %s", e.Value)
				}
			}
			if code, out := g.cli("apply", "-f", filepath.Join(t.TempDir(), "none")); code != 2 {
				t.Fatal(code, out)
			}
		})
	}
}

// TestSidecarsShare: what is changed through one sidecar holds on the other; no secret of a file reaches Redis, and a
// sidecar whose file lacks one refuses the tool's calls.
func TestSidecarsShare(t *testing.T) {
	server := redistest.Start(t)
	signed := "  - {name: signed, url: %q, auth: {type: hmac_sha256, secrets: [file-secret-0123456789]}, headers: {X-Token: file-header-0123456789}}\n"
	one := governedOn(t, t.TempDir(), onRedis(server), fmt.Sprintf(signed, "http://127.0.0.1:1/s")+"policies: [{agent_id: support_bot, max_actions_per_hour: 5}]\n")
	other := governedOn(t, t.TempDir(), onRedis(server), "policies: [{agent_id: support_bot, max_actions_per_hour: 9}]\n")
	if all := fmt.Sprint(server.Do("HGETALL", "t:{t}:entries")); !strings.Contains(all, "tool signed") || strings.Contains(all, "0123456789") {
		t.Fatal(all)
	}
	if status, body := other.ask(opsKey, "POST", "/v1/ai/run", `{"agent_id":"x","tool":"signed","args":{}}`); status != 200 || !strings.Contains(body, "tool_secret_missing") {
		t.Fatal(status, body)
	}
	if _, body := other.ask(opsKey, "GET", "/v1/policies/support_bot", ""); !strings.Contains(body, `"max_actions_per_hour":5`) {
		t.Fatal("the file holds where there is a shared policy", body)
	}
	if status, body := other.ask(opsKey, "POST", "/v1/policies/support_bot", `{"max_actions_per_hour":3}`); status != http.StatusOK {
		t.Fatal(status, body)
	}
	eventually(t, "the policy holds on the first", func() bool {
		_, body := one.ask(opsKey, "GET", "/v1/policies/support_bot", "")
		return strings.Contains(body, `"max_actions_per_hour":3`)
	})
	if code, out := one.cli("agent", "disable", "support_bot", "--reason", "test"); code != 0 {
		t.Fatal(out)
	}
	eventually(t, "the switch arrives", func() bool { return other.disabled("support_bot") })
	if status, body := other.ask(opsKey, "POST", "/v1/ai/run", `{"agent_id":"support_bot","tool":"charge","args":{}}`); status != 200 || !strings.Contains(body, "agent_disabled") {
		t.Fatal(status, body)
	}
	if code, out := other.cli("agent", "enable", "support_bot"); code != 0 {
		t.Fatal(out)
	}
	eventually(t, "it is on again", func() bool { return !one.disabled("support_bot") })
	if a, b := one.store.Secret(), other.store.Secret(); a != b {
		t.Fatal("keys are shown under two names")
	}
}

// TestShardByAgent: each agent's calls stand apart; no way to a tool whose calls several agents would share is open, and
// an operator finds and resolves a call without knowing whose shard it is in.
func TestShardByAgent(t *testing.T) {
	server := redistest.Start(t)
	hangsUp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}))
	defer hangsUp.Close()
	words := strings.Replace(onRedis(server), "poll:", "shard: agent, poll:", 1)
	g := governedOn(t, t.TempDir(), words, fmt.Sprintf("  - {name: lost, url: \"%s/lost\"}\n", hangsUp.URL))
	wide := fmt.Sprintf("tools: [{name: wide, url: \"%s/wide\", dedup: {scope: global}}]\n", g.tool.URL)
	if code, out := g.cli("apply", "-f", file(t, wide)); code == 0 || !strings.Contains(out, "dedup.scope") || !strings.Contains(out, "write scope: agent") || !strings.Contains(out, "wide") {
		t.Fatal(code, out)
	}
	for _, agent := range []string{"one", "two/of them"} {
		body := fmt.Sprintf(`{"agent_id":%q,"tool":"lost","args":{"n":1}}`, agent)
		if status, got := g.ask(opsKey, "POST", "/v1/ai/run", body); !strings.Contains(got, "upstream_outcome_unknown") {
			t.Fatal(status, got)
		}
		if status, got := g.ask(opsKey, "POST", "/v1/ai/run", body); !strings.Contains(got, "outcome_unknown") {
			t.Fatal(status, got)
		}
	}
	_, list := g.cli("unknown", "ls", "-o", "json")
	var calls []api.UnknownCall
	if err := json.Unmarshal([]byte(list), &calls); err != nil || len(calls) != 2 {
		t.Fatal(err, list)
	}
	for _, c := range calls {
		if code, out := g.cli("unknown", "resolve", c.Key, "--outcome", "not-executed", "--why", "looked", "--force"); code != 0 {
			t.Fatal(code, out)
		}
	}
	if _, list := g.cli("unknown", "ls", "-o", "json"); strings.TrimSpace(list) != "[]" {
		t.Fatal(list)
	}
}
