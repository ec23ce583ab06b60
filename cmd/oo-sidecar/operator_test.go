package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/health"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// standIn is what the api of a sidecar in a test acts on.
type standIn struct {
	agents   []api.Switch
	open     []api.Unknown
	resolved *dedup.Resolution
	refusal  error
	keep     bool // the switches that are on, whatever is enabled
}

func (s *standIn) Switches() []api.Switch           { return s.agents }
func (s *standIn) Unknowns() ([]api.Unknown, error) { return s.open, nil }

func (s *standIn) Disable(_ context.Context, agent, reason, _ string) (api.Switch, error) {
	sw := api.Switch{AgentID: agent, Off: true, Reason: reason, Since: time.Unix(1e9, 0)}
	s.agents = append(s.agents, sw)
	return sw, s.refusal
}

func (s *standIn) Enable(_ context.Context, agent, _, _ string) (api.Switch, error) {
	if !s.keep {
		s.agents = nil
	}
	return api.Switch{AgentID: agent}, s.refusal
}

func (s *standIn) Resolve(_ context.Context, r *dedup.Resolution) error {
	s.resolved = r
	return s.refusal
}

// running starts the listeners that commands ask, and returns the configuration that names them.
func running(t *testing.T, s *standIn, ready *error) (config string) {
	t.Helper()
	server := &api.Server{Switches: s, Unknowns: s, Log: slog.New(slog.DiscardHandler)}
	ring, err := api.NewKeyring([]api.KeyConfig{{Name: "ops", Role: "operator", Key: "once_live_operator_for_tests"}})
	if err != nil {
		t.Fatal(err)
	}
	server.UseKeys(ring)
	listener := httptest.NewServer(server.Handler())
	t.Cleanup(listener.Close)
	probes := httptest.NewServer((&health.Handler{Checks: []health.Check{{Name: "store", Err: func() error { return *ready }}}}).Routes())
	t.Cleanup(probes.Close)
	return written(t, listener.Listener.Addr().String(), probes.Listener.Addr().String(), "once_live_operator_for_tests")
}

func written(t *testing.T, apiAddr, healthAddr, key string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "oo.yaml")
	text := fmt.Sprintf("version: 1\napi: {listen: %q, keys: [{name: ops, role: operator, key: %q}]}\nhealth: {listen: %q}\nstore: {embedded: {dir: %q}}\n", apiAddr, key, healthAddr, t.TempDir())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// command runs a command line with the configuration.
func command(t *testing.T, config, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append(args, "--config", config), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// closedPort is an address at which nobody listens and, being bound, nobody will while the test runs.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		t.Cleanup(func() { syscall.Close(fd) })
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
}

// TestEnabledAndStillOff: `enable` does not leave an operator believing that an agent may call when it may not.
func TestEnabledAndStillOff(t *testing.T) {
	s := standIn{keep: true}
	config := running(t, &s, new(error))
	s.agents = []api.Switch{{AgentID: "*", Off: true, Reason: "incident", Since: time.Unix(1e9, 0)}}
	if code, out, errs := command(t, config, "", "agent", "enable", "billing"); code != 0 || out != "agent billing is enabled\n" || !strings.Contains(errs, "all agents are switched off still (incident)") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

// TestKillSwitchWithoutTheToolsSecrets: an operator's shell need not have what serve was started with, and the file may
// be in the middle of a change.
func TestKillSwitchWithoutTheToolsSecrets(t *testing.T) {
	s := standIn{}
	config := running(t, &s, new(error))
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("tools: [{name: pay, url: \"https://pay.test/\", headers: {Authorization: \"${env:NOBODY_HAS_SET_THIS}\"}}]\npolicies: [{templat: strict}]\n"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"agent", "disable", "billing", "--reason", "looping"}, {"unknown", "ls"}, {"health"}} {
		if code, _, errs := command(t, config, "", args...); code != 0 {
			t.Error(args, code, errs)
		}
	}
	if len(s.agents) != 1 {
		t.Error("the switch was not thrown", s.agents)
	}
}

// TestBuiltinIsNamed: who asks in another directory than the configuration's learns that it was not read.
func TestBuiltinIsNamed(t *testing.T) {
	file := written(t, closedPort(t), closedPort(t), "once_live_operator_for_tests")
	if _, _, errs := command(t, file, "", "agent", "ls"); !strings.Contains(errs, "no sidecar answers") || strings.Contains(errs, "built-in") {
		t.Error(errs)
	}
	t.Chdir(t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("OO_HEALTH__LISTEN", closedPort(t))
	if _, builtin, err := config.Locate(""); !builtin {
		needed.Missing(t, fmt.Sprint("this machine has a configuration of its own; remove it or run elsewhere: ", err))
	}
	for _, args := range [][]string{{"agent", "ls"}, {"health"}} {
		if code, _, errs := command(t, "", "", args...); code == 0 || !strings.Contains(errs, "built-in configuration") || !strings.Contains(errs, "--config FILE") {
			t.Error(args, code, errs)
		}
	}
}

func TestAgentCommands(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+closedPort(t)) // commands never go through a proxy
	var s standIn
	config := running(t, &s, new(error))
	if code, out, _ := command(t, config, "", "agent", "ls"); code != 0 || out != "no agents yet\n" {
		t.Errorf("empty: %d %q", code, out)
	}
	if code, out, _ := command(t, config, "", "agent", "ls", "-o", "json"); code != 0 || out != "[]\n" {
		t.Errorf("empty: %d %q", code, out)
	}
	if code, _, errs := command(t, config, "", "agent", "disable", "billing"); code != 2 || !strings.Contains(errs, "reason") {
		t.Errorf("without a reason: %d %q", code, errs)
	}
	if code, out, errs := command(t, config, "", "agent", "disable", "a/b \x1b[31m", "--reason", "loops"); code != 0 || out != "agent a/b \ufffd[31m is disabled\n" {
		t.Errorf("disable: %d %q %q", code, out, errs)
	}
	code, out, _ := command(t, config, "", "agent", "ls")
	if code != 0 || !strings.Contains(out, "loops") || !strings.Contains(out, "2001-09-09T01:46:40Z") || strings.Contains(out, "\x1b") {
		t.Errorf("ls: %d %q", code, out)
	}
	_, out, _ = command(t, config, "", "agent", "ls", "-o", "json")
	var agents []agentState
	if err := json.Unmarshal([]byte(out), &agents); err != nil || len(agents) != 1 || agents[0].AgentID != "a/b \x1b[31m" || agents[0].IsEnabled {
		t.Errorf("json: %s %v", out, err)
	}
	if code, out, _ := command(t, config, "", "agent", "enable", "*"); code != 0 || out != "agent * is enabled\n" {
		t.Errorf("enable: %d %q", code, out)
	}
	s.refusal = fmt.Errorf("disk: %w", api.ErrStore)
	if code, _, errs := command(t, config, "", "agent", "disable", "x", "--reason", "y"); code != 1 || !strings.Contains(errs, "nothing has changed") {
		t.Errorf("store down: %d %q", code, errs)
	}
	for _, args := range [][]string{{"agent"}, {"agent", "stop"}, {"agent", "ls", "-o", "xml"}, {"agent", "disable", "--reason", "x"}, {"agent", "ls", "extra"}} {
		if code, _, errs := command(t, config, "", args...); code != 2 || errs == "" {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}

func TestNobodyAnswersOrSomebodyElse(t *testing.T) {
	first, second := closedPort(t), closedPort(t)
	config := written(t, first, second, "once_live_operator_for_tests")
	for _, args := range [][]string{{"agent", "ls"}, {"unknown", "ls"}, {"health"}, {"health", "--live"}} {
		nobody := first
		if args[0] == "health" {
			nobody = second
		}
		code, _, errs := command(t, config, "", args...)
		if want := "no sidecar answers at " + nobody + ": is `oo-sidecar serve` running with this configuration?"; code != 1 || !strings.Contains(errs, want) {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
	good := running(t, &standIn{}, new(error))
	text, _ := os.ReadFile(good)
	os.WriteFile(good, bytes.ReplaceAll(text, []byte("operator_for_tests"), []byte("another_for_tests")), 0o600)
	if code, _, errs := command(t, good, "", "agent", "ls"); code != 2 || !strings.Contains(errs, "api key ops") || strings.Contains(errs, "once_live") {
		t.Errorf("another key: %d %q", code, errs)
	}
	l := httptest.NewServer((&health.Handler{}).Routes())
	defer l.Close()
	if code, _, errs := command(t, written(t, l.Listener.Addr().String(), first, "once_live_operator_for_tests"), "", "agent", "ls"); code != 1 || !strings.Contains(errs, "is no sidecar") {
		t.Errorf("another server: %d %q", code, errs)
	}
}

func TestHealthCommand(t *testing.T) {
	var ready error
	config := running(t, &standIn{}, &ready)
	if code, out, _ := command(t, config, "", "health"); code != 0 || !strings.HasSuffix(out, "ok\n") {
		t.Errorf("ready: %d %q", code, out)
	}
	ready = errors.New("disk full")
	if code, _, errs := command(t, config, "", "health"); code != 1 || !strings.Contains(errs, "disk full") {
		t.Errorf("not ready: %d %q", code, errs)
	}
	if code, _, _ := command(t, config, "", "health", "--live"); code != 0 {
		t.Errorf("live: %d", code)
	}
}

func TestUnknownCommands(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := standIn{}
	config := running(t, &s, new(error))
	if code, out, _ := command(t, config, "", "unknown", "ls"); code != 0 || out != "no outcome is unknown\n" {
		t.Errorf("empty: %d %q", code, out)
	}
	for i, shown := range []string{"abcd1", "abcd2"} {
		s.open = append(s.open, api.Unknown{Key: dedup.Key{byte(i)}, Shown: shown + strings.Repeat("0", 59), Tool: "stripe.charge", Agent: "billing", Effect: "mutating",
			Claimed: at, Ended: at.Add(time.Second), Fence: uint64(7 + i), Attempt: 1, Timeout: 15 * time.Second, SpendUSD: "0.50", RequestID: "r1"})
	}
	if code, out, _ := command(t, config, "", "unknown", "ls"); code != 0 || strings.Count(out, "\n") != 3 || !strings.Contains(out, "abcd100000000000  stripe.charge  billing") {
		t.Errorf("ls: %d\n%s", code, out)
	}
	code, out, errs := command(t, config, "", "unknown", "resolve", "abcd1", "--outcome", "done", "--why", "seen", "--answer", "-")
	if code != 0 || s.resolved == nil || s.resolved.Fence != 7 || s.resolved.Answer == nil || s.resolved.Answer.Header[0].Value != "text/plain; charset=utf-8" {
		t.Errorf("resolve: %d %q %q %+v", code, out, errs, s.resolved)
	}
	for _, word := range []string{"stripe.charge", "billing", "2026-01-02T03:04:05Z", "resolved as done"} {
		if !strings.Contains(out, word) {
			t.Errorf("resolve does not show %q:\n%s", word, out)
		}
	}
	if code, out, _ := command(t, config, "", "unknown", "show", "abcd2", "-o", "json"); code != 0 || !strings.HasPrefix(out, "[\n") {
		t.Errorf("show: %d %s", code, out)
	}
	s.resolved, s.refusal = nil, dedup.ErrTooYoung
	for name, c := range map[string]struct {
		code int
		says string
		args []string
	}{
		"ambiguous": {2, "give more of the key", []string{"abcd", "--outcome", "done", "--why", "x"}},
		"nobody":    {1, "unknown ls", []string{"ffff", "--outcome", "done", "--why", "x"}},
		"empty":     {2, "give a key", []string{"", "--outcome", "done", "--why", "x"}},
		"outcome":   {2, "neither done nor", []string{"abcd1", "--outcome", "maybe", "--why", "x"}},
		"no why":    {2, "why", []string{"abcd1", "--outcome", "done"}},
		"empty why": {2, "how you know", []string{"abcd1", "--outcome", "done", "--why", ""}},
		"no file":   {2, "--answer", []string{"abcd1", "--outcome", "done", "--why", "x", "--answer", "/nowhere/at/all"}},
		"not run":   {1, "has none", []string{"abcd1", "--outcome", "not-executed", "--why", "x", "--answer", "-"}},
		"too young": {1, "may still be running", []string{"abcd1", "--outcome", "not-executed", "--why", "x"}},
	} {
		if code, _, errs := command(t, config, "{}", append([]string{"unknown", "resolve"}, c.args...)...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: %d %q, want %d %q", name, code, errs, c.code, c.says)
		}
	}
}

func TestDialable(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:4781": "127.0.0.1:4781", ":4781": "127.0.0.1:4781", "0.0.0.0:4781": "127.0.0.1:4781", "[::]:4782": "[::1]:4782",
		"[::1]:4782": "[::1]:4782", "localhost:4781": "localhost:4781", "nonsense": "nonsense",
	} {
		if got := dialable(listen); got != want {
			t.Errorf("%s: %s, want %s", listen, got, want)
		}
	}
}
