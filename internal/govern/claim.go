package govern

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// patience is how long this request waits for a running duplicate or for a place among the tool's calls.
func (p *passage) patience() time.Duration {
	if p.r.Wait > 0 {
		return min(p.r.Wait, p.tool.Dedup.Wait)
	}
	return p.tool.Dedup.Wait
}

// enter takes a place in the tool's bulkhead.
func (p *passage) enter(ctx context.Context) *Reply {
	if p.g.Draining.Load() {
		return p.refuse("draining", "")
	}
	places := p.g.bulkheads.of(p.tool)
	select {
	case places <- struct{}{}:
	default:
		ctx, cancel := context.WithTimeout(ctx, p.patience())
		defer cancel()
		start := time.Now()
		ok := enter(ctx, places)
		p.waited += time.Since(start)
		if !ok {
			return p.refuse("overloaded", fmt.Sprintf("%d calls of %s are running.", cap(places), p.name))
		}
	}
	p.place = places
	return nil
}

// claim asks the store for the right to run the call. A nil reply means that this request runs it.
func (p *passage) claim(ctx context.Context) *Reply {
	c := p.ask()
	b, err := p.g.Store.Begin(ctx, c)
	if err != nil {
		return p.unclaimed(err)
	}
	p.begun, p.nonce = b, c.Nonce
	p.rec.ShadowReason = cmpOr(p.rec.ShadowReason, string(b.Shadow))
	if b.Status == dedup.Mine {
		p.open = true
		p.rec.Fence, p.rec.Attempt, p.rec.SpendUSD = b.Fence, b.Attempt, p.cost.String()
		return nil
	}
	p.leave()
	if len(p.keys.Identities) > 0 && b.Key != (dedup.Key{}) {
		p.rec.Key = p.g.Shown(b.Key)
	}
	switch b.Status {
	case dedup.InFlight:
		if b.Guard {
			return p.refuseAs(Dedup, "in_flight", "The call that this one means to repeat is still running.")
		}
		return p.await(ctx)
	case dedup.Replay:
		return p.replay(b.Outcome, b.At, b.Answer)
	case dedup.Blocked:
		return p.unknown()
	case dedup.Reused:
		return p.refuse("idempotency_key_reused", "This Idempotency-Key was used for a call with other arguments.")
	}
	return p.over(b)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (p *passage) ask() *dedup.Claim {
	c := &dedup.Claim{
		Keys: p.keys.Identities, Guards: p.keys.Guards, Nonce: rand.Uint64(),
		Tenant: p.r.Tenant, Agent: p.r.Agent, Tool: p.name, Effect: p.tool.Effect, Timeout: p.tool.Timeout,
		Cost: p.cost, Limits: p.policy.Limits(p.name), Shadow: p.policy.Shadow(),
		Light: p.tool.Effect == tool.Read, Forced: p.r.ForceNew != "",
	}
	if !p.keys.Applies {
		c.Keys, c.Guards = nil, nil
	}
	if p.tool.Unregistered {
		c.UnknownFor = lightWindow
	}
	if p.tool.Effect == tool.Idempotent {
		c.Resend = p.tool.Dedup.IdempotencyWindow
	}
	// What recovery would complete, should this process die while the call runs.
	intent := p.rec
	intent.Decision, intent.PolicyReason, intent.SpendUSD = string(Executed), "ok", p.cost.String()
	c.Record = intent.Append(nil)
	return c
}

// unclaimed decides what runs without a claim when the store takes none.
func (p *passage) unclaimed(err error) *Reply {
	p.g.Meter.StoreError("begin")
	if !p.tool.FailOpen {
		return p.refuse("store_unavailable", "The store takes no new claims, and this tool's calls need one.")
	}
	p.g.Meter.FailOpen("store")
	p.g.Log(slog.LevelWarn, "a call runs without a claim: the store takes none and the tool is on_store_error: allow", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
	p.waived = true
	p.rec.FailOpen, p.rec.Guarantee, p.rec.Attempt, p.rec.SpendUSD = "store", "none", 1, p.cost.String()
	return nil
}

// await waits for the holder of the same call and passes its answer or refusal on. No waiter becomes a sender.
func (p *passage) await(ctx context.Context) *Reply {
	ctx, cancel := context.WithTimeout(ctx, p.patience())
	defer cancel()
	start := time.Now()
	end, err := p.g.Store.Wait(ctx, p.begun.Key, p.begun.Fence)
	p.waited += time.Since(start)
	p.rec.FirstID = p.begun.RequestID
	switch {
	case p.g.Disabled(p.r.Agent):
		return p.refuse("agent_disabled", "")
	case err != nil:
		p.rec.Outcome = ""
		detail := "The same call has been running since " + p.begun.At.UTC().Format(time.RFC3339) + "."
		if errors.Is(err, dedup.ErrTooManyWaiters) {
			detail = "Too many callers wait for this call already."
		}
		return p.refuseAs(Dedup, "in_flight", detail)
	}
	// The lists may have changed while this request waited.
	if d := p.g.Snapshot().Policies.For(p.r.Agent).Decide(p.name, p.tool, p.r.ForceNew != ""); !d.Allow {
		return p.refuse(string(d.Reason), refusalDetail(d))
	}
	p.rec.Outcome = end.Outcome.String()
	switch {
	case end.Outcome == dedup.Unknown:
		return p.unknown()
	case end.Answer != nil:
		return p.replay(end.Outcome, end.At, end.Answer)
	case end.Refusal != "":
		return p.refuseAs(Dedup, end.Refusal, "The call that this one repeats ended so.")
	}
	return p.refuseAs(Dedup, "in_flight", "The call that this one repeats ended without an answer; repeat it.")
}

// unknown answers a duplicate of a call of which nobody can say whether it ran.
func (p *passage) unknown() *Reply {
	p.rec.Outcome, p.rec.FirstID = dedup.Unknown.String(), p.begun.RequestID
	return p.refuseAs(Dedup, "outcome_unknown", "The same call was sent before and no usable answer came; it may have run.")
}

// replay gives the kept answer of an earlier call, byte for byte.
func (p *passage) replay(outcome dedup.Outcome, at time.Time, a *dedup.Answer) *Reply {
	p.rec.Outcome, p.rec.FirstID, p.rec.UpstreamStatus = outcome.String(), p.begun.RequestID, a.Status
	if !a.Kept {
		f := p.refuseAs(Dedup, "result_not_kept", "The call ran and its answer was not kept.")
		f.Refusal.Extra = fmt.Sprintf(`,"upstream_status":%d,"length":%d,"sha256":"%x"`, a.Status, a.Size, a.SHA256)
		f.Body = f.Refusal.Problem()
		return f
	}
	p.rec.Decision, p.rec.PolicyReason = string(Dedup), "tool_idempotency"
	age := max(0, int64(time.Since(at)/time.Second))
	h := append(make([]tool.Header, 0, len(a.Header)+8), a.Header...)
	h = append(h, tool.Header{Name: "Idempotent-Replayed", Value: "true"}, tool.Header{Name: "Age", Value: strconv.FormatInt(age, 10)})
	return &Reply{
		Status: a.Status, Header: append(h, p.headers()...), Body: a.Body,
		Decision: Dedup, Reason: p.rec.PolicyReason, Outcome: p.rec.Outcome, Key: short(p.rec.Key), Delivered: p.delivered(),
	}
}

// over refuses a call that would pass a limit.
func (p *passage) over(b dedup.Begun) *Reply {
	reply := p.refuse(string(b.Over), "")
	f := reply.Refusal
	p.rec.Rule = p.policy.Rule(string(b.Over), p.name)
	f.RetryAfter = max(1, int((b.RetryAfter+time.Second-1)/time.Second))
	return p.reply(f)
}

// delivered tells the store that an unregistered call's answer reached its caller, so that the next equal call is a
// new one soon. Nil for every other call.
func (p *passage) delivered() func(bool) {
	if !p.tool.Unregistered || !p.keys.Applies {
		return nil
	}
	key, fence := p.begun.Key, p.begun.Fence
	return func(whole bool) {
		if whole {
			p.g.Store.Delivered(key, fence, lightWindow)
		}
	}
}
