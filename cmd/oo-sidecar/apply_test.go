package main

import (
	"net/http"
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
