// Package govern is the order of governance: what happens to one request, step by step. It knows no wire.
package govern

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Meter counts what happened. Durations are seconds of wall clock.
type Meter interface {
	Call(rec *audit.Record, overhead, upstream time.Duration)
	FailOpen(check string)
	StoreError(op string)
	DoubleExecution()
}

// Governor runs the sequence for every request, however it came. Its fields are set once, before the first request.
type Governor struct {
	Store    dedup.Store
	Sender   Sender
	Disabled func(agent string) bool                      // the kill switch, asked several times in a request's life
	Record   func(*audit.Record)                          // appends a record that no claim carries
	Audited  func() bool                                  // false while records are lost: nothing runs without a claim then; nil: never
	Watch    func(*audit.Record, *tool.Tool)              // sees each record, once, before it is written, and may raise its risk; nil: nobody looks
	Stale    func() error                                 // why policies are too old for calls with effects; nil: never, or they are not
	Holds    func(fence uint64, need time.Duration) error // why a claim may end before an attempt of that length; nil: claims do not end
	Scope    func() string                                // limit_scope of a call's record; nil: the store's own
	Shown    func(dedup.Key) string                       // the HMAC under which a key may be seen, 64 hex digits
	Meter    Meter
	Log      func(level slog.Level, msg string, args ...any)
	Limits   Limits
	Draining atomic.Bool // new claims are refused

	snapshot  atomic.Pointer[Snapshot]
	bulkheads bulkheads
	standIns  standIns
	running   atomic.Int64

	unknown   notices // unknown outcomes, by agent
	unclaimed lapse   // calls without a claim
	waived    lapse   // calls under a claim of this sidecar alone
}

// Use makes s what the next requests see.
func (g *Governor) Use(s *Snapshot) { g.snapshot.Store(s) }

// Snapshot is what the next request would see.
func (g *Governor) Snapshot() *Snapshot { return g.snapshot.Load() }

// Running is the number of requests that are being governed, streams included.
func (g *Governor) Running() int64 { return g.running.Load() }

// Govern takes one request through the whole sequence and returns what its agent gets. It never returns nil.
// ctx must outlive the agent's connection: a call that was sent goes on when its agent has hung up.
func (g *Governor) Govern(ctx context.Context, r *Request) (reply *Reply) {
	p := g.open(r)
	defer func() { reply = p.close(reply, recover()) }()

	if reply := p.identify(); reply != nil {
		return reply
	}
	if p.tool == nil {
		return p.pass(ctx)
	}
	if reply := p.decide(); reply != nil {
		return reply
	}
	if reply := p.derive(); reply != nil {
		return reply
	}
	if reply := p.enter(ctx); reply != nil {
		return reply
	}
	if reply := p.claim(ctx); reply != nil {
		return reply
	}
	return p.send(ctx)
}

// Refuse answers for the wire: a request that it could not or would not hand over. It leaves a record like any other.
func (g *Governor) Refuse(r *Request, code, detail string) *Reply {
	p := g.open(r)
	return p.close(p.refuse(code, detail), nil)
}

// Answer answers for the sidecar itself with a line of text, and leaves a record like any other.
func (g *Governor) Answer(r *Request, reason, text string) *Reply {
	p := g.open(r)
	p.rec.PolicyReason = reason
	return p.close(p.reply(&Reply{Status: http.StatusOK, Body: []byte(text + "\n"), Header: []tool.Header{
		{Name: "Content-Type", Value: "text/plain; charset=utf-8"}, {Name: "Cache-Control", Value: "no-store"},
	}}), nil)
}

// Tunnelled leaves the record of an opaque tunnel that was opened.
func (g *Governor) Tunnelled(r *Request) {
	p := g.open(r)
	p.rec.Decision, p.rec.PolicyReason, p.rec.Outcome, p.rec.Detail = string(Executed), "ok", "", "An opaque tunnel was opened."
	p.close(nil, nil)
}

// Unused leaves the record of a tunnel that was to be read and carried no request.
func (g *Governor) Unused(r *Request) {
	p := g.open(r)
	p.rec.PolicyReason, p.rec.Detail = "ok", "The tunnel ended before it carried a request."
	p.close(nil, nil)
}
