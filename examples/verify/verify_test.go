// Package verify holds verifiers of signed calls for the receiving end; its test runs all of them.
package verify

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

const secret = "a secret of the tool's, with é"

// received is a call as a tool gets it, and what a verifier must say of it.
type received struct {
	name                    string
	method, authority, path string
	body                    string
	header                  map[string]string
	secret                  string
	wrong                   string // part of the reason; "" for a valid call
}

// arrive signs a call with the secrets at a time and hands it over as it was sent.
func arrive(t *testing.T, name string, at time.Time, secrets ...string) received {
	t.Helper()
	keys, err := hmac.NewKeys(hmac.OnceOnly, secrets)
	if err != nil {
		t.Fatal(err)
	}
	c := &hmac.Call{Method: "POST", Authority: "tool.example:8443", Path: "/hook?a=%20b", Body: []byte("{\"n\": 1}\r\n\xff"),
		Key: "oo_" + strings.Repeat("0f", 32), Fence: 18446744073709551615, Tool: "mail.send", Agent: "billing-agent"}
	fields, err := keys.Sign(c, at)
	if err != nil {
		t.Fatal(err)
	}
	r := received{name: name, method: c.Method, authority: c.Authority, path: c.Path, body: string(c.Body), secret: secret,
		header: map[string]string{"Idempotency-Key": c.Key, "X-OnceOnly-Fence": fmt.Sprint(c.Fence), "X-OnceOnly-Tool": c.Tool,
			"X-OnceOnly-Agent-Id": c.Agent, "Content-Type": "application/json"}}
	for _, f := range fields {
		r.header[f.Name] = f.Value
	}
	return r
}

func calls(t *testing.T) []received {
	now := time.Now()
	list := []received{arrive(t, "as sent", now, secret), arrive(t, "while rotating", now, secret, "the old secret")}
	bad := func(name, reason string, change func(*received)) {
		r := arrive(t, name, now, secret)
		change(&r)
		r.wrong = reason
		list = append(list, r)
	}
	const body, whole, when = "body", "V2", "timestamp"
	bad("body changed", body, func(r *received) { r.body += " " })
	bad("body empty", body, func(r *received) { r.body = "" })
	bad("plain signature absent", body, func(r *received) { delete(r.header, "X-OnceOnly-Signature") })
	bad("another secret", body, func(r *received) { r.secret = "another" })
	bad("method changed", whole, func(r *received) { r.method = "PUT" })
	bad("host changed", whole, func(r *received) { r.authority = "tool.example" })
	bad("path changed", whole, func(r *received) { r.path = "/hook?a=+b" })
	for _, name := range []string{"Idempotency-Key", "X-OnceOnly-Fence", "X-OnceOnly-Tool", "X-OnceOnly-Agent-Id"} {
		bad(name+" changed", whole, func(r *received) { r.header[name] += "1" })
		bad(name+" absent", whole, func(r *received) { delete(r.header, name) })
	}
	bad("V2 absent", whole, func(r *received) { delete(r.header, "X-OnceOnly-Signature-V2") })
	bad("V2 cut", whole, func(r *received) {
		v2 := r.header["X-OnceOnly-Signature-V2"]
		r.header["X-OnceOnly-Signature-V2"] = v2[:len(v2)-1]
	})
	bad("V2 without pairs", whole, func(r *received) {
		r.header["X-OnceOnly-Signature-V2"], _, _ = strings.Cut(r.header["X-OnceOnly-Signature-V2"], ",")
	})
	bad("timestamp absent", when, func(r *received) { delete(r.header, "X-OnceOnly-Timestamp") })
	bad("timestamp no number", when, func(r *received) { r.header["X-OnceOnly-Timestamp"] = "now" })
	bad("timestamp replaced", whole, func(r *received) { r.header["X-OnceOnly-Timestamp"] = fmt.Sprint(now.Unix() - 7) })
	old := arrive(t, "old", now.Add(-time.Hour), secret)
	old.wrong = when
	replayed := arrive(t, "old under a new timestamp", now.Add(-time.Hour), secret)
	replayed.header["X-OnceOnly-Timestamp"] = fmt.Sprint(now.Unix())
	replayed.wrong = whole
	early := arrive(t, "from the future", now.Add(time.Hour), secret)
	early.wrong = when
	return append(list, old, replayed, early)
}

func TestGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "verify")
	if out, err := exec.Command("go", "build", "-o", program, "./go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	judge(t, program)
}

func TestPython(t *testing.T) {
	judge(t, needed.Program(t, "python3"), filepath.Join("python", "verify.py"))
}

func TestNode(t *testing.T) { judge(t, needed.Program(t, "node"), filepath.Join("node", "verify.mjs")) }

// judge runs a verifier on every call: exit 0 for the valid ones, 1 with the reason for the others.
func judge(t *testing.T, command ...string) {
	for _, r := range calls(t) {
		t.Run(r.name, func(t *testing.T) {
			code, out, reason := verify(t, r, command...)
			switch {
			case r.wrong == "" && (code != 0 || out != "valid\n"):
				t.Errorf("a valid call: exit %d: %s%s", code, out, reason)
			case r.wrong != "" && (code != 1 || out != "" || !strings.HasPrefix(reason, "not valid: ") || !strings.Contains(reason, r.wrong)):
				t.Errorf("exit %d: %s%s; want exit 1 with a word of the %s", code, out, reason, r.wrong)
			}
		})
	}
	if err := exec.Command(command[0], command[1:]...).Run(); exitCode(err) != 2 {
		t.Errorf("without arguments: %v, want exit 2", err)
	}
}

func verify(t *testing.T, r received, command ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	secretFile, bodyFile := filepath.Join(dir, "secret"), filepath.Join(dir, "body")
	if err := errors.Join(os.WriteFile(secretFile, []byte(r.secret+"\n"), 0o600), os.WriteFile(bodyFile, []byte(r.body), 0o600)); err != nil {
		t.Fatal(err)
	}
	var in, out, reason bytes.Buffer
	for name, value := range r.header {
		fmt.Fprintf(&in, "%s: %s\r\n", name, value)
	}
	cmd := exec.Command(command[0], append(command[1:len(command):len(command)], secretFile, bodyFile, r.method, r.authority, r.path)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &reason
	return exitCode(cmd.Run()), out.String(), reason.String()
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}
