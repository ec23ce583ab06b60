package govern

import (
	"context"
	"io"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Route says how a request came.
type Route string

const (
	Reverse Route = "reverse" // POST /tools/{name}
	Forward Route = "forward" // absolute-form
	Inside  Route = "tunnel"  // inside a CONNECT tunnel
	Direct  Route = "api"     // POST /v1/ai/run
)

// Request is one request as the wire understood it, after the gate. Nothing in it aliases the connection.
type Request struct {
	ID      string // X-Request-Id: made by the sidecar
	Arrived time.Time
	Route   Route
	Tenant  string // "default" on the proxy
	Agent   string // who asks; identified by the wire

	Name   string      // the tool's name (Reverse, Direct); "" when the target says which
	Method string      // of the agent's request
	Target tool.Target // of the agent's request (Forward, Inside); zero with a Name

	Header  []tool.Header // end-to-end headers in order, without hop-by-hop, Proxy-*, forwarding, override and X-OnceOnly-* ones, Idempotency-Key included
	Body    []byte
	HasBody bool

	IdempotencyKey []string      // values of the header as they stood
	RunID          string        // X-OnceOnly-Run-Id
	ToolHint       string        // X-OnceOnly-Tool
	ForceNew       string        // X-OnceOnly-Force-New
	Spend          string        // X-OnceOnly-Spend-Usd as it stood
	Ignore         []string      // JSON pointers of arguments that do not count in the key, beyond the tool's own
	Wait           time.Duration // at most this long for a running duplicate; 0: the tool's own
}

// Decision is what the answer says was done with the request.
type Decision string

const (
	Executed Decision = "executed" // this request tried the tool
	Dedup    Decision = "dedup"    // answered from a record
	Blocked  Decision = "blocked"  // refused; nothing was sent
)

// Reply is what the agent gets.
type Reply struct {
	Status  int
	Header  []tool.Header // ours and the tool's, ready for the wire, without framing
	Body    []byte        // when Stream is nil
	Stream  Stream        // an answer passed on as it comes
	Close   bool          // close the agent's connection afterwards
	Refusal *Refusal      // not nil when the answer is the sidecar's own; Body is then its problem+json

	Decision Decision
	Reason   string
	Outcome  string
	Key      string // as shown
	Risk     string // low | medium | high, as the audit has it
	Args     string // HMAC of the canonical arguments, as shown; empty when they were not read
	Spend    string // what this request was charged, decimal US dollars

	// Delivered is called once, after the wire knows whether the caller got the whole answer. Nil when nobody cares.
	Delivered func(whole bool)
}

// Stream is an answer that is passed on as it comes.
type Stream interface {
	// Length is the length the tool announced, or -1.
	Length() int64
	// WriteTo copies the answer to w, flushing after each piece, withholds its last byte (or, for one without
	// length, its return) until the outcome is durable, and returns nil only if the answer was whole. It must be
	// called exactly once, also when the agent has gone (with a writer that fails): the call goes on. A stream that is
	// lost without it ends its call some time later.
	WriteTo(ctx context.Context, w Flusher) error
}

// Flusher is a writer whose pieces leave at once.
type Flusher interface {
	io.Writer
	Flush() error
}

// Sender sends one attempt of a call. It never retries, never follows redirects and never reuses a connection on
// which anything unexpected has arrived.
type Sender interface {
	// Send returns the answer's head with its body still to be read, or an error. Phase says, in either case, how far
	// the request got: the first thing a sender does before its first Write is to raise it to FirstByte.
	Send(ctx context.Context, a *Attempt) (*Answer, Phase, error)
}

// Attempt is one request to a tool, ready to be sent.
type Attempt struct {
	Tool    *tool.Tool // bounds and permissions of the destination; nil for a pass-through
	Method  string
	Target  tool.Target
	Header  []tool.Header // all of them, in order, but Host, Content-Length and Connection
	Body    []byte
	HasBody bool
	Timeout time.Duration // until the answer's head is here, then between bytes of a stream
}

// Phase is how far a request got.
type Phase uint8

const (
	Queued Phase = iota
	Dialled
	FirstByte // bytes may have left
	Flushed
	FirstByteRead
	Complete
)

// Answer is a tool's answer, its body not yet read.
type Answer struct {
	Status int
	Header []tool.Header // as the tool sent them, without framing, hop-by-hop, X-OnceOnly-* and Idempotent-Replayed
	Length int64         // of the body; -1 when unknown (chunked, until close)
	Body   io.ReadCloser // io.EOF means whole; any other error that it was cut. Each Read is bounded by Attempt.Timeout
	// Events says that the tool streams (text/event-stream or chunked): pass on as it comes.
	Events bool
	// Deadline bounds the reading of the whole body from now on; without it each Read is bounded by Attempt.Timeout.
	Deadline func(time.Time)
}

// Kinds of errors of Send, beside those of the context.
var (
	ErrUnreachable = sendError("upstream_unreachable") // nothing was sent
	ErrUntrusted   = sendError("upstream_untrusted")   // its certificate does not hold; nothing was sent
	ErrDestination = sendError("destination_denied")   // the address is one that calls may not reach; nothing was sent
	ErrBroken      = sendError("upstream_outcome_unknown")
)

type sendError string

func (e sendError) Error() string { return string(e) }
