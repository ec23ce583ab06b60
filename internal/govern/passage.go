package govern

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// passage is one request on its way through the sequence. It belongs to one goroutine at a time: that of the request,
// then, when the answer is passed on as it comes, that of its stream.
type passage struct {
	g   *Governor
	s   *Snapshot
	r   *Request
	rec audit.Record

	name   string     // of the tool, registered or not
	tool   *tool.Tool // nil for a call that only passes
	policy *policy.Policy
	call   tool.Call
	keys   dedup.Derived
	cost   tool.Money

	place   *bulkhead // of the tool, while a place in it is held
	begun   dedup.Begun
	nonce   uint64
	runKey  string // the idempotency key that the tool sees: the same for every attempt of one run
	open    bool   // a claim is held and not yet finished
	sent    bool   // bytes of this request may have left
	handed  bool   // a stream owns outcome, record and metrics now
	settled bool   // the record is written
	watched bool   // the record was looked at

	waited   time.Duration // for the holder of the same call, for a place, or before another attempt
	upstream time.Duration // spent with the tool
}

func (g *Governor) open(r *Request) *passage {
	g.running.Add(1)
	p := passages.Get().(*passage)
	p.g, p.s, p.r = g, g.Snapshot(), r // field by field: it is empty, and a copy of the whole costs more than all of them
	rec := &p.rec
	rec.Time, rec.AgentID, rec.Tenant, rec.RequestID, rec.RunID = r.Arrived.UTC(), r.Agent, r.Tenant, r.ID, r.RunID
	rec.Route, rec.Method, rec.Tool, rec.Host = string(r.Route), r.Method, r.Name, r.Target.Authority
	rec.Decision, rec.RiskLevel, rec.Outcome, rec.SpendUSD = string(Blocked), string(policy.Low), dedup.NotSent.String(), "0"
	return p
}

// passages are those that have ended: one is large, and every request needs one.
var passages = sync.Pool{New: func() any { return new(passage) }}

// close is the deferred first line of the path: whatever happened, it leaves one record and an answer.
func (p *passage) close(reply *Reply, panicked any) *Reply {
	if panicked != nil {
		p.panicked("a request", panicked)
		reply = p.fail()
	}
	if !p.handed {
		p.leave()
		p.settle()
	}
	if reply != nil {
		reply.Risk, reply.Args, reply.Spend = p.rec.RiskLevel, p.rec.ArgsHash, p.rec.SpendUSD
	}
	if !p.handed && panicked == nil { // nobody else has it
		*p = passage{}
		passages.Put(p)
	}
	return reply
}

func (p *passage) panicked(what string, with any) {
	p.g.Log(slog.LevelError, what+" made the sidecar panic", "request_id", p.r.ID, "panic", fmt.Sprint(with), "stack", string(debug.Stack()))
}

// fail ends a request in which the sidecar itself failed.
func (p *passage) fail() *Reply {
	p.handed = false
	if !p.sent {
		return p.giveBack("internal", "")
	}
	v := p.loss(FirstByte)
	p.rec.Outcome = v.outcome.String()
	reply := p.refuseAs(Executed, "internal", "")
	p.finish(v, nil, "internal")
	return reply
}

// settle writes the record and counts, once, unless the claim's end has carried it.
func (p *passage) settle() {
	if p.settled {
		return
	}
	p.settled = true
	p.stamp()
	p.watch()
	p.g.Record(&p.rec)
	p.count()
}

// watch shows the record, complete, to who looks for what is unusual.
func (p *passage) watch() {
	if p.g.Watch != nil && !p.watched {
		p.watched = true
		p.g.Watch(&p.rec, p.tool)
	}
}

// stamp sets what only the end knows.
func (p *passage) stamp() {
	p.rec.DurationMS = float64(time.Since(p.r.Arrived).Microseconds()) / 1000
}

func (p *passage) count() {
	if p.tool != nil && p.rec.Decision == string(Executed) && p.rec.Outcome == dedup.Unknown.String() {
		p.tellUnknown()
	}
	p.g.running.Add(-1)
	p.g.Meter.Call(&p.rec, time.Since(p.r.Arrived)-p.upstream-p.waited, p.upstream)
}

// tellUnknown says in the log that nobody knows whether this call ran, with the key by which an operator resolves it.
func (p *passage) tellUnknown() {
	g, agent := p.g, p.rec.AgentID
	more := func(hidden int) {
		g.Log(slog.LevelWarn, "further outcomes were unknown within the last minute; `oo-sidecar unknown ls` lists them", "agent", agent, "calls", hidden)
	}
	if !g.unknown.may(agent, more) {
		return
	}
	said := []any{"tool", p.name, "agent", agent, "key", p.rec.Key, "request_id", p.r.ID}
	if p.rec.UpstreamStatus != 0 {
		said = append(said, "upstream_status", p.rec.UpstreamStatus)
	}
	if p.rec.Detail != "" {
		said = append(said, "detail", p.rec.Detail)
	}
	g.Log(slog.LevelWarn, "a call's outcome is unknown: it may have run; `oo-sidecar unknown resolve KEY` settles it", said...)
}

// leave gives the place in the tool's bulkhead back.
func (p *passage) leave() {
	if p.place != nil {
		p.g.bulkheads.leave(p.place)
		p.place = nil
	}
}

// refuse answers with a refusal by which nothing was sent.
func (p *passage) refuse(code, detail string) *Reply { return p.refuseAs(Blocked, code, detail) }

func (p *passage) refuseAs(d Decision, code, detail string) *Reply {
	return p.refuseWith(d, NewRefusal(code, detail))
}

// refuseWith makes f the answer, and has the record say so.
func (p *passage) refuseWith(d Decision, f *Refusal) *Reply {
	p.rec.Decision, p.rec.PolicyReason, p.rec.Detail = string(d), f.Code, f.Detail
	if d == Blocked {
		p.rec.Outcome = dedup.NotSent.String()
		p.rec.RiskLevel = string(p.policy.Risk(p.name, p.call.Tool, policy.Reason(f.Code), p.cost, false))
	}
	f.Tool, f.Agent, f.Instance, f.Key = p.rec.Tool, p.rec.AgentID, p.r.ID, short(p.rec.Key)
	return p.reply(&Reply{Status: f.Status, Refusal: f, Header: f.headers(), Body: f.Problem()})
}

// reply completes an answer with the terms that the record states. A request id of the tool's own does not stand beside
// ours, which says which audit record.
func (p *passage) reply(r *Reply) *Reply {
	r.Decision, r.Reason, r.Outcome, r.Key = Decision(p.rec.Decision), p.rec.PolicyReason, p.rec.Outcome, short(p.rec.Key)
	h := r.Header
	if slices.ContainsFunc(h, isRequestID) {
		h = slices.DeleteFunc(slices.Clone(h), isRequestID)
	}
	h = append(slices.Grow(h, 5), tool.Header{Name: "X-OnceOnly-Decision", Value: p.rec.Decision}, tool.Header{Name: "X-OnceOnly-Reason", Value: r.Reason})
	if r.Outcome != "" {
		h = append(h, tool.Header{Name: "X-OnceOnly-Outcome", Value: r.Outcome})
	}
	if r.Key != "" {
		h = append(h, tool.Header{Name: "X-OnceOnly-Key", Value: r.Key})
	}
	r.Header = append(h, tool.Header{Name: "X-Request-Id", Value: p.r.ID})
	return r
}

func isRequestID(h tool.Header) bool { return sameField(h.Name, "X-Request-Id") }

// short is how much of a shown key answers carry: 16 hex digits.
func short(key string) string { return key[:min(len(key), 16)] }
