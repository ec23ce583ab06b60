package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironment(t *testing.T) {
	c := load(t, head+"store: {redis: {addrs: [a:1], db: 1}}\n",
		"OO_PROXY__DRAIN=1m", "OO_PROXY__MAX_REQUEST_BYTES=1MiB", "OO_PROXY__INTERCEPT__HOSTS=a.test,b.test",
		"OO_STORE__REDIS__ADDRS= b:1, c:1 ,", "OO_STORE__REDIS__TLS=true", "OO_LIMITS__WAITERS=7",
		`OO_PROXY__HOSTS=["d.test"]`,
		`OO_STORE__REDIS={"mode": "sentinel", "db": 2, "hold": "3s"}`, "OO_STORE__REDIS__DB=3",
		`OO_API__KEYS=[{"name": "ops", "role": "operator", "key": "${env:KEY}"}]`, "KEY=0123456789abcdef",
		"OO_SEAL_KEY=not ours", "OO_PROXY=not ours", "OO_=", "ONCEONLY_API_KEY=not ours", "NOT_OO_A__B=x", "junk")
	p, redis := c.Proxy, c.Store.Redis
	if p.Drain != time.Minute || p.MaxRequestBytes != 1<<20 || c.Limits.Waiters != 7 || !redis.TLS {
		t.Errorf("%+v %+v", p, c.Limits)
	}
	if !slices.Equal(redis.Addrs, []string{"b:1", "c:1"}) || !slices.Equal(p.Intercept.Hosts, []string{"a.test", "b.test"}) || !slices.Equal(p.Hosts, []string{"d.test"}) {
		t.Errorf("lists: %v %v %v", redis.Addrs, p.Intercept.Hosts, p.Hosts)
	}
	if redis.Mode != "sentinel" || redis.Hold != 3*time.Second || redis.DB != 3 {
		t.Errorf("an object, and a key of it that is laid over it: %+v", redis)
	}
	if len(c.API.Keys) != 1 || c.API.Keys[0].Key != "0123456789abcdef" {
		t.Errorf("%+v", c.API.Keys)
	}
}

func TestEnvironmentWrong(t *testing.T) {
	for _, test := range []struct{ variable, key, message, mend string }{
		{"OO_STORE__KNID=x", "store.knid", "names no key", "did you mean OO_STORE__KIND?"},
		{"OO_STOR__KIND=x", "stor", "names no key", "did you mean OO_STORE__KIND?"},
		{"OO_STORE__KIND__X=x", "store.kind.x", "names no key", "OO_STORE__KIND"},
		{"OO_PROXY__RESOLVE__A=x", "proxy.resolve.a", "names no key", "did you mean OO_PROXY__RESOLVE?"},
		{"OO_TOOLS__0__NAME=x", "tools.0", "names no key", ""},
		{"OO___X=x", "", "names no key", ""},
		{"OO_PROXY__DRAIN=5", "proxy.drain", `"5" is not a duration`, "15s"},
		{"OO_LIMITS__WAITERS=x", "limits.waiters", "whole number", ""},
		{"OO_STORE__REDIS__TLS=yes", "store.redis.tls", "true or false", ""},
		{"OO_LOG__LEVEL=loud", "log.level", "not one of", ""},
		{"OO_AGENT__PROXY_USERS=a:b", "agent.proxy_users", "must hold names", ""},
		{"OO_AGENT__PROXY_USERS={", "agent.proxy_users", "is not JSON", "{..}"},
		{"OO_AGENT__PROXY_USERS=", "agent.proxy_users", "is not JSON", ""},
		{`OO_API__KEYS=[{"nam": "x", "role": "agent", "key": "0123456789abcdef"}]`, "api.keys[0].nam", "unknown key", "did you mean name?"},
		{"OO_AGENT__ID=${env:UNSET}", "agent.id", "UNSET is not set", ""},
		{"OO_AGENT__ID=*", "agent.id", "stands for all agents", ""},
	} {
		name, _, _ := strings.Cut(test.variable, "=")
		_, _, err := Load(write(t, head), []string{test.variable}, nil)
		p := Problems(err)
		if len(p) != 1 {
			t.Errorf("%s: %v", test.variable, err)
			continue
		}
		if p[0].File != name || p[0].Key != test.key || !strings.Contains(p[0].Message, test.message) || !strings.Contains(p[0].Message+p[0].Mend, test.mend) {
			t.Errorf("%s: %v (key %s)", test.variable, p[0], p[0].Key)
		}
	}
}

func TestFlagsWrong(t *testing.T) {
	_, _, err := Load("", []string{"HOME=/h"}, map[string]string{"proxy.listn": "x", "proxy.drain": "1"})
	if p := Problems(err); len(p) != 2 || p[0].File != "command line" || p[0].Key != "proxy.drain" || p[1].Mend != "did you mean proxy.listen?" {
		t.Error(err)
	}
}

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"plain": "a", "newline": "a\n", "crlf": "a\r\n", "two": "a\n\n", "inner": "a\nb\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		text, want string
		expanded   bool
	}{
		{"", "", false},
		{"plain", "plain", false},
		{"$5 {x} $", "$5 {x} $", false},
		{"${env:A}", "1", true},
		{"x${env:A}y${env:B}z", "x1y${env:A}z", true}, // what comes from a variable is not expanded again
		{"${env:EMPTY}", "", true},
		{"$${env:A}", "${env:A}", false},
		{"$$", "$$", false},
		{"$${env:A} ${env:A}", "${env:A} 1", true},
		{"${file:" + dir + "/plain}", "a", true},
		{"${file:" + dir + "/newline}", "a", true},
		{"${file:" + dir + "/crlf}", "a", true},
		{"${file:" + dir + "/two}", "a\n", true},
		{"${file:" + dir + "/inner}", "a\nb", true},
		{"${file:" + dir + "/empty}", "", true},
	} {
		r := &reader{environ: []string{"A=0", "A=1", "B=${env:A}", "EMPTY="}, origin: newOrigin("")}
		got, expanded, err := r.expand(test.text)
		if got != test.want || expanded != test.expanded || err != nil {
			t.Errorf("%q: %q %v %v, want %q", test.text, got, expanded, err, test.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, secretFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecret("${file:large}", filepath.Join(dir, "large")); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Error(err)
	}
}

// TestExpandedKinds: a reference may stand for a value of any kind, and is judged like one.
func TestExpandedKinds(t *testing.T) {
	environ := []string{"N=7", "B=true", "D=5s", "S=1MiB", "M=0.25", "W=redsi", "BAD=hunter22"}
	c := load(t, head+"limits: {waiters: \"${env:N}\", answer_bytes: \"${env:S}\"}\nproxy: {drain: \"${env:D}\"}\n"+
		"tools: [{name: a, url: https://h/a, private: \"${env:B}\", price_usd: \"${env:M}\"}]\n", environ...)
	if c.Limits.Waiters != 7 || c.Limits.AnswerBytes != 1<<20 || c.Proxy.Drain != 5*time.Second || !c.Tools[0].Private || c.Tools[0].Price != 250_000 {
		t.Errorf("%+v %+v", c.Limits, c.Tools)
	}
	for _, line := range []string{"limits: {waiters: \"${env:BAD}\"}", "limits: {answer_bytes: \"${env:BAD}\"}", "proxy: {drain: \"${env:BAD}\"}",
		"log: {level: \"${env:BAD}\"}", "store: {redis: {tls: \"${env:BAD}\"}}", "proxy: {listen: \"${env:BAD}\"}", "proxy: {resolve: {a: \"${env:BAD}\"}}"} {
		_, _, err := Load(write(t, head+line+"\n"), environ, nil)
		if err == nil || strings.Contains(err.Error(), "hunter22") || !strings.Contains(err.Error(), "${env:BAD}") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestSecretsStayHidden breaks a configuration that is full of secrets in every way it can be broken, and looks for them
// in all that is said.
func TestSecretsStayHidden(t *testing.T) {
	const mark = "sk_live_0123456789" // in every secret
	full := head + `
agent: {id: "${env:ID}", proxy_users: {a: sk_live_0123456789-a, b: "${env:TOKEN}"}}
api: {keys: [{name: ops, role: operator, key: sk_live_0123456789-ops}]}
store: {seal_key: sk_live_0123456789-seal, redis: {password: sk_live_0123456789-redis}, embedded: {dir: "${env:DIR}"}}
control: {base_url: https://control.internal, api_key: sk_live_0123456789-control}
proxy: {via: "http://user:sk_live_0123456789@proxy:1"}
tools:
- {name: a, url: "https://h/a?k=${env:QUERY}", auth: {type: hmac_sha256, secrets: [sk_live_0123456789-sign]}, headers: {Authorization: Bearer sk_live_0123456789-header}}
`
	environ := []string{"ID=" + mark + "-id", "TOKEN=" + mark + "-token", "DIR=/" + mark + "-dir", "QUERY=" + mark + "-query", "SHORT=" + mark + "\n",
		"OO_STORE__REDIS__USERNAME=${env:TOKEN}"}
	if _, _, err := Load(write(t, full), environ, nil); err != nil {
		t.Fatal("the unbroken one does not load:", err)
	}
	said := 0
	for i := range full {
		inserted := []string{"*", "\"", " ", "\n", "x", "{", "#", "'"}[i%8]
		for _, broken := range []string{full[:i], full[:i] + full[i+1:], full[:i] + inserted + full[i:], full[:i] + ": " + full[i:]} {
			_, warnings, err := Load(writeOver(t, broken), environ, nil)
			for _, p := range append(Problems(err), warnings...) {
				said++
				if text := p.Error(); strings.Contains(text, "sk_live") || strings.Contains(text, "0123456789") {
					t.Fatalf("%s\nsays: %s", broken, text)
				}
			}
		}
	}
	for _, line := range []string{"agent: {id: \"${env:SHORT}\"}", "api: {listen: \"${env:ID}\"}", "proxy: {hosts: [\"${env:TOKEN} x\"]}",
		"proxy: {upstream_ca: \"${env:DIR}\"}", "tools: [{name: \"${env:ID} x\", url: \"${env:ID}\"}]", "policies: [{agent_id: \"${env:ID}\", blocked_tools: [\"*${env:ID}\"]}]"} {
		_, _, err := Load(write(t, head+line+"\n"), environ, nil)
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if said < 1000 {
		t.Errorf("only %d problems were seen", said)
	}
	c := load(t, full, environ...)
	if text := c.String(); strings.Contains(text, mark) || text != "configuration of "+c.Path() {
		t.Error(text)
	}
}

var scratch string

// writeOver is write for many short-lived files.
func writeOver(t *testing.T, text string) string {
	if scratch == "" {
		scratch = filepath.Join(t.TempDir(), "oo-sidecar.yaml")
		t.Cleanup(func() { scratch = "" })
	}
	if err := os.WriteFile(scratch, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return scratch
}

func TestReloadable(t *testing.T) {
	c := load(t, head+"agent: {id: a}\n")
	for text, keys := range map[string]string{
		"agent: {id: b}\nproxy: {drain: 1s, unregistered: pass}\ntools: [{name: a, url: https://h/a}]\nlog: {level: warn}\n": "",
		"proxy: {listen: \"127.0.0.1:1\"}\n":                          "proxy.listen",
		"health: {listen: \"[::]:4782\"}\n":                           "health.listen",
		"store: {embedded: {dir: /x, retention: 1d}}\n":               "store.embedded.dir store.embedded.retention",
		"store: {redis: {addrs: [a:1]}}\napi: {listen: \":1\"}\n":     "store.redis.addrs api.listen",
		"store: {seal_key: 0123456789abcdef}\n":                       "store.seal_key",
		"store: {embedded: {durability: power, max_keys: 5000000}}\n": "",
	} {
		next := load(t, head+text)
		err := Reloadable(c, next)
		var found []string
		for _, p := range Problems(err) {
			found = append(found, p.Key)
			if p.Line == 0 || !strings.Contains(p.Error(), "cannot change while the sidecar runs") || strings.Contains(p.Error(), "0123456789abcdef") {
				t.Error(p)
			}
		}
		if strings.Join(found, " ") != keys {
			t.Errorf("%s%v, want %s", text, found, keys)
		}
	}
}

func TestNearest(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"knid", "kind", 1}, {"kind", "kind", 0}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"url", "ulr", 1}} {
		if got := edits(test.a, test.b); got != test.want || edits(test.b, test.a) != test.want {
			t.Errorf("%s to %s: %d, want %d", test.a, test.b, got, test.want)
		}
	}
	if didYouMean("x", nil) != "" {
		t.Error("nothing is known")
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"0s": 0, "500ms": time.Second / 2, "1.5h": 90 * time.Minute, "30d": 720 * time.Hour, "1d1h1m": 25*time.Hour + time.Minute, "0d": 0} {
		if got, err := parseDuration(text); got != want || err != nil {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "5", "s", "d", "1.5d", "-1s", "-1d", "1d-1h", "1h1d", "1dd", " 1s", "1s ", "1 s", "65536d", "9999999h", "+1d", "106752d", "1d0"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// TestDefaultsAreValid: what nobody wrote cannot be wrong.
func TestDefaultsAreValid(t *testing.T) {
	c := defaults()
	c.origin = newOrigin("")
	if problems, warnings := c.validate(); len(problems) > 0 || len(warnings) > 0 {
		t.Error(problems, warnings)
	}
	if reflect.DeepEqual(c, &Config{}) {
		t.Error("no defaults")
	}
}
