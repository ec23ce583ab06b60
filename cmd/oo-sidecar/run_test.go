package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/config"
)

// TestRunWarnsOfLocalTools: programs call loopback directly, whatever the variables say.
func TestRunWarnsOfLocalTools(t *testing.T) {
	file := filepath.Join(t.TempDir(), "oo-sidecar.yaml")
	text := "version: 1\ntools: [{name: local, url: \"http://127.0.0.1:1/\"}, {name: named, url: \"http://localhost:1/\"}, {name: far, url: \"https://far.test/\"}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if said := (&host{cfg: cfg}).warnings("true"); len(said) != 1 || !strings.Contains(said[0], "not governed: local, named;") {
		t.Errorf("%q", said)
	}
	cfg.Tools = cfg.Tools[2:]
	if said := (&host{cfg: cfg}).warnings("true"); len(said) != 0 {
		t.Errorf("%q", said)
	}
}

// TestRunSaysThatNothingCameThrough: zeros alone would read as if all were well with a runtime that reads no variables.
func TestRunSaysThatNothingCameThrough(t *testing.T) {
	h, probe := &host{}, &tally{reasons: map[string]int{}}
	probe.add(&tallied{Reason: "probe", Decision: "blocked"})
	if text := h.leftover(probe, 0); !strings.Contains(text, "no call came through") || !strings.Contains(text, "doctor --") {
		t.Error(text)
	}
	if text := h.leftover(probe, 1); strings.Contains(text, "no call") {
		t.Error("one is running:", text)
	}
	for _, r := range []tallied{{Decision: "executed"}, {Decision: "blocked"}, {Decision: "executed", Outcome: "not_sent"}, {Decision: "executed", Method: "CONNECT"}} {
		through := &tally{reasons: map[string]int{}}
		if through.add(&r); h.leftover(through, 0) != "" {
			t.Error(r, h.leftover(through, 0))
		}
	}
}
