package tool

import (
	"encoding/base64"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func ptr[T any](v T) *T { return &v }

func build(t testing.TB, c Config) *Tool {
	t.Helper()
	got, err := New(c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return got
}

func TestDefaults(t *testing.T) {
	got := build(t, Config{Name: "stripe.charge", URL: "https://API.stripe.com/v1/charges"})
	want := &Tool{
		Name: "stripe.charge", Scope: "global", Source: "file", Enabled: true,
		Target:      Target{Scheme: "https", Authority: "api.stripe.com:443", Path: "/v1/charges"},
		Matches:     []Match{{Methods: []string{"POST"}, Scheme: "https", Authority: "api.stripe.com:443", Segments: []string{"v1", "charges"}}},
		Effect:      Mutating,
		Body:        AsIs,
		UpstreamKey: UpstreamKey{Header: "Idempotency-Key"},
		Timeout:     15 * time.Second, MaxRetries: 2, MaxInFlight: 64,
		Dedup: Dedup{Mode: Window, TTL: 24 * time.Hour, FailedTTL: 10 * time.Second, Wait: 25 * time.Second, IdempotencyWindow: 24 * time.Hour,
			Scope: "agent", IgnoreHeaders: []string{}, KeepHeaders: []string{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Method() != "POST" {
		t.Errorf("it is called by %s", got.Method())
	}
}

func TestEverythingSet(t *testing.T) {
	got := build(t, Config{
		Name: "a:B_c-1.d", Scope: "agent:billing agent", Description: "what it does", URL: "http://127.0.0.1:9/x?k=v",
		Match:  []MatchConfig{{Methods: []string{"GET", "PUT"}, URL: "http://localhost/v1/{id}/{rest...}"}, {URL: "https://[::1]/"}},
		Effect: "idempotent", Body: "envelope",
		Auth:    &AuthConfig{Type: "hmac_sha256", Secrets: []string{"new secret", "old secret"}},
		Headers: map[string]string{"b-Header": "2", "Authorization": "Bearer x y"}, UpstreamKey: map[string]any{"json": "/meta/idempotency_key"},
		Timeout: time.Second, MaxRetries: ptr(0), Price: 500_000,
		Dedup: DedupConfig{Mode: "required", TTL: ptr(time.Hour), FailedTTL: ptr(time.Duration(0)), Scope: "run", ClientKey: "splits",
			Ignore: []string{"/a~1b", "/x/0"}, Headers: &[]string{"X-Tenant"}, IgnoreHeaders: []string{"X-Noise"}, Wait: ptr(time.Duration(0)),
			KeepHeaders: []string{"X-Total"}, IdempotencyWindow: ptr(time.Minute)},
		Private: true, MaxInFlight: 3, OnStoreError: "allow", Enabled: ptr(false), AllowEncodedSlash: true, Sensitive: true,
		NotExecuted: []int{503}, Source: "api",
	})
	want := &Tool{
		Name: "a:B_c-1.d", Scope: "agent:billing agent", Description: "what it does",
		Target: Target{Scheme: "http", Authority: "127.0.0.1:9", Path: "/x", Query: "k=v"},
		Matches: []Match{
			{Methods: []string{"GET", "PUT"}, Scheme: "http", Authority: "localhost:80", Segments: []string{"v1", "{id}", "{rest...}"}},
			{Methods: []string{"POST"}, Scheme: "https", Authority: "[::1]:443", Segments: []string{""}},
		},
		Effect: Idempotent, Body: Envelope, Auth: &Auth{Scheme: "onceonly", Secrets: []string{"new secret", "old secret"}},
		Headers: []Header{{"Authorization", "Bearer x y"}, {"b-Header", "2"}}, UpstreamKey: UpstreamKey{JSON: "/meta/idempotency_key"},
		Timeout: time.Second, MaxRetries: 0, Price: 500_000,
		Dedup: Dedup{Mode: Required, DedupReads: true, TTL: time.Hour, Scope: "run", Splits: true, IdempotencyWindow: time.Minute,
			Ignore: []string{"/a~1b", "/x/0"}, Headers: []string{"x-tenant"}, IgnoreHeaders: []string{"x-noise"}, KeepHeaders: []string{"x-total"}},
		Private: true, MaxInFlight: 3, FailOpen: true, EncodedSlash: true, Sensitive: true, NotExecuted: []int{503}, Source: "api",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Method() != "GET" {
		t.Errorf("it is called by %s", got.Method())
	}
}

func TestWordsWithMeaning(t *testing.T) {
	base := Config{Name: "t", URL: "https://h/"}
	read := base
	read.Effect = "read"
	if !build(t, read).FailOpen || build(t, base).FailOpen {
		t.Error("only tools that read pass when the store is away")
	}
	read.OnStoreError = "deny"
	if build(t, read).FailOpen {
		t.Error("on_store_error: deny does not hold for a tool that reads")
	}
	off := base
	off.Dedup.Mode = "off"
	if d := build(t, off).Dedup; d.Mode != Off || !d.DedupReads {
		t.Errorf("mode off became %v", d.Mode)
	}
	none := base
	none.UpstreamKey = "none"
	if k := build(t, none).UpstreamKey; k != (UpstreamKey{}) {
		t.Errorf("upstream_key: none became %+v", k)
	}
	all := base
	all.Dedup.Headers = &[]string{}
	if d := build(t, all).Dedup; d.Headers == nil || len(d.Headers) != 0 {
		t.Error("dedup.headers: [] must mean that none counts")
	}
	gone := base
	gone.Auth = &AuthConfig{Type: "hmac_sha256", Gone: true}
	if got := build(t, gone); !got.SecretGone || got.Auth == nil {
		t.Error("a lost secret is not told")
	}
	for _, e := range []Effect{Mutating, Idempotent, Read} {
		if effects[e.String()] != e {
			t.Errorf("effect %d is written as %s", e, e)
		}
	}
	for _, b := range []Body{AsIs, Envelope} {
		if bodies[b.String()] != b {
			t.Errorf("body %d is written as %s", b, b)
		}
	}
	for _, m := range []Mode{Window, Explicit, Required, Off} {
		if modes[m.String()] != m {
			t.Errorf("mode %d is written as %s", m, m)
		}
	}
}

const hidden = "HUSH-SECRET"

// Every way for an entry to be wrong: the field and a word of the mend.
func TestNewRefuses(t *testing.T) {
	webhook := "whsec_" + base64.StdEncoding.EncodeToString([]byte(hidden))
	auth := func(a AuthConfig) func(*Config) {
		if a.Type == "" {
			a.Type = "hmac_sha256"
		}
		return func(c *Config) { c.Auth = &a }
	}
	match := func(m MatchConfig) func(*Config) { return func(c *Config) { c.Match = []MatchConfig{m} } }
	headers := func(h map[string]string) func(*Config) { return func(c *Config) { c.Headers = h } }
	for _, v := range []struct {
		name, field, want string
		change            func(*Config)
	}{
		{"no name", "name", "stripe.charge", func(c *Config) { c.Name = "" }},
		{"name with space", "name", "letters", func(c *Config) { c.Name = "a b" }},
		{"name with slash", "name", "letters", func(c *Config) { c.Name = "a/b" }},
		{"name with star", "name", "letters", func(c *Config) { c.Name = "a*" }},
		{"scope", "scope", "agent:<id>", func(c *Config) { c.Scope = "agents" }},
		{"scope without id", "scope", "agent:<id>", func(c *Config) { c.Scope = "agent:" }},
		{"scope with line break", "scope", "agent:<id>", func(c *Config) { c.Scope = "agent:a\nb" }},
		{"description", "description", "at most 512", func(c *Config) { c.Description = strings.Repeat("é", 513) }},
		{"no url", "url", "https://host/path", func(c *Config) { c.URL = "" }},
		{"relative url", "url", "https://host/path", func(c *Config) { c.URL = "/v1" }},
		{"userinfo", "url", "headers", func(c *Config) { c.URL = "https://u:" + hidden + "@h/" }},
		{"pattern in url", "url", "match", func(c *Config) { c.URL = "https://h/{id}" }},
		{"pattern in query", "url", "match", func(c *Config) { c.URL = "https://h/?a={id}" }},
		{"dots in url", "url", "dot segment", func(c *Config) { c.URL = "https://h/a/../b" }},
		{"escape in url", "url", "%72", func(c *Config) { c.URL = "https://h/%72efunds" }},
		{"encoded slash in url", "url", "%2f", func(c *Config) { c.URL = "https://h/a%2fb" }},
		{"match without url", "match[0].url", "pattern", match(MatchConfig{})},
		{"match relative", "match[0].url", "https://host/path", match(MatchConfig{URL: "/v1/{id}"})},
		{"match with query", "match[0].url", "query", match(MatchConfig{URL: "https://h/v1?x=1"})},
		{"match with pattern in host", "match[0].url", "host name", match(MatchConfig{URL: "https://{x}.h/v1"})},
		{"match mixed", "match[0].url", "whole segment", match(MatchConfig{URL: "https://h/v1/a{x}"})},
		{"match unnamed", "match[0].url", "whole segment", match(MatchConfig{URL: "https://h/v1/{}"})},
		{"match open brace", "match[0].url", "whole segment", match(MatchConfig{URL: "https://h/v1/{x"})},
		{"match odd name", "match[0].url", "whole segment", match(MatchConfig{URL: "https://h/v1/{x-y}"})},
		{"match only dots", "match[0].url", "whole segment", match(MatchConfig{URL: "https://h/v1/{...}"})},
		{"match rest in the middle", "match[0].url", "last segment", match(MatchConfig{URL: "https://h/{x...}/v1"})},
		{"match name twice", "match[0].url", "twice", match(MatchConfig{URL: "https://h/{x}/{x}"})},
		{"match bad path", "match[0].url", "//", match(MatchConfig{URL: "https://h/a//{x}"})},
		{"match method", "match[0].methods", "upper case", match(MatchConfig{URL: "https://h/", Methods: []string{"post"}})},
		{"match no method", "match[0].methods", "upper case", match(MatchConfig{URL: "https://h/", Methods: []string{""}})},
		{"match CONNECT", "match[0].methods", "tunnels", match(MatchConfig{URL: "https://h/", Methods: []string{"CONNECT"}})},
		{"match method twice", "match[0].methods", "twice", match(MatchConfig{URL: "https://h/", Methods: []string{"PUT", "PUT"}})},
		{"effect", "effect", "mutating", func(c *Config) { c.Effect = "write" }},
		{"body", "body", "envelope", func(c *Config) { c.Body = "json" }},
		{"on_store_error", "on_store_error", "deny or allow", func(c *Config) { c.OnStoreError = "closed" }},
		{"auth type", "auth.type", "hmac_sha256", auth(AuthConfig{Type: "hmac_sha1", Secrets: []string{hidden}})},
		{"auth scheme", "auth.scheme", "standard-webhooks", auth(AuthConfig{Scheme: "v2", Secrets: []string{hidden}})},
		{"auth no secret", "auth.secrets", "at least one", auth(AuthConfig{})},
		{"auth empty secret", "auth.secrets", "secret 2 is empty", auth(AuthConfig{Secrets: []string{hidden, ""}})},
		{"auth secret twice", "auth.secrets", "secret 2 stands there twice", auth(AuthConfig{Secrets: []string{hidden, hidden}})},
		{"auth secret with line break", "auth.secrets", "line break", auth(AuthConfig{Secrets: []string{hidden + "\n"}})},
		{"auth too many", "auth.secrets", "at most 8", auth(AuthConfig{Secrets: strings.Split("a b c d e f g h i", " ")})},
		{"webhook without prefix", "auth.secrets", "whsec_", auth(AuthConfig{Scheme: "standard-webhooks", Secrets: []string{hidden}})},
		{"webhook not base64", "auth.secrets", "base64", auth(AuthConfig{Scheme: "standard-webhooks", Secrets: []string{webhook, "whsec_" + hidden}})},
		{"webhook empty", "auth.secrets", "base64", auth(AuthConfig{Scheme: "standard-webhooks", Secrets: []string{"whsec_"}})},
		{"header name", "headers.X Y", "header name", headers(map[string]string{"X Y": hidden})},
		{"header host", "headers.Host", "sidecar itself", headers(map[string]string{"Host": hidden})},
		{"header length", "headers.content_length", "sidecar itself", headers(map[string]string{"content_length": hidden})},
		{"header ours", "headers.X-OnceOnly-Fence", "sidecar itself", headers(map[string]string{"X-OnceOnly-Fence": hidden})},
		{"header key", "headers.idempotency-key", "sidecar itself", headers(map[string]string{"idempotency-key": hidden})},
		{"header empty", "headers.X-A", "empty", headers(map[string]string{"X-A": ""})},
		{"header line break", "headers.X-A", "line break", headers(map[string]string{"X-A": hidden + "\nX-B: 1"})},
		{"header trailing line break", "headers.X-A", "line break", headers(map[string]string{"X-A": hidden + "\n"})},
		{"header space", "headers.X-A", "white space", headers(map[string]string{"X-A": hidden + " "})},
		{"header twice", "headers.x-a", "twice", headers(map[string]string{"X-A": hidden, "x-a": hidden})},
		{"upstream_key word", "upstream_key", "none", func(c *Config) { c.UpstreamKey = "no" }},
		{"upstream_key number", "upstream_key", "none", func(c *Config) { c.UpstreamKey = 5 }},
		{"upstream_key two", "upstream_key", "none", func(c *Config) { c.UpstreamKey = map[string]any{"header": "A", "json": "/a"} }},
		{"upstream_key other", "upstream_key", "none", func(c *Config) { c.UpstreamKey = map[string]any{"query": "a"} }},
		{"upstream_key header", "upstream_key.header", "Idempotency-Key", func(c *Config) { c.UpstreamKey = map[string]any{"header": "Host"} }},
		{"upstream_key pointer", "upstream_key.json", "/idempotency_key", func(c *Config) { c.UpstreamKey = map[string]any{"json": "a"} }},
		{"upstream_key whole", "upstream_key.json", "/idempotency_key", func(c *Config) { c.UpstreamKey = map[string]any{"json": ""} }},
		{"timeout", "timeout", "out of range", func(c *Config) { c.Timeout = -1 }},
		{"timeout too long", "timeout", "out of range", func(c *Config) { c.Timeout = 2 * time.Hour }},
		{"max_retries", "max_retries", "0 to 10", func(c *Config) { c.MaxRetries = ptr(11) }},
		{"max_retries negative", "max_retries", "0 to 10", func(c *Config) { c.MaxRetries = ptr(-1) }},
		{"max_in_flight", "max_in_flight", "negative", func(c *Config) { c.MaxInFlight = -1 }},
		{"price", "price_usd", "out of range", func(c *Config) { c.Price = -1 }},
		{"not executed", "not_executed_statuses", "300 to 599", func(c *Config) { c.NotExecuted = []int{503, 200} }},
		{"mode", "dedup.mode", "required", func(c *Config) { c.Dedup.Mode = "strict" }},
		{"dedup scope", "dedup.scope", "agent, run or global", func(c *Config) { c.Dedup.Scope = "tenant" }},
		{"client_key", "dedup.client_key", "splits", func(c *Config) { c.Dedup.ClientKey = "ignore" }},
		{"ttl zero", "dedup.ttl", "mode: off", func(c *Config) { c.Dedup.TTL = ptr(time.Duration(0)) }},
		{"ttl negative", "dedup.ttl", "negative", func(c *Config) { c.Dedup.TTL = ptr(-time.Second) }},
		{"failed_ttl", "dedup.failed_ttl", "negative", func(c *Config) { c.Dedup.FailedTTL = ptr(-time.Second) }},
		{"wait", "dedup.wait", "negative", func(c *Config) { c.Dedup.Wait = ptr(-time.Second) }},
		{"idempotency_window", "dedup.idempotency_window", "negative", func(c *Config) { c.Dedup.IdempotencyWindow = ptr(-time.Second) }},
		{"ignore", "dedup.ignore", "/trace_id", func(c *Config) { c.Dedup.Ignore = []string{"trace_id"} }},
		{"ignore everything", "dedup.ignore", "/trace_id", func(c *Config) { c.Dedup.Ignore = []string{""} }},
		{"ignore escape", "dedup.ignore", "/trace_id", func(c *Config) { c.Dedup.Ignore = []string{"/a~2"} }},
		{"dedup headers", "dedup.headers", "header name", func(c *Config) { c.Dedup.Headers = &[]string{"a b"} }},
		{"ignore_headers", "dedup.ignore_headers", "header name", func(c *Config) { c.Dedup.IgnoreHeaders = []string{""} }},
		{"keep_headers", "dedup.keep_headers", "never replayed", func(c *Config) { c.Dedup.KeepHeaders = []string{"Set-Cookie"} }},
		{"keep rate limit", "dedup.keep_headers", "never replayed", func(c *Config) { c.Dedup.KeepHeaders = []string{"X-RateLimit-Left"} }},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := Config{Name: "some.tool", URL: "https://h/path"}
			v.change(&c)
			got, err := New(c)
			if err == nil || got != nil {
				t.Fatalf("passed as %+v", got)
			}
			f, ok := errors.AsType[*FieldError](err)
			if !ok || f.Field != v.field || !strings.Contains(f.Problem, v.want) {
				t.Errorf("%v; want field %s and %q", err, v.field, v.want)
			}
			if c.Name == "some.tool" && !strings.HasPrefix(err.Error(), "tool some.tool: ") {
				t.Errorf("%v; the tool is not named", err)
			}
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("%v shows a secret", err)
			}
		})
	}
}

func TestNewTellsAllProblemsAtOnce(t *testing.T) {
	_, err := New(Config{Name: "a b", URL: "x", Effect: "y", Dedup: DedupConfig{Mode: "z"}})
	for _, field := range []string{"name", "url", "effect", "dedup.mode"} {
		if err == nil || !strings.Contains(err.Error(), "tool a b: "+field+": ") {
			t.Errorf("%v lacks %s", err, field)
		}
	}
}

func TestCredentialsNeverGoInTheClear(t *testing.T) {
	auth := &AuthConfig{Type: "hmac_sha256", Secrets: []string{hidden}}
	bearer := map[string]string{"Authorization": hidden}
	far := []MatchConfig{{URL: "http://tool.example/x"}}
	for _, v := range []struct {
		name  string
		c     Config
		plain func(string) bool
		field string // "" when it passes
	}{
		{"https", Config{URL: "https://tool.example/", Headers: bearer, Auth: auth}, nil, ""},
		{"loopback", Config{URL: "http://127.0.0.1:1/", Headers: bearer, Auth: auth}, nil, ""},
		{"localhost", Config{URL: "http://localhost/", Headers: bearer, Auth: auth}, nil, ""},
		{"nothing to hide", Config{URL: "http://tool.example/"}, nil, ""},
		{"headers", Config{URL: "http://tool.example/", Headers: bearer}, nil, "headers"},
		{"signature", Config{URL: "http://tool.example/", Auth: auth}, nil, "auth"},
		{"private address", Config{URL: "http://10.0.0.1/", Auth: auth}, nil, "auth"},
		{"a match", Config{URL: "https://tool.example/", Match: far, Headers: bearer}, nil, "headers"},
		{"allowed host", Config{URL: "http://10.0.0.1/", Auth: auth}, func(h string) bool { return h == "10.0.0.1" }, ""},
		{"another host", Config{URL: "http://10.0.0.1/", Match: far, Auth: auth}, func(h string) bool { return h == "10.0.0.1" }, "auth"},
	} {
		v.c.Name = "t"
		_, err := Rules{Plain: v.plain}.New(v.c)
		f, _ := errors.AsType[*FieldError](err)
		if v.field == "" && err != nil || v.field != "" && (f == nil || f.Field != v.field || !strings.Contains(f.Problem, "in the clear")) {
			t.Errorf("%s: %v; want a problem with %q", v.name, err, v.field)
		}
	}
}

func TestNewKeepsNothingOfItsInput(t *testing.T) {
	c := Config{Name: "t", URL: "https://h/", Auth: &AuthConfig{Type: "hmac_sha256", Secrets: []string{"first"}},
		Match: []MatchConfig{{Methods: []string{"GET"}, URL: "https://h/"}}, NotExecuted: []int{500}, Dedup: DedupConfig{Ignore: []string{"/a"}}}
	got := build(t, c)
	c.Auth.Secrets[0], c.Match[0].Methods[0], c.NotExecuted[0], c.Dedup.Ignore[0] = "x", "x", 0, "x"
	if got.Auth.Secrets[0] != "first" || got.Matches[0].Methods[0] != "GET" || got.NotExecuted[0] != 500 || got.Dedup.Ignore[0] != "/a" {
		t.Errorf("the tool changed with its configuration: %+v", got)
	}
}

func TestWarnings(t *testing.T) {
	long := strings.Repeat("s", 32)
	for _, v := range []struct {
		c    Config
		want []string
	}{
		{Config{}, nil},
		{Config{Auth: &AuthConfig{Secrets: []string{long}}}, nil},
		{Config{Auth: &AuthConfig{Secrets: []string{long, "hush"}}}, []string{"auth.secrets"}},
		{Config{Auth: &AuthConfig{Scheme: "standard-webhooks", Secrets: []string{"whsec_AAAAAAAAAAAAAAAA"}}}, []string{"auth.secrets"}},
		{Config{Auth: &AuthConfig{Gone: true}}, nil},
		{Config{Effect: "idempotent", UpstreamKey: "none"}, []string{"upstream_key"}},
		{Config{Dedup: DedupConfig{Mode: "off"}, OnStoreError: "allow"}, []string{"dedup.mode", "on_store_error"}},
		{Config{Effect: "read", Dedup: DedupConfig{Mode: "off"}}, nil},
	} {
		v.c.Name, v.c.URL = "t", "https://h/"
		if v.c.Auth != nil {
			v.c.Auth.Type = "hmac_sha256"
		}
		var fields []string
		for _, w := range build(t, v.c).Warnings() {
			field, _, _ := strings.Cut(strings.TrimPrefix(w.Error(), "tool t: "), ": ")
			fields = append(fields, field)
			if strings.Contains(w.Error(), "hush") {
				t.Errorf("%q shows the secret", w)
			}
		}
		if !slices.Equal(fields, v.want) {
			t.Errorf("%+v warns of %v, want %v", v.c, fields, v.want)
		}
	}
}
