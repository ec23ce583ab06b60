// Package govern is the order of governance: what happens to one request, step by step. It knows no wire.
package govern

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// Unregistered says what happens to a call that matches no tool.
type Unregistered uint8

const (
	Deny    Unregistered = iota // 403 tool_not_registered
	Pass                        // kill switch, destination rules and audit only
	Lightly                     // `govern`: writes are deduplicated against running and undelivered calls
)

// Snapshot is the immutable policy and registry that one request sees.
type Snapshot struct {
	Registry     *tool.Registry
	Policies     *policy.Set
	Unregistered Unregistered
	Passthrough  func(host string) bool // hosts that are no tools; host without port
	At           time.Time

	signers map[*tool.Tool]*hmac.Keys
}

// NewSnapshot makes the snapshot in which these tools and policies hold. Its errors name the tool.
func NewSnapshot(s Snapshot) (*Snapshot, error) {
	s.signers = map[*tool.Tool]*hmac.Keys{}
	for _, t := range s.Registry.Tools() {
		if t.Auth == nil || t.SecretGone {
			continue
		}
		keys, err := hmac.NewKeys(t.Auth.Scheme, t.Auth.Secrets)
		if err != nil {
			return nil, fmt.Errorf("tool %s: auth.secrets: %w", t.Name, err)
		}
		s.signers[t] = keys
	}
	return &s, nil
}

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
	Disabled func(agent string) bool // the kill switch, asked several times in a request's life
	Record   func(*audit.Record)     // appends a record that no claim carries
	Shown    func(dedup.Key) string  // the HMAC under which a key may be seen, 64 hex digits
	Meter    Meter
	Log      func(level slog.Level, msg string, args ...any)
	Limits   Limits
	Draining atomic.Bool // new claims are refused

	snapshot  atomic.Pointer[Snapshot]
	bulkheads bulkheads
	standIns  standIns
	running   atomic.Int64
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

// Tunnelled leaves the record of an opaque tunnel that was opened.
func (g *Governor) Tunnelled(r *Request) {
	p := g.open(r)
	p.rec.Decision, p.rec.PolicyReason, p.rec.Outcome, p.rec.Detail = string(Executed), "ok", "", "An opaque tunnel was opened."
	p.close(nil, nil)
}

// passage is one request on its way through the sequence.
type passage struct {
	g   *Governor
	s   *Snapshot
	r   *Request
	rec audit.Record

	name   string // of the tool, registered or not
	tool   *tool.Tool
	policy *policy.Policy
	call   tool.Call
	keys   dedup.Derived
	cost   tool.Money

	place   chan struct{} // of the tool's bulkhead, while held
	begun   dedup.Begun
	nonce   uint64
	open    bool // a claim is held and not yet finished
	sent    bool // bytes of this claim may have left
	waived  bool // runs without a claim, by the operator's word or because it is a read
	handed  bool // a stream owns outcome, record and metrics now
	settled bool // the record is written

	waited   time.Duration // for the holder of the same call, or for a place
	upstream time.Duration // spent with the tool
}

func (g *Governor) open(r *Request) *passage {
	g.running.Add(1)
	return &passage{g: g, s: g.Snapshot(), r: r, rec: audit.Record{
		Time: r.Arrived.UTC(), AgentID: r.Agent, Tenant: r.Tenant, Route: string(r.Route), Method: r.Method,
		RequestID: r.ID, RunID: r.RunID, Decision: string(Blocked), RiskLevel: string(policy.Low),
		Outcome: dedup.NotSent.String(), SpendUSD: "0", Tool: r.Name, Host: r.Target.Authority,
	}}
}

// close is the deferred first line of the path: whatever happened, it leaves one record and an answer.
func (p *passage) close(reply *Reply, panicked any) *Reply {
	if panicked != nil {
		p.g.Log(slog.LevelError, "a request made the sidecar panic", "request_id", p.r.ID, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		reply = p.fail(panicked)
	}
	if p.handed {
		return reply
	}
	p.leave()
	p.settle()
	return reply
}

// fail ends a request in which the sidecar itself failed.
func (p *passage) fail(any) *Reply {
	p.handed = false
	if p.open {
		v := judgeLoss(p.tool, map[bool]Phase{false: Dialled, true: FirstByte}[p.sent])
		reply := p.refuse("internal", "")
		if p.sent {
			p.rec.Decision, p.rec.Outcome = string(Executed), v.outcome.String()
			reply = p.refuseAs(Executed, "internal", "")
		}
		p.finish(v, nil, "internal")
		return reply
	}
	return p.refuse("internal", "")
}

// settle writes the record and counts, once.
func (p *passage) settle() {
	if p.settled {
		return
	}
	p.settled = true
	p.stamp()
	p.g.Record(&p.rec)
	p.count()
}

// stamp sets what only the end knows.
func (p *passage) stamp() {
	p.rec.DurationMS = float64(time.Since(p.r.Arrived).Microseconds()) / 1000
}

func (p *passage) count() {
	p.g.running.Add(-1)
	p.g.Meter.Call(&p.rec, time.Since(p.r.Arrived)-p.upstream-p.waited, p.upstream)
}

// leave gives the place in the tool's bulkhead back.
func (p *passage) leave() {
	if p.place != nil {
		<-p.place
		p.place = nil
	}
}

// refuse answers with a refusal by which nothing was sent.
func (p *passage) refuse(code, detail string) *Reply { return p.refuseAs(Blocked, code, detail) }

func (p *passage) refuseAs(d Decision, code, detail string) *Reply {
	f := NewRefusal(code, detail)
	p.rec.Decision, p.rec.PolicyReason, p.rec.Detail = string(d), f.Code, f.Detail
	if d == Blocked {
		p.rec.RiskLevel = string(p.policy.Risk(p.name, p.call.Tool, policy.Reason(code), p.cost, false))
	}
	if d == Blocked {
		p.rec.Outcome = dedup.NotSent.String()
	}
	return p.reply(f)
}

// reply makes the refusal an answer on the terms that the record states.
func (p *passage) reply(f *Refusal) *Reply {
	f.Tool, f.Agent, f.Instance, f.Key = p.rec.Tool, p.rec.AgentID, p.r.ID, short(p.rec.Key)
	reply := &Reply{Status: f.Status, Refusal: f, Header: append(f.headers(), p.headers()...), Body: f.Problem()}
	reply.Decision, reply.Reason, reply.Outcome, reply.Key = Decision(p.rec.Decision), p.rec.PolicyReason, p.rec.Outcome, f.Key
	return reply
}

// headers are those that every answer to an agent carries.
func (p *passage) headers() []tool.Header {
	h := make([]tool.Header, 0, 8)
	h = append(h, tool.Header{Name: "X-OnceOnly-Decision", Value: p.rec.Decision}, tool.Header{Name: "X-OnceOnly-Reason", Value: p.rec.PolicyReason})
	if p.rec.Outcome != "" {
		h = append(h, tool.Header{Name: "X-OnceOnly-Outcome", Value: p.rec.Outcome})
	}
	if p.rec.Key != "" {
		h = append(h, tool.Header{Name: "X-OnceOnly-Key", Value: short(p.rec.Key)})
	}
	return append(h, tool.Header{Name: "X-Request-Id", Value: p.r.ID})
}

// short is how much of a shown key answers carry: 16 hex digits.
func short(key string) string { return key[:min(len(key), 16)] }
