package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// schemathesis runs the fuzzer from PyPI over what the description describes, and returns what it says and whether it
// found nothing. It is bounded by examples and by time, and has one thread: Python before 3.12 may fail with "AST
// constructor recursion depth mismatch" where two of them parse.
func (s *sidecar) schemathesis(document, key string, more ...string) (string, bool) {
	s.t.Helper()
	st := stand.Installed(s.t, "venv", "bin", "st")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	document, err := filepath.Abs(document)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, st, append([]string{"run", document, "--url", "http://" + s.api, "-H", "Authorization: Bearer " + key,
		"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth",
		"--seed", "1", "--generation-database", "none", "--request-timeout", "20", "--no-color", "--workers", "1", "--warnings", "off"}, more...)...)
	cmd.Env, cmd.Dir = cleanEnv(), s.t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err == nil
}

const openapiFile = "../../internal/api/openapi.json"

// TestSchemathesis: no 5xx, and no answer outside the description, whatever is asked, with an operator's key and with an
// agent's.
func TestSchemathesis(t *testing.T) {
	s, _ := startForSDK(t)
	for name, key := range map[string]string{"operator": operatorKey, "agent": agentKey} {
		out, fine := s.schemathesis(openapiFile, key, "--max-examples", "15", "--max-time", "15")
		if _, summary, ok := strings.Cut(out, "SUMMARY"); ok && fine {
			t.Logf("as an %s:%s", name, summary)
		}
		if !fine || !strings.Contains(out, " passed") {
			t.Errorf("as an %s:\n%s\n%s", name, out, s.log)
		}
	}
}

// TestSchemathesisFindsWhatIsNotDescribed: with one status taken out of the description it must find that.
func TestSchemathesisFindsWhatIsNotDescribed(t *testing.T) {
	s, _ := startForSDK(t)
	text, err := os.ReadFile(openapiFile)
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "openapi.json")
	if err := os.WriteFile(short, bytes.ReplaceAll(text, []byte(`"422": {`), []byte(`"418": {`)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, fine := s.schemathesis(short, operatorKey, "--max-examples", "5", "--phases", "coverage", "--include-path", "/v1/check-lock")
	if fine || !strings.Contains(out, "Undocumented status code") {
		t.Errorf("it found nothing:\n%s", out)
	}
}
