package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestExplainAsksTheRunningSidecar: what was changed at run time is explained, and where nobody can say, the file is asked
// and the answer says so.
func TestExplainAsksTheRunningSidecar(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) { x.answer(200, "done") })
	s := start(t, []settings{a.tool("pay", nil)}, nil)
	explains := func(what string, has []string, args ...string) {
		t.Helper()
		out, errs, code := s.cli(append([]string{"explain", "POST", "/tools/pay", "-d", `{"n":1}`}, args...)...)
		if code != 0 || errs != "" {
			t.Errorf("%s: exit %d, %s", what, code, errs)
		}
		for _, part := range has {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %q in\n%s", what, part, out)
			}
		}
	}
	shown := s.call("pay", `{"n":1}`).header.Get("X-OnceOnly-Key")
	explains("as it is", []string{"judged by   the sidecar that runs at " + s.api, "would send", "key         " + shown})
	file := t.TempDir() + "/change.yaml"
	if err := os.WriteFile(file, []byte("version: 1\npolicies: [{agent_id: e2e-agent, blocked_tools: [pay]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := s.cli("apply", "-f", file); code != 0 {
		t.Fatal(out, errs)
	}
	explains("blocked at run time", []string{"403 tool_explicitly_blocked", "(api)"})
	explains("by the file", []string{"the configuration file alone: as --file wants", "would send"}, "--file")
	explains("of another agent", []string{"agent       another", "would send"}, "--agent", "another")
	if out, errs, code := s.cli("agent", "disable", "e2e-agent", "--reason", "test"); code != 0 {
		t.Fatal(out, errs)
	}
	explains("switched off", []string{"403 agent_disabled"})
	running := s.config
	text, err := os.ReadFile(running)
	if err != nil {
		t.Fatal(err)
	}
	s.config = t.TempDir() + "/other.yaml"
	if err := os.WriteFile(s.config, []byte(strings.Replace(string(text), `"pay"`, `"pay2"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	explains("of another file", []string{"the configuration file alone: the sidecar at " + s.api + " runs with another configuration", "tool_not_registered"})
	s.config = running
	s.stop()
	explains("of nobody", []string{"the configuration file alone: no sidecar answers", "would send"})
	if n := len(s.records()); n != 1 {
		t.Errorf("explaining left records: there are %d", n)
	}
}
