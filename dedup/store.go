// Package dedup says what makes two calls the same, and what may become of one: canonical arguments, keys, the state
// machine of a call, and the law that every store of calls keeps. It does no I/O and reads no clock.
package dedup

import (
	"context"
	"errors"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Key is what makes two calls the same: SHA-256 of the versioned list that Derive hashes.
// It is used inside only; every key that is shown anywhere is its HMAC.
type Key [32]byte

// Identity is one key under which a call may be known, with the fingerprint a live record under that key must have.
// A record with another fingerprint means that the key was reused for another call.
type Identity struct{ Key, Print Key }

// Outcome is how a call ended.
type Outcome uint8

const (
	Running Outcome = iota // claimed and sent or about to be; nobody knows yet
	Done                   // it ran; its answer is replayed
	Failed                 // the tool refused it; kept for a short while or released
	NotSent                // not one byte was written; released
	Unknown                // bytes may have left and no whole, usable answer came
)

// String is the word that headers, the audit and the command line use; empty while running.
func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case Failed:
		return "failed"
	case NotSent:
		return "not_sent"
	case Unknown:
		return "unknown"
	}
	return ""
}

// Store is where claims live. Its law:
//
//   - Begin is one atomic step from absent to sent. When it returns Mine the claim, its charges and its record are
//     durable (unless Claim.Light) and no other Begin for any of its keys returns Mine until this one has ended and
//     its window is over. A sent record never expires.
//   - Limits are checked and charges reserved in that same step. Anything but Mine charges nothing.
//   - Finish is one atomic step that records the outcome, settles the charge once and makes the answer and the
//     record durable. It is decided by fence and nonce: an end for another fence changes nothing and is an Overtaken.
//   - When Finish returns ErrDeferred the outcome is known to this process, will be the first thing written once the
//     disk takes writes again, and until then new claims are refused.
//   - Every other error of Begin means that nothing was claimed and nothing charged, now or later.
//   - A process that died with claims open finds them unknown when the store is opened again.
//
// Nobody but the caller retries.
type Store interface {
	// Begin claims the call or says what stands in its way.
	Begin(ctx context.Context, c *Claim) (Begun, error)
	// Finish ends a claim that Begin gave, or settles an unknown one late.
	Finish(ctx context.Context, e *End) error
	// Wait blocks until the running call that Begin reported to that agent (by its key and fence) has ended, and returns
	// how, or until ctx is done. A call that had already ended and been released is an Ending with no answer.
	// At most Limits.Waiters callers wait for one key; past it ErrTooManyWaiters.
	Wait(ctx context.Context, agent string, k Key, fence uint64) (Ending, error)
	// Delivered says that a finished call's answer reached its caller, that agent, whole: its record lives for window from its
	// outcome on, if it would have lived longer. It does not wait for the disk, and it may be lost.
	Delivered(agent string, k Key, fence uint64, window time.Duration)
}

var (
	ErrUnavailable    = errors.New("the store takes no new claims") // wrapped with the reason; maps to store_unavailable
	ErrDeferred       = errors.New("the outcome is not durable yet")
	ErrOvertaken      = errors.New("another holder has this key now") // a possible double execution
	ErrDisabled       = errors.New("the agent is switched off")       // of Begin: found in the same step as the claim, where the switch is shared
	ErrTooManyWaiters = errors.New("too many callers wait for this call")
	ErrNoLease        = errors.New("nobody gave a lease")           // beside ErrUnavailable: this store could be asked, a control plane not
	ErrDenied         = errors.New("the store refuses to be asked") // beside ErrUnavailable: no tool's on_store_error waives it
)

// Claim asks for the right to run a call.
type Claim struct {
	Keys   []Identity // every key that means this call; Begin wins only if all are free. Keys[0] is the one shown. Empty: nothing is deduplicated, only charged
	Guards []Key      // keys that must be neither sent nor unknown (the plain key of a Force-New)
	Nonce  uint64     // random; tells this attempt to claim from every other one

	Tenant, Agent, Tool string
	Effect              tool.Effect
	Timeout             time.Duration // of the tool; an unknown younger than this is not resolved as not-executed without force
	Renews              uint64        // the fence of a claim of one's own, of an idempotent tool, that this one continues under a higher fence for another attempt; 0: none
	Resend              time.Duration // how long after the first attempt an unknown call of this (idempotent) tool may be taken over and sent again; 0: never

	Cost   tool.Money
	Limits tool.Limits
	Shadow bool // limits are judged and reported in Begun.Shadow, and do not block
	Light  bool // the claim need not be durable before Begin returns (effect read)
	Forced bool // a Force-New

	// FailOpen: where the store cannot be asked the tool runs under a claim of this process alone, or without one
	// (on_store_error: allow).
	FailOpen bool

	// UnknownFor is how long an unknown outcome of this call stands in the way; it stays listed afterwards. 0: until it is
	// resolved. Only calls of unregistered tools, for which nobody promised anything, set it.
	UnknownFor time.Duration

	// Record gives the audit record as it stands now; recovery completes it when this process dies. A store asks for it
	// when the claim has won, once at most and inside the step, and keeps what it gets.
	Record func() []byte
}

// Status is Begin's verdict.
type Status uint8

const (
	Mine     Status = iota // run it: Begun.Fence, Generation and Attempt are valid
	InFlight               // the same call is running: Wait for it
	Replay                 // it ended and its answer is in Begun.Answer
	Blocked                // its outcome is unknown
	Reused                 // one of its keys belongs to a call with other arguments
	Over                   // a limit would be passed: Begun.Over
)

// Limit names a cap, in the words of the API.
type Limit string

const (
	ActionsPerHour Limit = "max_actions_per_hour_exceeded"
	CallsPerDay    Limit = "max_calls_per_tool_exceeded"
	SpendPerDay    Limit = "max_spend_usd_per_day_exceeded"
)

// Begun is what Begin found.
type Begun struct {
	Status     Status
	Key        Key    // the key that decided, under which Wait knows the call. Mine: the one that with Generation names the run to the tool (the first key of the run's first claim)
	Guard      bool   // InFlight or Blocked: the call in the way is known by one of Claim.Guards and is another call
	Fence      uint64 // of this claim, or of the call in the way
	Generation uint64 // names one run of the key: the same for every re-send of it, another once it runs anew
	Attempt    int    // 1 for a first attempt; more when an unknown call is taken over
	Taken      bool   // Mine, and an earlier attempt may have run: only 2xx, 3xx or an operator settles it

	Outcome    Outcome   // of the call in the way
	At         time.Time // when it ended; for Running, when it was claimed
	RequestID  string    // of the first call, when known
	Answer     *Answer   // Replay: never nil; Kept is false when the body is gone
	Over       Limit
	RetryAfter time.Duration // Over: until the window's edge
	Waived     string        // Mine: the check that failed and that Claim.FailOpen waived; empty: none. "store": only this process knows of the claim, and Fence is 0
	Shadow     Limit         // the limit that would have blocked
	Now        time.Time     // the store's time of this step
}

// End reports how a claim ended.
type End struct {
	Keys    []Identity // as claimed
	Agent   string     // as claimed
	Fence   uint64
	Nonce   uint64
	Outcome Outcome
	Keep    time.Duration // how long the record stays after Done or Failed; 0 releases the keys. NotSent always releases them; Unknown stays until resolved
	Answer  *Answer       // what duplicates get; nil when there is none
	Refusal string        // code of the sidecar's own refusal that waiting duplicates get when there is no answer
	Record  []byte        // the audit record, written in the same step; the store keeps nothing of it
	Light   bool          // need not be durable before Finish returns (effect read)
}

// Ending is what a waiter learns.
type Ending struct {
	Outcome Outcome
	At      time.Time
	Answer  *Answer
	Refusal string
}

// Answer is a tool's answer as it is kept and given to duplicates.
type Answer struct {
	Status int
	Header []tool.Header // the published list and keep_headers only
	Body   []byte        // nil when not Kept
	Size   int64         // of the whole body
	SHA256 [32]byte      // of the whole body
	Kept   bool          // the body is here, whole
}
