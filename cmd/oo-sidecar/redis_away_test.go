package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// tool calls a tool through the proxy.
func (g *governed) call(name, args string) (*http.Response, string) {
	g.t.Helper()
	resp, err := http.Post("http://"+g.listeners.proxy.Addr().String()+"/tools/"+name, "application/json", strings.NewReader(args))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

func (g *governed) ready() (bool, string) {
	g.t.Helper()
	resp, err := http.Get("http://" + g.listeners.health.Addr().String() + "/readyz?verbose")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode == http.StatusOK, string(body)
}

// TestStartWithoutRedis: a sidecar that starts while Redis is away is not ready, sends nothing that has effects, passes
// reads but not those of an agent that was stopped, and goes on by itself when Redis comes.
func TestStartWithoutRedis(t *testing.T) {
	server, dir := redistest.Start(t), t.TempDir()
	more := "  - {name: look, url: \"%s/look\", effect: read, match: [{methods: [POST], url: \"http://look.test/\"}]}\n"
	tool := governedOn(t, t.TempDir(), "", "").tool.URL
	more = strings.ReplaceAll(more, "%s", tool)
	first := governedOn(t, dir, onRedis(server), more)
	if status, body := first.ask(opsKey, "POST", "/v1/policies/default", `{"blocked_tools":["broken"]}`); status != http.StatusOK {
		t.Fatal(status, body)
	}
	server.Kill()
	if code, out := first.cli("agent", "disable", "support_bot", "--reason", "test"); code != 0 || !strings.Contains(out, "note: it binds this sidecar at once") {
		t.Fatal(code, out)
	}
	if code, out := first.cli("unknown", "ls"); code != 1 || !strings.Contains(out, "cannot be listed") {
		t.Fatal("an empty list while nobody knows: ", code, out)
	}
	first.stop()

	again := governedOn(t, dir, onRedis(server), more)
	if ready, said := again.ready(); ready || !strings.Contains(said, "redis") {
		t.Fatal(ready, said)
	}
	if resp, body := again.call("charge", `{"n":1}`); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "store_unavailable") {
		t.Fatal(resp.StatusCode, body)
	}
	if resp, body := again.call("look", `{}`); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.StatusCode, body)
	}
	if resp, body := again.call("broken", `{}`); !strings.Contains(body, "tool_explicitly_blocked") {
		t.Fatal("the api's policy is forgotten", resp.StatusCode, body)
	}
	if !again.disabled("support_bot") {
		t.Fatal("the switch is forgotten")
	}
	server.Restart()
	eventually(t, "it is ready", func() bool { ready, _ := again.ready(); return ready })
	if resp, body := again.call("charge", `{"n":1}`); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.StatusCode, body)
	}
	if resp, _ := again.call("charge", `{"n":1}`); resp.Header.Get("Idempotent-Replayed") != "true" {
		t.Fatal("executed again")
	}
	eventually(t, "the others know of the switch", func() bool {
		all, _ := server.Do("HGETALL", "t:{t}:switch").([]any)
		return len(all) == 2
	})
	fresh := governedOn(t, t.TempDir(), onRedis(server), more)
	if !fresh.disabled("support_bot") || fresh.store.Secret() != again.store.Secret() {
		t.Fatal("not shared")
	}
}
