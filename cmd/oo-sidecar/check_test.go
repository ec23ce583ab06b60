package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// line runs one command line in a directory of its own.
func line(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = run(context.Background(), args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

// alone makes a directory without any configuration the working directory, and hides those of the environment.
func alone(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", "")
}

func TestInitThenCheck(t *testing.T) {
	alone(t)
	if code, out, err := line(t, "init"); code != 0 || !strings.Contains(out, "wrote oo-sidecar.yaml") {
		t.Fatal(code, out, err)
	}
	if info, err := os.Stat("oo-sidecar.yaml"); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	text, _ := os.ReadFile("oo-sidecar.yaml")
	if !strings.HasPrefix(string(text), "# yaml-language-server: $schema=") {
		t.Error("no hint for editors")
	}
	if code, out, err := line(t, "check"); code != 0 || out != "oo-sidecar.yaml: ok (agent default, 0 tools, 0 policies, unregistered: govern)\n" || err != "" {
		t.Error(code, out, err)
	}

	if code, _, err := line(t, "init"); code != 2 || !strings.Contains(err, "--force") {
		t.Error(code, err)
	}
	os.WriteFile("oo-sidecar.yaml", []byte("mine"), 0o600)
	line(t, "init")
	if kept, _ := os.ReadFile("oo-sidecar.yaml"); string(kept) != "mine" {
		t.Error("overwritten without being told to")
	}
	if code, _, err := line(t, "init", "--force"); code != 0 {
		t.Error(code, err)
	}
	if again, _ := os.ReadFile("oo-sidecar.yaml"); string(again) != string(text) {
		t.Error("--force wrote something else")
	}
	if code, out, _ := line(t, "init", "--out", "-"); code != 0 || out != string(text) {
		t.Error(code, out)
	}
	dir := t.TempDir()
	if code, _, err := line(t, "init", "--out", dir); code != 0 {
		t.Error(code, err)
	}
	if code, _, err := line(t, "check", filepath.Join(dir, "oo-sidecar.yaml")); code != 0 {
		t.Error(code, err)
	}
	if code, _, err := line(t, "init", "--out", "no/such/dir/x.yaml"); code != 2 || !strings.Contains(err, "no/such/dir") {
		t.Error(code, err)
	}
}

func TestCheck(t *testing.T) {
	alone(t)
	if code, out, err := line(t, "check"); code != 0 || !strings.Contains(out, "built-in configuration: ok") {
		t.Error(code, out, err)
	}
	if code, out, err := line(t, "check", "absent.yaml"); code != 2 || out != "" || !strings.Contains(err, "absent.yaml: cannot be read: no such file") {
		t.Error(code, out, err)
	}
	os.WriteFile("bad.yaml", []byte("version: 1\nstore:\n  knid: embedded\nproxy:\n  drain: 5\n"), 0o600)
	want := "bad.yaml:3:3: store.knid: unknown key \"knid\"; did you mean kind?\n" +
		"bad.yaml:5:10: proxy.drain: the bare number 5 has no unit; write 5s for seconds\n"
	for _, args := range [][]string{{"check", "bad.yaml"}, {"check", "--config", "bad.yaml"}} {
		if code, out, err := line(t, args...); code != 2 || out != "" || err != want {
			t.Error(args, code, out, err)
		}
	}
	os.WriteFile("odd.yaml", []byte("version: 1\nagent: {id: a}\nstore: {seal_key: 0123456789abcdef}\n"), 0o600)
	code, out, err := line(t, "check", "odd.yaml")
	if code != 0 || !strings.HasPrefix(out, "odd.yaml: ok (agent a,") || err != "warning: odd.yaml:3:9: store.seal_key: a secret stands in the file itself; write ${env:NAME} or ${file:/path}\n" {
		t.Error(code, out, err)
	}
	t.Setenv("OO_STORE__KNID", "x")
	if code, _, err := line(t, "check", "odd.yaml"); code != 2 || !strings.Contains(err, "did you mean OO_STORE__KIND?") {
		t.Error(code, err)
	}
	if code, _, err := line(t, "check", "a", "b"); code != 2 || err == "" {
		t.Error(code, err)
	}
	if code, _, err := line(t, "check", "--shcema"); code != 2 || !strings.Contains(err, "check --help") {
		t.Error(code, err)
	}
}

func TestCheckSchema(t *testing.T) {
	alone(t)
	code, out, err := line(t, "check", "--schema")
	var schema struct {
		Schema     string `json:"$schema"`
		Properties map[string]any
	}
	if code != 0 || json.Unmarshal([]byte(out), &schema) != nil || schema.Schema == "" || schema.Properties["tools"] == nil {
		t.Error(code, err)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, err := line(t, "completion", shell); code != 0 || !strings.Contains(out, "oo-sidecar") {
			t.Error(shell, code, err)
		}
	}
	if code, _, err := line(t, "completion", "csh"); code != 2 || !strings.Contains(err, "csh") {
		t.Error(code, err)
	}
	if code, out, err := line(t, "__complete", "comp"); code != 0 || !strings.Contains(out, "completion") {
		t.Error(code, out, err)
	}
	bash := needed.Program(t, "bash")
	_, script, _ := line(t, "completion", "bash")
	read := exec.Command(bash, "-n")
	read.Stdin = strings.NewReader(script)
	if out, err := read.CombinedOutput(); err != nil {
		t.Errorf("bash does not read its script: %v\n%s", err, out)
	}
}
