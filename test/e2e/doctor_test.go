package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// found are the doctor's findings by check.
type found map[string]struct{ Check, State, Detail, Mend string }

// doctor examines as the caller does, in this environment and with these arguments.
func doctor(t *testing.T, as *syscall.Credential, env []string, args ...string) (found, int) {
	t.Helper()
	cmd := exec.Command(stand.Sidecar(t), append([]string{"doctor", "-o", "json"}, args...)...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	var list []struct{ Check, State, Detail, Mend string }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v: %q, %s", err, out, errs.String())
	}
	all := found{}
	for _, f := range list {
		if (f.State != "ok") != (f.Mend != "") {
			t.Errorf("%s is %s and its mend %q", f.Check, f.State, f.Mend)
		}
		all[f.Check] = f
	}
	return all, cmd.ProcessState.ExitCode()
}

func (all found) is(t *testing.T, check, state, detail string) {
	t.Helper()
	if f := all[check]; f.State != state || !strings.Contains(f.Detail, detail) {
		t.Errorf("%s: %q %q, wanted %q %q", check, f.State, f.Detail, state, detail)
	}
}

// only is an environment in which nothing but these programs are found.
func only(t *testing.T, programs map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range programs {
		path := filepath.Join(dir, name)
		if script == "" {
			if err := os.Symlink(stand.Program(t, name), path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var env []string
	for _, entry := range cleanEnv() {
		if !strings.HasPrefix(entry, "PATH=") {
			env = append(env, entry)
		}
	}
	return append(env, "PATH="+dir)
}

// TestDoctor: what is well, what is not, and an exit code that says so.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	env := only(t, map[string]string{"curl": "", "python3": "exec " + stand.Installed(t, "venv", "bin", "python") + ` "$@"`})

	all, code := doctor(t, nil, env, "--config", s.config)
	all.is(t, "sidecar", "bad", "no sidecar answers")
	if code != 1 {
		t.Errorf("without a sidecar: exit %d", code)
	}

	serve(t, s.config)
	all, code = doctor(t, nil, env, "--config", s.config)
	for check, detail := range map[string]string{"configuration": "", "sidecar": "up and ready", "clock": "", "api": "closed",
		"Go": "over http", "curl": "over http", "Python": "over http"} {
		all.is(t, check, "ok", detail)
	}
	all.is(t, "interception", "note", "off")
	all.is(t, "user", "note", "accidents")
	all.is(t, "way around", "note", "not tried")
	if _, tried := all["Java"]; code != 0 || tried {
		t.Errorf("all is well: exit %d, %v", code, all)
	}

	env = only(t, map[string]string{
		"curl": `exec ` + stand.Program(t, "curl") + ` -q --noproxy '*' "$@"`, "python3": `echo "oo-sidecar of another kind"`,
	})
	all, code = doctor(t, nil, append(env, "NO_PROXY=.test", "LEFT_OVER=Bearer "+operatorKeyOf(t, s)), "--config", s.config, "--direct", s.proxy)
	all.is(t, "curl", "warn", "do not go through the sidecar")
	all.is(t, "Python", "warn", "of another kind")
	all.is(t, "tool ok", "bad", "NO_PROXY names plain.test")
	all.is(t, "api", "bad", "LEFT_OVER holds the operator's key")
	all.is(t, "way around", "note", "bypassable: "+s.proxy)
	if code != 1 {
		t.Errorf("with much amiss: exit %d", code)
	}
	all, _ = doctor(t, nil, env, "--config", s.config, "--direct", stand.FreeAddr(t))
	all.is(t, "way around", "ok", "enforced")
}

// TestDoctorOfACommand: a runtime that does not go through the sidecar is wrong where the agent uses it.
func TestDoctorOfACommand(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	serve(t, s.config)
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("#!/usr/bin/env -S python3 -u\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := only(t, map[string]string{"curl": "", "python3": `echo "around"`, "unheard-of": "exit 1"})
	all, code := doctor(t, nil, env, "--config", s.config)
	all.is(t, "Python", "warn", "do not go through")
	if code != 0 {
		t.Errorf("a runtime that nobody may use: exit %d", code)
	}
	for _, c := range []struct {
		command      []string
		check, state string
		code         int
	}{
		{[]string{"curl", "http://x"}, "Python", "warn", 0},
		{[]string{"python3", "agent.py"}, "Python", "bad", 1},
		{[]string{agent, "--config", "its-own"}, "Python", "bad", 1},
		{[]string{stand.Installed(t, "venv", "bin", "python")}, "Python", "ok", 0},
		{[]string{"unheard-of"}, "command", "note", 0},
		{[]string{"not-there"}, "command", "note", 0},
	} {
		all, code := doctor(t, nil, env, append([]string{"--config", s.config, "--"}, c.command...)...)
		all.is(t, c.check, c.state, "")
		if code != c.code {
			t.Errorf("%v: exit %d, wanted %d: %v", c.command, code, c.code, all)
		}
	}
}

func operatorKeyOf(t *testing.T, s *shelf) string {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(filepath.Dir(s.config), "store", "operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

// TestDoctorOfIntercepted: runtimes that go through the sidecar and trust its CA, or do not.
func TestDoctorOfIntercepted(t *testing.T) {
	t.Parallel()
	proxy := settings{"listen": stand.FreeAddr(t), "intercept": settings{"enabled": true, "hosts": []string{"pay.test"}}}
	s := newShelf(t, settings{"proxy": proxy})
	serve(t, s.config)
	curl := stand.Program(t, "curl")
	env := only(t, map[string]string{"python3": "exec " + stand.Installed(t, "venv", "bin", "python") + ` "$@"`, "curl": "exec " + curl + ` -q --cacert /etc/hostname "$@"`})
	all, _ := doctor(t, nil, env, "--config", s.config)
	all.is(t, "interception", "ok", "bundle.pem")
	all.is(t, "Go", "ok", "over http and https")
	all.is(t, "Python", "ok", "over http and https")
	all.is(t, "curl", "warn", "does not trust its CA")
}

// TestDoctorAsAnotherUser: an agent of its own user cannot read the keys; when it can go around the sidecar that is bad.
func TestDoctorAsAnotherUser(t *testing.T) {
	t.Parallel()
	stand.Root(t, "become another user")
	s := newShelf(t, settings{"api": settings{"listen": stand.FreeAddr(t)}})
	serve(t, s.config)
	for dir := filepath.Dir(s.config); dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) { // what is above is not the test's
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.config, 0o644); err != nil {
		t.Fatal(err)
	}
	env := only(t, map[string]string{})
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	all, code := doctor(t, &syscall.Credential{Uid: 65534, Gid: 65534}, env, "--config", s.config, "--direct", outside.Addr().String())
	all.is(t, "user", "ok", "the sidecar runs as user 0, this is user 65534")
	all.is(t, "api", "ok", "closed")
	all.is(t, "Go", "ok", "goes through")
	all.is(t, "way around", "bad", "bypassable")
	if _, complained := all["operator"]; complained || code != 1 {
		t.Errorf("exit %d, %v", code, all)
	}
}
