package main

import (
	"strings"
	"testing"
)

// TestWrongCommandLines: exit code 2, and a message that says what to write instead.
func TestWrongCommandLines(t *testing.T) {
	alone(t)
	for _, c := range []struct{ args, says string }{
		{"srve", "Did you mean this?"},
		{"srve", "see oo-sidecar --help"},
		{"serve extra", "oo-sidecar serve; write: oo-sidecar serve [flags]"},
		{"doctor curl", "write: oo-sidecar doctor [flags] [-- COMMAND"},
		{"agent disable", "write: oo-sidecar agent disable ID [flags]"},
		{"agent disable x", `"reason" not set; see oo-sidecar agent disable --help`},
		{"agent disable x --reason=", "--reason is empty; say why"},
		{"unknown resolve", "write: oo-sidecar unknown resolve KEY"},
		{"unknown resolve abcd --outcome done --why=", "--why is empty; say how you know"},
		{"completion", "write: oo-sidecar completion bash|zsh|fish|powershell"},
		{"apply -f -", "write -f FILE"},
	} {
		code, out, errs := line(t, strings.Fields(c.args)...)
		if code != 2 || out != "" || !strings.Contains(errs, c.says) {
			t.Errorf("%s: %d %s%s\nwanted %q", c.args, code, out, errs, c.says)
		}
	}
	if code, out, _ := line(t, "--version"); code != 0 || out != "oo-sidecar version "+buildVersion()+"\n" {
		t.Errorf("%d %q", code, out)
	}
}
