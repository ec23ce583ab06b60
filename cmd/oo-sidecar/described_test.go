package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
)

var openapi = sync.OnceValues(func() (*apitest.Description, error) {
	data, err := os.ReadFile(filepath.Join("..", "..", "internal", "api", "openapi.json"))
	if err != nil {
		return nil, err
	}
	return apitest.Read(data)
})

// described holds an answer against the OpenAPI description.
func described(t *testing.T, r *http.Request, resp *http.Response, body string) {
	t.Helper()
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Judge(r, resp.StatusCode, []byte(body)); err != nil {
		t.Error(err)
	}
}

func TestTheDescriptionIsServed(t *testing.T) {
	g := newGoverned(t, "")
	want, err := os.ReadFile(filepath.Join("..", "..", "internal", "api", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	g.expect(botKey, trade{"GET", "/v1/openapi.json", "", 200, strings.TrimSpace(string(want))})
}

// TestAnAgentsKeyGovernsNothing asks for every operation that is described: what changes governance, and whatever is
// another agent's, is refused.
func TestAnAgentsKeyGovernsNothing(t *testing.T) {
	g := newGoverned(t, `policies: [{agent_id: other, max_actions_per_hour: 1}]`)
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"/v1/check-lock", "/v1/ai/", "/v1/me", "/v1/usage", "/v1/metrics", "/v1/events", "/v1/runs", "/v1/openapi.json"}
	refused := 0
	doc.Operations(func(path, method string) {
		free := slices.ContainsFunc(own, func(p string) bool { return path == p || strings.HasPrefix(path, p) })
		if free && path != "/v1/me/notifications" || path == "/v1/policies" {
			return
		}
		asked := strings.NewReplacer("{id}", "other", "{name}", "charge", "{agent}", "other", "{user}", "u").Replace(path)
		status, text := g.ask(botKey, method, asked, `{"agent_id":"other"}`)
		if status != 403 || text != `{"detail":"Forbidden"}` {
			t.Errorf("%s %s: %d %s", method, asked, status, text)
		}
		refused++
	})
	if refused < 25 {
		t.Errorf("only %d operations were tried", refused)
	}
	g.expect(botKey,
		trade{"GET", "/v1/policies", "", 200, "[]"},
		trade{"POST", "/v1/ai/run", `{"agent_id":"other","tool":"charge"}`, 403, `{"detail":"Forbidden"}`},
		trade{"POST", "/v1/ai/run", `{"key":"k","metadata":{"agent_id":"other"}}`, 403, `{"detail":"Forbidden"}`},
	)
}
