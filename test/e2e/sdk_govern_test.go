package e2e

import (
	"os/exec"
	"testing"
)

// TestPythonSDKGoverns runs the governance, account and timeline calls of the SDK from PyPI against the program.
func TestPythonSDKGoverns(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) { pythonSDKGoverns(t, kind) })
	}
}

func pythonSDKGoverns(t *testing.T, kind string) {
	s, c := startForSDKOn(t, kind)
	s.witness = s.witnessed(t)
	cmd := exec.Command(virtual(t), "sdk_govern.py", s.base(), operatorKey, agentKey, c.URL+"/registered")
	cmd.Env = append(cleanEnv(), "PYTHONSAFEPATH=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, s.log)
	}
	if n := c.count("/registered"); n != 1 {
		t.Errorf("the registered tool ran %d times, want 1", n)
	}
}
