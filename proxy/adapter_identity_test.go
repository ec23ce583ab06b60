package proxy

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func credentials(id, token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+token))
}

func TestProxyUsers(t *testing.T) {
	users := map[string]string{"billing": "billing-token-0123", "other": "other-token-456789"}
	right, wrong := credentials("billing", "billing-token-0123"), credentials("billing", "other-token-456789")
	const forward, reverse = "POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\n", "POST /tools/ok HTTP/1.1\r\nHost: localhost\r\n"
	for name, c := range map[string]struct {
		head   string
		status int
		agent  string
		header string // what goes on
	}{
		"forward, right":                   {forward + "Proxy-Authorization: " + right, 200, "billing", "[]"},
		"forward, scheme in lower case":    {forward + "Proxy-Authorization: basic " + right[6:], 200, "billing", "[]"},
		"forward, wrong":                   {forward + "Proxy-Authorization: " + wrong, 407, "", ""},
		"forward, unknown":                 {forward + "Proxy-Authorization: " + credentials("nobody", ""), 407, "", ""},
		"forward, not base64":              {forward + "Proxy-Authorization: Basic ??", 407, "", ""},
		"forward, bearer":                  {forward + "Proxy-Authorization: Bearer billing-token-0123", 407, "", ""},
		"forward, none":                    {forward + "X: y", 407, "", ""},
		"forward, in Authorization":        {forward + "Authorization: " + right, 407, "", ""},
		"reverse, right":                   {reverse + "Proxy-Authorization: " + right, 200, "billing", "[]"},
		"reverse, in Authorization":        {reverse + "Authorization: " + right, 200, "billing", "[]"},
		"reverse, wrong in Authorization":  {reverse + "Authorization: " + wrong, 407, "", ""},
		"reverse, the tool's own":          {reverse + "Proxy-Authorization: " + right + "\r\nAuthorization: Bearer t", 200, "billing", "[{Authorization Bearer t}]"},
		"reverse, the tool's own user":     {reverse + "Proxy-Authorization: " + right + "\r\nAuthorization: " + credentials("sk_test", ""), 200, "billing", "[{Authorization " + credentials("sk_test", "") + "}]"},
		"reverse, only the tool's own":     {reverse + "Authorization: " + credentials("sk_test", ""), 407, "", ""},
		"reverse, a second one is removed": {reverse + "Proxy-Authorization: " + right + "\r\nAuthorization: " + credentials("other", users["other"]), 200, "billing", "[]"},
		"reverse, wrong beside right":      {reverse + "Proxy-Authorization: " + wrong + "\r\nAuthorization: " + right, 407, "", ""},
		"connect, none":                    {"CONNECT other.test:443 HTTP/1.1\r\nX: y", 407, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, func(g *rig, _ *Config) { g.identity.Users = users })
			out := g.raw(c.head + "\r\n\r\n")
			governed, _ := g.seen()
			if statusOf(out) != c.status || (c.status == 200) != (len(governed) == 1) {
				t.Fatalf("%.60q, governed %d", out, len(governed))
			}
			if c.status == 200 && (governed[0].Agent != c.agent || fmt.Sprint(governed[0].Header) != c.header) {
				t.Fatalf("agent %s, header %v", governed[0].Agent, governed[0].Header)
			}
			if strings.Contains(fmt.Sprint(g.details), "token") {
				t.Error("a token stands in a refusal")
			}
		})
	}
}

func TestWithoutProxyUsersACredentialSaysNothing(t *testing.T) {
	g := newRig(t)
	g.raw("POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nProxy-Authorization: " + credentials("a", "b") + "\r\nAuthorization: " + credentials("c", "d") + "\r\n\r\n")
	governed, _ := g.seen()
	if len(governed) != 1 || governed[0].Agent != "default" || fmt.Sprint(governed[0].Header) != "[{Authorization "+credentials("c", "d")+"}]" {
		t.Fatalf("%+v", governed)
	}
}

// TestGuests: the children of `run` are asked for a proof even while there are none, are charged to their agent, and
// name their run where the call names none.
func TestGuests(t *testing.T) {
	const forward = "POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\n"
	guest := "Proxy-Authorization: " + credentials("run-1", "token-of-run-1")
	for name, c := range map[string]struct {
		head   string
		status int
		agent  string
		run    string
	}{
		"right":               {forward + guest, 200, "billing", "run-1"},
		"with a run":          {forward + guest + "\r\nX-OnceOnly-Run-Id: mine", 200, "billing", "mine"},
		"on tools":            {"POST /tools/ok HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + credentials("run-1", "token-of-run-1"), 200, "billing", "run-1"},
		"a configured user":   {forward + "Proxy-Authorization: " + credentials("other", "other-token-456789"), 200, "other", ""},
		"by its agent's name": {forward + "Proxy-Authorization: " + credentials("billing", "token-of-run-1"), 407, "", ""},
		"another's token":     {forward + "Proxy-Authorization: " + credentials("run-2", "token-of-run-1"), 407, "", ""},
		"one that has left":   {forward + "Proxy-Authorization: " + credentials("run-3", "token-of-run-3"), 407, "", ""},
		"no token":            {forward + "Proxy-Authorization: " + credentials("run-3", ""), 407, "", ""},
		"none":                {forward + "X: y", 407, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, func(g *rig, _ *Config) {
				g.identity.Guarded = true
				g.identity.Users = map[string]string{"other": "other-token-456789"}
				g.identity.Guests = map[string]Guest{"run-1": {"billing", "token-of-run-1"}, "run-2": {"billing", "token-of-run-2"}}
			})
			out := g.raw(c.head + "\r\n\r\n")
			governed, _ := g.seen()
			if statusOf(out) != c.status || (c.status == 200) != (len(governed) == 1) {
				t.Fatalf("%.60q, governed %d", out, len(governed))
			}
			if c.status == 200 && (governed[0].Agent != c.agent || governed[0].RunID != c.run) {
				t.Errorf("agent %q, run %q", governed[0].Agent, governed[0].RunID)
			}
		})
	}
	g := newRig(t, func(g *rig, _ *Config) { g.identity.Guarded = true })
	if out := g.raw(forward + "\r\n"); statusOf(out) != 407 {
		t.Errorf("while there is nobody: %.60q", out)
	}
}
