package tool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Defaults of a tool's configuration.
const (
	DefaultTimeout     = 15 * time.Second
	DefaultMaxRetries  = 2
	DefaultMaxInFlight = 64
	DefaultTTL         = 24 * time.Hour
	DefaultFailedTTL   = 10 * time.Second
	DefaultWait        = 25 * time.Second // below the usual 30 s deadline of clients
	DefaultWindow      = 24 * time.Hour
	DefaultKeyHeader   = "Idempotency-Key"

	maxDescription = 512
	maxRetries     = 10
	maxTimeout     = time.Hour
)

// FieldError is one thing that is wrong in a configuration's entry: which entry, which field, and how to mend it.
// It never holds a secret.
type FieldError struct {
	Entry   string // e.g. "tool stripe.charge"
	Field   string // e.g. "dedup.mode"; as in the file
	Problem string
}

func (e *FieldError) Error() string { return e.Entry + ": " + e.Field + ": " + e.Problem }

// Rules are what the surroundings permit to tools beyond the defaults.
type Rules struct {
	// Plain says whether credentials and signatures may go to host over http:// although it is not loopback
	// (proxy.allow_private). Nil: to no host.
	Plain func(host string) bool

	// AgentOnly says that no dedup.scope may be wider than the agent: what two agents share has no place in the store
	// (store.redis.shard: agent).
	AgentOnly bool
}

// New builds a tool from its configuration, with the defaults filled in, or says all that is wrong with it: a join of
// *FieldError.
func New(c Config) (*Tool, error) { return Rules{}.New(c) }

// New is New under these rules.
func (r Rules) New(c Config) (*Tool, error) {
	b := &builder{Config: c, rules: r, t: &Tool{
		Name:         c.Name,
		Scope:        orElse(c.Scope, "global"),
		Description:  c.Description,
		Timeout:      orElse(c.Timeout, DefaultTimeout),
		MaxInFlight:  orElse(c.MaxInFlight, DefaultMaxInFlight),
		MaxRetries:   deref(c.MaxRetries, DefaultMaxRetries),
		Enabled:      deref(c.Enabled, true),
		Price:        c.Price,
		Private:      c.Private,
		EncodedSlash: c.AllowEncodedSlash,
		Sensitive:    c.Sensitive,
		NotExecuted:  slices.Clone(c.NotExecuted),
		Source:       orElse(c.Source, "file"),
	}}
	b.names()
	b.words()
	b.bounds()
	b.target()
	b.matches()
	b.auth()
	b.upstreamKey()
	b.headers()
	b.dedup()
	b.plain()
	if len(b.problems) > 0 {
		return nil, errors.Join(b.problems...)
	}
	return b.t, nil
}

// builder collects every problem of one entry on the way to its tool.
type builder struct {
	Config
	rules    Rules
	t        *Tool
	problems []error
}

func (b *builder) bad(field, format string, args ...any) {
	name := b.Name
	if name == "" {
		name = "(without a name)"
	}
	b.problems = append(b.problems, &FieldError{Entry: "tool " + name, Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (b *builder) names() {
	if !ValidName(b.Name) {
		b.bad("name", "%q is no tool name; use letters, digits, _ . : and -, such as stripe.charge", b.Name)
	}
	if id, ok := strings.CutPrefix(b.t.Scope, "agent:"); b.t.Scope != "global" && (!ok || id == "" || hasControl(id)) {
		b.bad("scope", "%q is not a scope; write global or agent:<id>", b.t.Scope)
	}
	if n := utf8.RuneCountInString(b.Description); n > maxDescription {
		b.bad("description", "has %d characters; at most %d", n, maxDescription)
	}
}

// ValidName says whether s is a tool's name: ^[a-zA-Z0-9_.:-]+$.
func ValidName(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && !strings.ContainsRune("_.:-", rune(s[i])) {
			return false
		}
	}
	return s != ""
}

func (b *builder) words() {
	b.t.Effect = pick(b, "effect", b.Effect, effects, "read, idempotent or mutating")
	b.t.Body = pick(b, "body", b.Body, bodies, "as_is or envelope")
	b.t.FailOpen = pick(b, "on_store_error", b.OnStoreError,
		map[string]bool{"": b.t.Effect == Read, "deny": false, "allow": true}, "deny or allow")
}

// pick is the value of a word of a closed list.
func pick[T any](b *builder, field, word string, values map[string]T, choice string) T {
	v, ok := values[word]
	if !ok {
		b.bad(field, "%q is not known; write %s", word, choice)
	}
	return v
}

func (b *builder) bounds() {
	if b.Timeout < 0 || b.Timeout > maxTimeout {
		b.bad("timeout", "%v is out of range; more than 0 and at most %v", b.Timeout, maxTimeout)
	}
	if b.t.MaxRetries < 0 || b.t.MaxRetries > maxRetries {
		b.bad("max_retries", "%d is out of range; 0 to %d", b.t.MaxRetries, maxRetries)
	}
	if b.MaxInFlight < 0 {
		b.bad("max_in_flight", "%d is negative; write how many calls may run at once", b.MaxInFlight)
	}
	if b.Price < 0 || b.Price > MaxMoney {
		b.bad("price_usd", "%v is out of range; 0 to %v", b.Price, MaxMoney)
	}
	for _, status := range b.NotExecuted {
		if status < 300 || status > 599 {
			b.bad("not_executed_statuses", "%d is no status of a refusal; 300 to 599", status)
		}
	}
}

// plain keeps credentials and signatures from leaving in the clear.
func (b *builder) plain() {
	if len(b.t.Headers) == 0 && b.t.Auth == nil {
		return
	}
	hosts := []string{}
	if b.t.Target.Scheme == "http" {
		hosts = append(hosts, b.t.Target.Host())
	}
	for _, m := range b.t.Matches {
		if m.Scheme == "http" {
			hosts = append(hosts, hostOf(m.Authority))
		}
	}
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		if isLoopback(host) || b.rules.Plain != nil && b.rules.Plain(host) {
			continue
		}
		field := "headers"
		if len(b.t.Headers) == 0 {
			field = "auth"
		}
		b.bad(field, "would go to %s in the clear; use https, or let proxy.allow_private cover that host", host)
	}
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
