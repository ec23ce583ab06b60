package tool

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"
)

// Schemes by which calls are signed.
const (
	OnceOnly         = "onceonly"
	StandardWebhooks = "standard-webhooks"

	webhookPrefix = "whsec_"
	maxSecrets    = 8
)

func (b *builder) auth() {
	a := b.Auth
	if a == nil {
		return
	}
	if a.Type != "hmac_sha256" {
		b.bad("auth.type", "%q is not known; write hmac_sha256", a.Type)
	}
	scheme := orElse(a.Scheme, OnceOnly)
	if scheme != OnceOnly && scheme != StandardWebhooks {
		b.bad("auth.scheme", "%q is not known; write %s or %s", scheme, OnceOnly, StandardWebhooks)
	}
	switch {
	case a.Gone:
		b.t.SecretGone = true
	case len(a.Secrets) == 0:
		b.bad("auth.secrets", "is empty; write at least one secret, such as ${env:TOOL_SECRET}")
	case len(a.Secrets) > maxSecrets:
		b.bad("auth.secrets", "has %d secrets; at most %d are active at once", len(a.Secrets), maxSecrets)
	}
	for i, s := range a.Secrets {
		b.secret(scheme, i, s)
	}
	b.t.Auth = &Auth{Scheme: scheme, Secrets: slices.Clone(a.Secrets)}
}

// secret judges one secret and never shows it.
func (b *builder) secret(scheme string, i int, s string) {
	switch {
	case s == "":
		b.bad("auth.secrets", "secret %d is empty; remove it or fill it in", i+1)
	case slices.Contains(b.Auth.Secrets[:i], s):
		b.bad("auth.secrets", "secret %d stands there twice; remove one", i+1)
	case strings.TrimSpace(s) != s:
		b.bad("auth.secrets", "secret %d begins or ends with white space; does its file end in a line break?", i+1)
	case scheme == StandardWebhooks && len(webhookKey(s)) == 0:
		b.bad("auth.secrets", "secret %d is not %s followed by base64, which %s needs", i+1, webhookPrefix, StandardWebhooks)
	}
}

// webhookKey is the key of a standard-webhooks secret, nil when it is none.
func webhookKey(s string) []byte {
	text, ok := strings.CutPrefix(s, webhookPrefix)
	if !ok {
		return nil
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return key
}

// upstreamKey reads none, {header: NAME} or {json: /pointer}.
func (b *builder) upstreamKey() {
	const choice = "write {header: Idempotency-Key}, {json: /idempotency_key} or none"
	var fields map[string]any
	switch v := b.UpstreamKey.(type) {
	case nil:
		b.t.UpstreamKey.Header = DefaultKeyHeader
		return
	case string:
		if v != "none" {
			b.bad("upstream_key", "%q is not known; %s", v, choice)
		}
		return
	case UpstreamKey:
		fields = map[string]any{}
		if v.Header != "" {
			fields["header"] = v.Header
		}
		if v.JSON != "" {
			fields["json"] = v.JSON
		}
	case map[string]string:
		fields = map[string]any{}
		for k, s := range v {
			fields[k] = s
		}
	case map[string]any:
		fields = v
	}
	header, isHeader := fields["header"].(string)
	pointer, isJSON := fields["json"].(string)
	switch {
	case len(fields) != 1 || !isHeader && !isJSON:
		b.bad("upstream_key", "is not understood; %s", choice)
	case isHeader && (!isToken(header) || isReserved(header)):
		b.bad("upstream_key.header", "%q cannot carry a key; write a header's name such as Idempotency-Key", header)
	case isJSON && (pointer == "" || !isPointer(pointer)):
		b.bad("upstream_key.json", "%q is no JSON pointer to a member; write it as /idempotency_key", pointer)
	default:
		b.t.UpstreamKey = UpstreamKey{Header: header, JSON: pointer}
	}
}

// headers reads the headers that the tool gets from us, sorted by name.
func (b *builder) headers() {
	for _, name := range slices.Sorted(maps.Keys(b.Headers)) {
		value := b.Headers[name]
		field := "headers." + name
		switch {
		case !isToken(name):
			b.bad(field, "is no header name; use letters, digits and -")
		case isReserved(name) || strings.EqualFold(name, b.t.UpstreamKey.Header):
			b.bad(field, "is set by the sidecar itself; remove it")
		case value == "":
			b.bad(field, "is empty; remove it or fill it in")
		case hasControl(value) || strings.TrimSpace(value) != value:
			b.bad(field, "has a line break, a control character or white space around it; does its file end in a line break?")
		default:
			b.t.Headers = append(b.t.Headers, Header{name, value})
		}
	}
	slices.SortStableFunc(b.t.Headers, func(x, y Header) int {
		return strings.Compare(strings.ToLower(x.Name), strings.ToLower(y.Name))
	})
	for i := 1; i < len(b.t.Headers); i++ {
		if strings.EqualFold(b.t.Headers[i-1].Name, b.t.Headers[i].Name) {
			b.bad("headers."+b.t.Headers[i].Name, "stands there twice, in two spellings; remove one")
		}
	}
}

func (b *builder) dedup() {
	c, d := b.Dedup, &b.t.Dedup
	d.Mode = pick(b, "dedup.mode", c.Mode, modes, "window, explicit, required or off")
	d.DedupReads = c.Mode != ""
	d.Scope = orElse(c.Scope, "agent")
	if d.Scope != "agent" && d.Scope != "run" && d.Scope != "global" {
		b.bad("dedup.scope", "%q is not known; write agent, run or global", d.Scope)
	} else if b.rules.AgentOnly && d.Scope != "agent" {
		b.bad("dedup.scope", "%s is wider than one agent, and store.redis.shard: agent keeps the calls of each agent apart; write scope: agent, or give the sidecars shard: namespace under another store.redis.prefix", d.Scope)
	}
	d.Splits = pick(b, "dedup.client_key", c.ClientKey, map[string]bool{"": false, "guards": false, "splits": true}, "guards or splits")
	d.TTL = b.duration("dedup.ttl", c.TTL, DefaultTTL)
	if d.TTL == 0 {
		b.bad("dedup.ttl", "is 0; to turn deduplication off write dedup.mode: off")
	}
	d.FailedTTL = b.duration("dedup.failed_ttl", c.FailedTTL, DefaultFailedTTL)
	d.Wait = b.duration("dedup.wait", c.Wait, DefaultWait)
	d.IdempotencyWindow = b.duration("dedup.idempotency_window", c.IdempotencyWindow, DefaultWindow)
	for _, p := range c.Ignore {
		if p == "" || !isPointer(p) {
			b.bad("dedup.ignore", "%q is no JSON pointer to a member; write it as /trace_id", p)
		}
	}
	d.Ignore = slices.Clone(c.Ignore)
	if c.Headers != nil {
		d.Headers = b.headerNames("dedup.headers", *c.Headers)
	}
	d.IgnoreHeaders = b.headerNames("dedup.ignore_headers", c.IgnoreHeaders)
	d.KeepHeaders = b.headerNames("dedup.keep_headers", c.KeepHeaders)
	for _, name := range d.KeepHeaders {
		if neverKept(name) {
			b.bad("dedup.keep_headers", "%s belongs to one answer only and is never replayed; remove it", name)
		}
	}
}

func (b *builder) duration(field string, p *time.Duration, otherwise time.Duration) time.Duration {
	d := deref(p, otherwise)
	if d < 0 {
		b.bad(field, "%v is negative", d)
	}
	return d
}

// headerNames is the list in lower case; never nil.
func (b *builder) headerNames(field string, names []string) []string {
	lower := make([]string, 0, len(names))
	for _, n := range names {
		if !isToken(n) {
			b.bad(field, "%q is no header name; use letters, digits and -", n)
		}
		lower = append(lower, strings.ToLower(n))
	}
	return lower
}
