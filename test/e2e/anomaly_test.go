package e2e

import (
	"strings"
	"testing"
)

// TestAnAgentThatHammersARefusalIsSwitchedOff: twenty refusals of one call in a minute, by the proxy, and the policy
// says that this switches its agent off: at once, across restarts, and with the figures as the reason.
func TestAnAgentThatHammersARefusalIsSwitchedOff(t *testing.T) {
	c := newTill(t)
	s := start(t, []settings{{"name": "charge", "url": c.URL + "/charge"}, {"name": "refund", "url": c.URL + "/refund"}},
		settings{"policies": []settings{{"agent_id": "e2e-agent", "blocked_tools": []string{"refund"}, "anomaly": "disable"}}})
	for n := range 20 {
		if a := s.call("refund", `{}`); a.code() != "tool_explicitly_blocked" {
			t.Fatalf("%d: %d %s", n, a.status, a.body)
		}
		if a := s.call("charge", `{"n":1}`); n < 19 && a.status != 200 || n == 19 && a.code() != "agent_disabled" {
			t.Fatalf("another call beside refusal %d: %d %s", n, a.status, a.body)
		}
	}
	s.kill()
	s.run()
	if a := s.call("charge", `{"n":2}`); a.code() != "agent_disabled" {
		t.Errorf("after a restart: %d %s", a.status, a.body)
	}
	const why = "anomaly: identical_refusals: 20 refusals of refund (tool_explicitly_blocked) within "
	if out, _, code := s.cli("agent", "ls"); code != 0 || !strings.Contains(out, why) {
		t.Errorf("agent ls: %s", out)
	}
	if out, _, code := s.cli("audit", "export", "--changes"); code != 0 || strings.Count(out, why) != 2 || !strings.Contains(out, `"what":"anomaly"`) {
		t.Errorf("audit export: %s", out)
	}
	if n := c.count("/refund"); n != 0 {
		t.Errorf("a refused call reached its tool %d times", n)
	}
	if _, errs, code := s.cli("agent", "enable", "e2e-agent"); code != 0 {
		t.Error(errs)
	}
	if a := s.call("charge", `{"n":3}`); a.status != 200 {
		t.Errorf("let go on: %d %s", a.status, a.body)
	}
}
