package e2e

import (
	"os/exec"
	"testing"
)

// apps runs a scenario of sdk_apps.py that must hold.
func (s *sidecar) apps(scenario, key string) {
	s.t.Helper()
	cmd := exec.Command(virtual(s.t), "sdk_apps.py", scenario, s.base(), key)
	cmd.Env = append(cleanEnv(), "PYTHONSAFEPATH=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s\n%s", scenario, err, out, s.log)
	}
}

// TestPythonSDKInProgramsAsUsersWriteThem: a LangChain tool, a FastAPI webhook, and every async call of the SDK.
func TestPythonSDKInProgramsAsUsersWriteThem(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) { pythonPrograms(t, kind) })
	}
}

func pythonPrograms(t *testing.T, kind string) {
	s, c := startForSDKOn(t, kind)
	s.witness = s.witnessed(t)
	for _, scenario := range []string{"twins", "langchain", "webhook"} {
		s.apps(scenario, operatorKey)
	}
	if n := c.count("/charge"); n != 1 {
		t.Errorf("charge ran %d times, want 1", n)
	}
}

// TestAWebhookWhileTheSidecarIsStopped: the SDK's own rules decide, open by default and shut where it was told so.
func TestAWebhookWhileTheSidecarIsStopped(t *testing.T) {
	s, _ := startForSDK(t)
	s.stop()
	s.apps("webhook_stopped", operatorKey)
}
