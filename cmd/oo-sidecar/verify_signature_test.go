package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/hmac"
)

// signedCall is the headers, as -H arguments, of a call to https://tool.example/hook?a=b with the body {}.
func signedCall(t *testing.T, scheme, secret string, at time.Time) []string {
	t.Helper()
	keys, err := hmac.NewKeys(scheme, []string{secret})
	if err != nil {
		t.Fatal(err)
	}
	fields, err := keys.Sign(&hmac.Call{Method: "POST", Authority: "tool.example", Path: "/hook?a=b", Body: []byte("{}"),
		Key: "oo_1", Fence: 7, Tool: "mail.send", Agent: "ag", ID: "oo_1"}, at)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-H", "Idempotency-Key: oo_1", "-H", "X-OnceOnly-Fence:7", "-H", "x-onceonly-tool: mail.send", "-H", "X-OnceOnly-Agent-Id: ag"}
	for _, f := range fields {
		args = append(args, "-H", f.Name+": "+f.Value)
	}
	return args
}

func TestVerifySignature(t *testing.T) {
	const secret = "xyzzy plugh"
	webhook := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of twenty-four byte"))
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secrets, other, web := file("secret", "a newer one\n"+secret+"\n"), file("other", "wrong"), file("web", webhook)
	body, empty := file("body", "{}"), file("empty", "")
	url := []string{"--url", "https://tool.example/hook?a=b"}
	now := time.Now()
	oo, hooks := signedCall(t, "onceonly", secret, now), signedCall(t, "standard-webhooks", webhook, now)
	old := signedCall(t, "onceonly", secret, now.Add(-time.Hour))
	without := func(args []string, name string) (kept []string) {
		for i := 0; i < len(args); i += 2 {
			if !strings.HasPrefix(args[i+1], name+":") {
				kept = append(kept, args[i:i+2]...)
			}
		}
		return kept
	}
	for _, v := range []struct {
		name    string
		args    []string
		headers []string
		code    int
		want    string
	}{
		{"both signatures", append(url, "--secret-file", secrets, "--body", body), oo, 0, "valid: V2 covers"},
		{"path and Host", []string{"--url", "/hook?a=b", "-H", "Host: tool.example", "--secret-file", secrets, "--body", body}, oo, 0, "valid: V2 covers"},
		{"body from standard input", append(url, "--secret-file", secrets, "--body", "-"), oo, 0, "valid: V2 covers"},
		{"only V2", append(url, "--secret-file", secrets, "--body", body), without(oo, "X-OnceOnly-Signature"), 0, "valid: V2 covers"},
		{"only the plain one", []string{"--secret-file", secrets, "--body", body}, without(oo, "X-OnceOnly-Signature-V2"), 0, "covers the body only"},
		{"webhook", []string{"--secret-file", web, "--body", body}, hooks, 0, "valid: webhook-signature"},
		{"old, judged at its time", append(url, "--secret-file", secrets, "--body", body, "--at", fmt.Sprint(now.Add(-time.Hour).Unix())), old, 0, "valid"},
		{"old, judged at its time in words", append(url, "--secret-file", secrets, "--body", body, "--at", now.Add(-time.Hour).UTC().Format(time.RFC3339)), old, 0, "valid"},

		{"old", append(url, "--secret-file", secrets, "--body", body), old, 1, "not valid: X-OnceOnly-Signature: the timestamp is too old"},
		{"another body", append(url, "--secret-file", secrets, "--body", empty), oo, 1, "not valid: X-OnceOnly-Signature: the signature does not fit"},
		{"another secret", append(url, "--secret-file", other, "--body", body), without(oo, "X-OnceOnly-Signature"), 1, "not valid: no signature is by a secret"},
		{"another path", []string{"--url", "https://tool.example/hook", "--secret-file", secrets, "--body", body}, oo, 1, "not valid: the signature does not fit"},
		{"another method", append(url, "--method", "PUT", "--secret-file", secrets, "--body", body), oo, 1, "not valid: the signature does not fit"},
		{"no signature", append(url, "--secret-file", secrets, "--body", body), nil, 1, "not valid: the signature is missing"},
		{"webhook with another body", []string{"--secret-file", web, "--body", empty}, hooks, 1, "not valid: the signature does not fit"},

		{"no secret file", append(url, "--body", body), oo, 2, "--secret-file is missing"},
		{"secret file not there", append(url, "--secret-file", filepath.Join(dir, "none"), "--body", body), oo, 2, "no such file"},
		{"secret file empty", append(url, "--secret-file", empty, "--body", body), oo, 2, "there is no secret"},
		{"secret of another scheme", []string{"--secret-file", secrets, "--body", body}, hooks, 2, "is not whsec_"},
		{"no body", append(url, "--secret-file", secrets), oo, 2, "--body is missing"},
		{"body not there", append(url, "--secret-file", secrets, "--body", filepath.Join(dir, "none")), oo, 2, "no such file"},
		{"no url for V2", []string{"--secret-file", secrets, "--body", body}, oo, 2, "--url is missing"},
		{"no host for V2", []string{"--url", "/hook?a=b", "--secret-file", secrets, "--body", body}, oo, 2, "--url has no host"},
		{"header without colon", append(url, "--secret-file", secrets, "--body", body, "-H", "X-OnceOnly-Tool"), nil, 2, "is no header"},
		{"header twice", append(url, "--secret-file", secrets, "--body", body, "-H", "X-OnceOnly-Tool: x"), oo, 2, "is there twice"},
		{"time not understood", append(url, "--secret-file", secrets, "--body", body, "--at", "noon"), oo, 2, `--at "noon"`},
		{"flag not known", []string{"--key", "x"}, nil, 2, "unknown flag"},
		{"argument", []string{"body.json"}, nil, 2, "body.json"},
	} {
		t.Run(v.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append(append([]string{"verify-signature"}, v.args...), v.headers...)
			code := run(context.Background(), args, strings.NewReader("{}"), &stdout, &stderr)
			if code != v.code {
				t.Errorf("exit %d, want %d", code, v.code)
			}
			answer, silent := stdout.String(), stderr.String()
			if v.code != 0 {
				answer, silent = silent, answer
			}
			if !strings.Contains(answer, v.want) || silent != "" {
				t.Errorf("printed %q (and %q), want %q", answer, silent, v.want)
			}
			if all := stdout.String() + stderr.String(); strings.Contains(all, secret) || strings.Contains(all, webhook) {
				t.Error("the secret was printed")
			}
		})
	}
}
