package tool

import "time"

// Config is one entry of `tools` in the configuration file. Fields left out take the defaults of New.
type Config struct {
	Name              string            `koanf:"name"`                  // ^[a-zA-Z0-9_.:-]+$
	Scope             string            `koanf:"scope"`                 // global (default) | agent:<id>
	Description       string            `koanf:"description"`           // at most 512 characters
	URL               string            `koanf:"url"`                   // where /tools/{name} and /v1/ai/run send; holds no {x}
	Match             []MatchConfig     `koanf:"match"`                 // forwarded calls; default POST on url
	Effect            string            `koanf:"effect"`                // read | idempotent | mutating (default)
	Body              string            `koanf:"body"`                  // as_is (default) | envelope
	Auth              *AuthConfig       `koanf:"auth"`                  // nil: not signed
	Headers           map[string]string `koanf:"headers"`               // credentials that the agent never sees; replace the agent's
	UpstreamKey       any               `koanf:"upstream_key"`          // {header: Idempotency-Key} (default) | {json: /pointer} | none
	Timeout           time.Duration     `koanf:"timeout"`               // 15s
	MaxRetries        *int              `koanf:"max_retries"`           // 2
	Price             Money             `koanf:"price_usd"`             // 0
	Dedup             DedupConfig       `koanf:"dedup"`                 // which calls are the same call
	Private           bool              `koanf:"private"`               // may this host resolve to private addresses
	MaxInFlight       int               `koanf:"max_in_flight"`         // 64
	OnStoreError      string            `koanf:"on_store_error"`        // deny | allow; default allow for read, deny for the rest
	Enabled           *bool             `koanf:"enabled"`               // true
	AllowEncodedSlash bool              `koanf:"allow_encoded_slash"`   // permits %2f in paths; it is never decoded
	Sensitive         bool              `koanf:"sensitive"`             // raises the audit's risk level
	NotExecuted       []int             `koanf:"not_executed_statuses"` // answers by which this tool promises that nothing happened
	Source            string            `koanf:"-"`                     // file (default) | api: where the entry was last changed
}

// MatchConfig is one pattern of forwarded calls.
type MatchConfig struct {
	Methods []string `koanf:"methods"` // default POST
	URL     string   `koanf:"url"`     // {x} matches one path segment, {x...} at the end the rest
}

// AuthConfig says how calls to the tool are signed.
type AuthConfig struct {
	Type    string   `koanf:"type"`    // hmac_sha256
	Scheme  string   `koanf:"scheme"`  // onceonly (default) | standard-webhooks
	Secrets []string `koanf:"secrets"` // the first signs; with several, as while rotating, each signs V2 and standard-webhooks
	Gone    bool     `koanf:"-"`       // secrets were set through the api and cannot be unsealed here; Secrets is empty
}

// DedupConfig says which calls are the same call and how long answers are kept.
type DedupConfig struct {
	Mode              string         `koanf:"mode"`               // window (default) | explicit | required | off
	TTL               *time.Duration `koanf:"ttl"`                // 24h
	FailedTTL         *time.Duration `koanf:"failed_ttl"`         // 10s
	Scope             string         `koanf:"scope"`              // agent (default) | run | global
	ClientKey         string         `koanf:"client_key"`         // guards (default) | splits
	Ignore            []string       `koanf:"ignore"`             // JSON pointers
	Headers           *[]string      `koanf:"headers"`            // the only headers that count; default all but the published list
	IgnoreHeaders     []string       `koanf:"ignore_headers"`     // further headers that never count
	Wait              *time.Duration `koanf:"wait"`               // 25s
	KeepHeaders       []string       `koanf:"keep_headers"`       // further headers of the answer that a replay carries
	IdempotencyWindow *time.Duration `koanf:"idempotency_window"` // 24h
}
