package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// write puts text into a file of its own.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "oo-sidecar.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load is Load of a file that must be right.
func load(t testing.TB, text string, environ ...string) *Config {
	t.Helper()
	c, _, err := Load(write(t, text), environ, nil)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return c
}

func TestBuiltin(t *testing.T) {
	for _, test := range []struct {
		environ []string
		dir     string
	}{
		{[]string{"HOME=/home/u"}, "/home/u/.local/state/oo-sidecar"},
		{[]string{"HOME=/home/u", "XDG_STATE_HOME=/state"}, "/state/oo-sidecar"},
		{[]string{"HOME=/home/u", "XDG_STATE_HOME=relative"}, "/home/u/.local/state/oo-sidecar"},
	} {
		c, warnings, err := Load("", test.environ, nil)
		if err != nil || len(warnings) > 0 {
			t.Fatal(warnings, err)
		}
		if c.Store.Embedded.Dir != test.dir {
			t.Errorf("%v: store in %s, want %s", test.environ, c.Store.Embedded.Dir, test.dir)
		}
		if c.Proxy.Unregistered != "govern" || c.Agent.ID != "default" || len(c.Policies) > 0 || c.Path() != "" {
			t.Errorf("not the laptop's defaults: %+v", c.Proxy)
		}
		plain := c.Rules().Plain
		if !plain("127.0.0.1") || !plain("192.168.1.1") || !plain("[::1]") || plain("8.8.8.8") {
			t.Error("private and loopback addresses are not allowed, or others are")
		}
	}
}

func TestDefaultsWithFile(t *testing.T) {
	c := load(t, "version: 1\n")
	if c.Proxy.Unregistered != "deny" || len(c.Proxy.AllowPrivate) > 0 {
		t.Errorf("a file enforces: %+v", c.Proxy)
	}
	if c.Store.Embedded.Retention != 30*24*time.Hour || c.Store.Embedded.MaxBytes != 4<<30 || c.Limits.Waiters != 1024 {
		t.Errorf("%+v %+v", c.Store, c.Limits)
	}
	if c.Store.Embedded.Dir != "/var/lib/oo-sidecar" {
		t.Errorf("store in %s", c.Store.Embedded.Dir)
	}
}

// TestValues reads one of each kind of value, as YAML and as JSON.
func TestValues(t *testing.T) {
	for name, text := range map[string]string{
		"yaml": `
version: 1
proxy:
  drain: 1d12h
  tunnel_idle: 1h30m
  max_request_bytes: 64KiB
  passthrough: [api.example.com]
  intercept: {hosts: all}
tools:
  - name: stripe.charge
    url: https://api.stripe.com/v1/charges
    price_usd: 9007199254.740993
    max_retries: 0
    enabled: false
    upstream_key: none
    dedup: {failed_ttl: 0s, headers: []}
    not_executed_statuses: [503]
policies:
  - agent_id: a
    template: moderate
    allowed_tools: []
    max_spend_usd_per_day: "0.000001"
    max_calls_per_tool: {stripe.refund: 5}
`,
		"json": `{"version": 1, "proxy": {"drain": "1d12h", "tunnel_idle": "1h30m", "max_request_bytes": "64KiB",
"passthrough": ["api.example.com"], "intercept": {"hosts": ["all"]}},
"tools": [{	"name":"stripe.charge", "description": "\ud83d\ude00", "url": "https:\/\/api.stripe.com\/v1\/charges", "price_usd": 9007199254.740993,
"max_retries": 0, "enabled": false, "upstream_key": "none", "dedup": {"failed_ttl": "0s", "headers": []}, "not_executed_statuses": [503]}],
"policies": [{"agent_id": "\u0061", "template": "moderate", "allowed_tools": [], "max_spend_usd_per_day": "0.000001", "max_calls_per_tool": {"stripe.refund": 5}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, text)
			p, entry, pol := c.Proxy, c.Tools[0], c.Policies[0]
			if p.Drain != 36*time.Hour || p.TunnelIdle != 90*time.Minute || p.MaxRequestBytes != 64<<10 {
				t.Errorf("%+v", p)
			}
			if !slices.Equal(p.Passthrough, []string{"api.example.com"}) || !slices.Equal(p.Intercept.Hosts, proxy.HostList{"all"}) {
				t.Errorf("%+v", p)
			}
			if name == "json" && entry.Description != "😀" {
				t.Errorf("%q", entry.Description)
			}
			if entry.Price != 9007199254740993 {
				t.Errorf("money passed through a float: %d", entry.Price)
			}
			if *entry.MaxRetries != 0 || *entry.Enabled || entry.UpstreamKey != "none" || *entry.Dedup.FailedTTL != 0 {
				t.Errorf("%+v", entry)
			}
			if entry.Dedup.Headers == nil || len(*entry.Dedup.Headers) != 0 || entry.Dedup.Wait != nil {
				t.Errorf("an empty list is not an absent one: %+v", entry.Dedup)
			}
			if pol.AllowedTools == nil || *pol.MaxSpendUSDPerDay != 1 || pol.MaxCallsPerTool["stripe.refund"] != 5 {
				t.Errorf("%+v", pol)
			}
			if pol.MaxActionsPerHour != nil {
				t.Errorf("an absent cap is none: %v", *pol.MaxActionsPerHour)
			}
		})
	}
}

func TestUpstreamKeyOfAnObject(t *testing.T) {
	c := load(t, "version: 1\ntools: [{name: a, url: https://h/p, upstream_key: {json: /key}}]\n")
	tools, err := c.Registered()
	if err != nil || tools[0].UpstreamKey != (tool.UpstreamKey{JSON: "/key"}) {
		t.Error(tools, err)
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	c := load(t, `
version: 1
tools:
  - &first {name: a, url: https://h/a, timeout: 5s, dedup: &d {ttl: 1h}}
  - {<<: *first, name: b, url: https://h/b}
  - {name: c, url: https://h/c, dedup: *d}
  - {<<: [{timeout: 7s}, *first], name: d, url: https://h/d}
`)
	b, d := c.Tools[1], c.Tools[3]
	if b.Name != "b" || b.Timeout != 5*time.Second || *b.Dedup.TTL != time.Hour || *c.Tools[2].Dedup.TTL != time.Hour {
		t.Errorf("%+v", c.Tools)
	}
	if d.Timeout != 7*time.Second {
		t.Errorf("the first of merged mappings wins: %v", d.Timeout)
	}
}

func TestPrecedence(t *testing.T) {
	path := write(t, "version: 1\nagent: {id: from-file}\nproxy: {passthrough: [f.example, g.example, h.example], resolve: {a.test: 127.0.0.1}}\nlog: {level: warn}\n")
	environ := []string{"OO_AGENT__ID=from-env", "OO_PROXY__PASSTHROUGH=e.example", `OO_PROXY__RESOLVE={"b.test":"127.0.0.2"}`}
	c, _, err := Load(path, environ, map[string]string{"agent.id": "from-flag"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Agent.ID != "from-flag" || c.Log.Level != "warn" || c.Log.Format != "json" {
		t.Errorf("%+v %+v", c.Agent, c.Log)
	}
	if !slices.Equal(c.Proxy.Passthrough, []string{"e.example"}) {
		t.Errorf("a list of the environment replaces that of the file: %v", c.Proxy.Passthrough)
	}
	if want := map[string]string{"b.test": "127.0.0.2"}; !reflect.DeepEqual(c.Proxy.Resolve, want) {
		t.Errorf("an object of the environment replaces that of the file: %v", c.Proxy.Resolve)
	}
	c, _, err = Load(path, environ, nil)
	if err != nil || c.Agent.ID != "from-env" {
		t.Error(c, err)
	}
}

// TestLoadStartsAnew: what was deleted from the file does not live on.
func TestLoadStartsAnew(t *testing.T) {
	path := write(t, "version: 1\ntools: [{name: a, url: https://h/a}, {name: b, url: https://h/b}]\nproxy: {drain: 1s}\n")
	if _, _, err := Load(path, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("version: 1\ntools: [{name: b, url: https://h/b}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path, nil, nil)
	if err != nil || len(c.Tools) != 1 || c.Tools[0].Name != "b" || c.Proxy.Drain != 20*time.Second {
		t.Errorf("%v %+v", err, c.Tools)
	}
}

func TestLocate(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	system := filepath.Join(t.TempDir(), "config.yaml")
	before := Search
	t.Cleanup(func() { Search = before })
	Search = []string{Search[0], system}

	if path, builtin, err := Locate(""); path != "" || !builtin || err != nil {
		t.Error(path, builtin, err)
	}
	os.WriteFile(system, nil, 0o600)
	if path, builtin, err := Locate(""); path != system || builtin || err != nil {
		t.Error(path, builtin, err)
	}
	os.WriteFile("oo-sidecar.yaml", nil, 0o600)
	if path, _, err := Locate(""); path != "oo-sidecar.yaml" || err != nil {
		t.Error(path, err)
	}
	if path, _, err := Locate(system); path != system || err != nil {
		t.Error(path, err)
	}
	_, _, err := Locate("absent.yaml")
	if p := Problems(err); len(p) != 1 || p[0].File != "absent.yaml" || !strings.Contains(p[0].Mend, "oo-sidecar init") {
		t.Error(err)
	}
	if p := Problems(fs.ErrClosed); len(p) != 1 || p[0].Message != fs.ErrClosed.Error() {
		t.Error(p)
	}
}

// reference gives every variable and file that the reference configuration names.
func reference(t *testing.T) (text string, environ []string) {
	t.Helper()
	data, err := os.ReadFile("../examples/oo-sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return fill(t, string(data))
}

var references = regexp.MustCompile(`\$\{(env|file):([^}]+)\}`)

// fill makes each variable and file that text names, the files in a directory of the test.
func fill(t *testing.T, text string) (string, []string) {
	t.Helper()
	dir := t.TempDir()
	var environ []string
	for i, m := range references.FindAllStringSubmatch(text, -1) {
		secret := fmt.Sprintf("a-secret-of-its-own-%d", i)
		if m[1] == "env" {
			environ = append(environ, m[2]+"="+secret)
			continue
		}
		path := filepath.Join(dir, filepath.Base(m[2]))
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		text = strings.ReplaceAll(text, m[0], "${file:"+path+"}")
	}
	return text, environ
}

// TestReference loads the reference configuration: no key is missing from it, from the tables or from the schema, and
// where it says = the value is the default.
func TestReference(t *testing.T) {
	text, environ := reference(t)
	c, warnings, err := Load(write(t, text), environ, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	shown := map[string]bool{}
	for key := range c.origin.at {
		shown[regexp.MustCompile(`\[\d+\]`).ReplaceAllString(key, "[]")] = true
	}
	for _, key := range everyKey(reflect.TypeFor[Config](), spot{}) {
		if !shown[key] {
			t.Errorf("examples/oo-sidecar.yaml does not show %s", key)
		}
	}
	d := defaults()
	d.Agent, d.API, d.Tools, d.Policies = c.Agent, c.API, c.Tools, c.Policies
	d.Store.SealKey, d.Store.Redis.Password, d.Control.APIKey = c.Store.SealKey, c.Store.Redis.Password, c.Control.APIKey
	d.Control.BaseURL, d.Control.KeySecret, d.Control.Credentials = c.Control.BaseURL, c.Control.KeySecret, c.Control.Credentials
	d.Proxy.Resolve, d.Proxy.AllowPrivate, d.Proxy.Hosts = c.Proxy.Resolve, c.Proxy.AllowPrivate, c.Proxy.Hosts
	d.path, d.origin = c.path, c.origin
	if !reflect.DeepEqual(c, d) {
		t.Errorf("the reference does not show the defaults:\n%+v\n%+v", *c, *d)
	}
}

func TestStarter(t *testing.T) {
	text, err := Starter([]string{"HOME=/home/a b"})
	if err != nil {
		t.Fatal(err)
	}
	c, warnings, err := Load(write(t, text), nil, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	b, _, err := Load("", []string{"HOME=/home/a b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.path, b.origin = c.path, c.origin
	if !reflect.DeepEqual(c, b) {
		t.Errorf("the starter is not the built-in configuration in writing:\n%+v\n%+v", *c, *b)
	}
	if _, err := Starter(nil); err == nil && os.Getenv("HOME") == "" {
		t.Error("a starter without a place for its store")
	}
}

// TestStarterExamples uncomments the examples of the starter: they must hold too.
func TestStarterExamples(t *testing.T) {
	text, err := Starter([]string{"HOME=/h"})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		bare := strings.TrimLeft(l, " ")
		code := strings.HasPrefix(bare, "# ") && regexp.MustCompile(`^# +(- )?[a-z_]+:( |$)|^# +- \{`).MatchString(bare)
		if code && !strings.HasPrefix(bare, "# yaml") && !strings.HasPrefix(bare, "# oo-sidecar:") {
			lines[i] = l[:len(l)-len(bare)] + bare[2:]
		}
	}
	filled, environ := fill(t, strings.Join(lines, "\n"))
	c, _, err := Load(write(t, filled), environ, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, filled)
	}
	if len(c.Tools) != 2 || len(c.Policies) != 1 || len(c.API.Keys) != 2 || len(c.Proxy.Resolve) != 1 {
		t.Errorf("not all examples were tried: %d tools, %d policies, %d keys, %d names", len(c.Tools), len(c.Policies), len(c.API.Keys), len(c.Proxy.Resolve))
	}
}

// TestManifests loads the configurations of the manifests.
func TestManifests(t *testing.T) {
	files, _ := filepath.Glob("../examples/k8s/overlays/*/config.yaml")
	if len(files) < 2 {
		t.Fatalf("%d overlays have a configuration", len(files))
	}
	for _, name := range append(files, "../examples/k8s/base/config.yaml") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		filled, environ := fill(t, string(text))
		if _, _, err := Load(write(t, filled), environ, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
