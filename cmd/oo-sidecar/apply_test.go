package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestApplyOfOneEntryTwiceChangesNothing: which of the two is meant, nobody knows, and nobody else changed anything.
func TestApplyOfOneEntryTwiceChangesNothing(t *testing.T) {
	g := newGoverned(t, "")
	twice := g.tool.URL + "/twice"
	g.expect(opsKey,
		trade{"POST", "/v1/apply", `{"policies":[{"agent_id":"a","mode":"enforce"},{"agent_id":"a","mode":"shadow"}]}`, 422,
			`{"detail":{"error":"invalid_entry","message":"policy a stands there twice; name each once"}}`},
		trade{"POST", "/v1/apply", `{"tools":[{"spec":{"name":"one","url":"` + twice + `"}},{"spec":{"name":"one","scope":"global","url":"` + twice + `"}}]}`, 422,
			`{"detail":{"error":"invalid_entry","message":"tool one stands there twice; name each once"}}`})
	if status, _ := g.ask(opsKey, "GET", "/v1/policies/a", ""); status != http.StatusNotFound {
		t.Errorf("the policy was changed: %d", status)
	}
	g.expect(opsKey, trade{"POST", "/v1/apply", `{"policies":[{"agent_id":"a","mode":"enforce"}]}`, 200, `[{"kind":"policy","name":"a","change":"created"}]`})
}

// TestChangesAreLogged: who reads the log of a night sees what was changed and by which key, with no key and no secret in it.
func TestChangesAreLogged(t *testing.T) {
	g := newGoverned(t, "")
	const secret = "a_secret_that_no_log_may_show_0123"
	for _, change := range []struct{ method, path, body string }{
		{"POST", "/v1/apply", `{"policies":[{"agent_id":"a"}]}`},
		{"POST", "/v1/entries/tools", `{"name":"one","url":"` + g.tool.URL + `/one"}`},
		{"POST", "/v1/entries/keys", `{"name":"night","role":"operator","key":"` + secret + `"}`},
		{"DELETE", "/v1/entries/keys/night", ""},
		{"DELETE", "/v1/entries/policies/a", ""},
	} {
		if status, text := g.ask(opsKey, change.method, change.path, change.body); status != http.StatusOK {
			t.Fatal(change, status, text)
		}
	}
	log, err := os.ReadFile(g.said)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`"policy":"a","what":"set","by":"ops"`, `"tool":"one","what":"set","by":"ops"`, `"key":"night","what":"set","by":"ops"`,
		`"key":"night","what":"revoked","by":"ops"`, `"policy":"a","what":"deleted","by":"ops"`} {
		if !strings.Contains(string(log), `"changed through the api",`+line) {
			t.Errorf("not logged: %s\n%s", line, log)
		}
	}
	if strings.Contains(string(log), secret) {
		t.Errorf("the log shows a key: %s", log)
	}
}
