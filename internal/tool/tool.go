// Package tool says what a tool and a call are, as plain data, and which tool a request is for.
// It knows no wire, no clock and no store.
package tool

import "time"

// Effect says what a tool's calls do to the world, and so what may be repeated.
type Effect uint8

const (
	Mutating   Effect = iota // runs at most once; the default
	Idempotent               // honours the upstream key: a re-send under it is safe
	Read                     // changes nothing
)

// Body says what the tool receives as its request body.
type Body uint8

const (
	AsIs     Body = iota // the agent's bytes
	Envelope             // {"tool","args","agent_id",…} around them
)

// Header is one header field as it stood or will stand on the wire, in its original spelling.
type Header struct{ Name, Value string }

// Mode says when two calls are the same call.
type Mode uint8

const (
	Window   Mode = iota // same arguments within TTL; the client's key guards
	Explicit             // only calls that carry an Idempotency-Key, which is the identity
	Required             // as Explicit; a call without a key is refused
	Off                  // never
)

// Dedup is a tool's rule of which calls are the same and how long an answer is kept.
type Dedup struct {
	Mode              Mode
	DedupReads        bool          // the mode was written for this tool, so that it holds for GET and HEAD too
	TTL               time.Duration // of a done answer, from its outcome
	FailedTTL         time.Duration // of a failed answer
	Wait              time.Duration // how long a duplicate of a running call waits
	IdempotencyWindow time.Duration // how long the tool honours a key; bounds re-sends of an unknown call
	Scope             string        // agent | run | global: who shares an answer
	Splits            bool          // client_key: splits; the client's key is part of the identity
	Ignore            []string      // JSON pointers of arguments that do not count
	Headers           []string      // when not nil, the only headers that count (lower case)
	IgnoreHeaders     []string      // further headers that never count (lower case)
	KeepHeaders       []string      // further answer headers that a replay carries (lower case)
}

// Auth signs calls to a tool. Secrets[0] signs; with several, V2 and standard-webhooks carry one signature each.
type Auth struct {
	Scheme  string // onceonly | standard-webhooks
	Secrets []string
}

// UpstreamKey says where the tool reads its idempotency key: in a header, at a JSON pointer of the body, or nowhere.
type UpstreamKey struct{ Header, JSON string }

// Tool is a registered endpoint. It is immutable once built by New.
type Tool struct {
	Name         string
	Scope        string // "global" or "agent:<id>"
	Description  string
	Target       Target // where /tools/{name} and /v1/ai/run send
	Matches      []Match
	Effect       Effect
	Body         Body
	Auth         *Auth // nil: calls are not signed
	SecretGone   bool  // auth is configured but its secret is not available here
	Headers      []Header
	UpstreamKey  UpstreamKey
	Timeout      time.Duration
	MaxRetries   int
	Price        Money
	Dedup        Dedup
	Private      bool
	MaxInFlight  int
	FailOpen     bool // on_store_error: allow
	Enabled      bool
	EncodedSlash bool // allow_encoded_slash
	Sensitive    bool
	NotExecuted  []int        // statuses by which the tool promises that nothing happened
	Source       string       // "file" or "api"
	Unregistered bool         // a stand-in for a call that matches no tool (unregistered: govern)
	Previous     []Definition // earlier definitions whose keys are still alive, newest first
}

// Definition is what of a tool enters the key of its calls, as it once was.
type Definition struct {
	Authority, Path string // of the tool's target; "" when unchanged
	Scope           string // dedup.scope
	Ignore          []string
	Until           time.Time // when the last key made under it has expired
}

// Target is an absolute http or https URL in parts that are compared and sent as they stand.
type Target struct {
	Scheme    string // http | https
	Authority string // lower case, no trailing dot, with port
	Path      string // escaped, as it goes on the wire, at least "/"
	Query     string // without "?"
}

// Match is one pattern of forwarded calls that belong to a tool.
type Match struct {
	Methods           []string
	Scheme, Authority string
	Segments          []string // escaped path segments; "{x}" matches one, "{x...}", only at the end, the rest
}

// Call is one request for a tool: what is asked, by whom, and how it will go on the wire.
// Nothing in it aliases the agent's connection.
type Call struct {
	Tool    *Tool
	Tenant  string
	Agent   string
	RunID   string // "" when the agent gave none
	Method  string
	Target  Target   // as it will be sent
	Header  []Header // the agent's end-to-end headers as they stood, without ours, and without the tool's injected ones
	Body    []byte   // arguments, as the agent sent them
	HasBody bool     // false when the request announced none

	ClientKey string   // the agent's Idempotency-Key, unquoted; "" when absent
	Ignore    []string // JSON pointers of arguments that do not count, beyond those of the tool's rule
	ForceNew  string   // label of an intended repeat; "" when none
	Declared  Money    // what the agent says the call costs
}

// Limits are the caps that bind one call. Nil means no limit, zero means none may pass.
type Limits struct {
	ActionsPerHour *int64
	CallsPerDay    *int64 // of this tool, per UTC day
	SpendPerDay    *Money // per UTC day
}
