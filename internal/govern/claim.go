package govern

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// patience is how much longer this request waits for a place among the tool's calls or for a running duplicate.
func (p *passage) patience() time.Duration {
	most := p.tool.Dedup.Wait
	if p.r.Wait > 0 {
		most = min(p.r.Wait, most)
	}
	return max(0, most-p.waited)
}

// enter takes a place in the tool's bulkhead.
func (p *passage) enter(ctx context.Context) *Reply {
	if p.g.Draining.Load() {
		return p.refuse("draining", "")
	}
	if p.stale(p.tool.Effect != tool.Read) {
		return p.refuseStale()
	}
	var waited time.Duration
	p.place, waited = p.g.bulkheads.enter(ctx, p.tool, p.patience())
	p.waited += waited
	switch { // both may have changed while this request waited
	case p.place == nil:
		return p.refuse("overloaded", fmt.Sprintf("%d calls of %s are running.", max(p.tool.MaxInFlight, 1), p.name))
	case p.g.Draining.Load():
		return p.refuse("draining", "")
	case p.g.Disabled(p.r.Agent):
		return p.refuse("agent_disabled", "")
	}
	return nil
}

// stale says whether the policies are too old for a call, if it may have effects.
func (p *passage) stale(effects bool) bool { return effects && p.g.Stale != nil && p.g.Stale() != nil }

func (p *passage) refuseStale() *Reply {
	return p.refuse("policy_stale", "The policies are too old for calls with effects, or none were read yet.")
}

// claim asks the store for the right to run the call. A nil reply means that this request runs it.
func (p *passage) claim(ctx context.Context) *Reply {
	c := p.ask()
	p.nonce = c.Nonce
	b, err := p.g.Store.Begin(ctx, c)
	switch {
	case errors.Is(err, dedup.ErrDisabled):
		return p.refuse("agent_disabled", "")
	case err != nil:
		return p.unclaimed(err)
	}
	p.begun = b
	p.rec.ShadowReason = cmp.Or(p.rec.ShadowReason, string(b.Shadow))
	if b.Status != dedup.Mine {
		p.leave()
		return p.standing(ctx)
	}
	p.open = true
	p.waived()
	p.rec.Fence, p.rec.Attempt = b.Fence, b.Attempt
	if !b.Taken { // a re-send is covered by the charge of the first attempt
		p.rec.SpendUSD = p.cost.String()
	}
	p.names(b.Key, b.Generation)
	return nil
}

func (p *passage) ask() *dedup.Claim {
	if p.g.Scope != nil {
		p.rec.LimitScope = p.g.Scope()
	}
	c := &dedup.Claim{
		Keys: p.keys.Identities, Guards: p.keys.Guards, Nonce: rand.Uint64(),
		Tenant: p.r.Tenant, Agent: p.r.Agent, Tool: p.name, Effect: p.tool.Effect, Timeout: p.tool.Timeout,
		Cost: p.cost, Limits: p.policy.Limits(p.name), Shadow: p.policy.Shadow(),
		Light: p.tool.Effect == tool.Read, Forced: p.r.ForceNew != "", FailOpen: p.tool.FailOpen,
	}
	if p.tool.Unregistered {
		c.UnknownFor = lightWindow
	}
	if p.tool.Effect == tool.Idempotent {
		c.Resend = p.tool.Dedup.IdempotencyWindow
	}
	c.Record = p.intent
	return c
}

// intent is the record that recovery would complete, should this process die while the call runs.
func (p *passage) intent() []byte {
	rec := p.rec
	rec.Decision, rec.PolicyReason, rec.SpendUSD = string(Executed), "ok", p.cost.String()
	return rec.Append(make([]byte, 0, recordBytes))
}

// waived notes that the claim holds here only: what is beyond could not be asked, and the tool permits that.
func (p *passage) waived() {
	switch p.begun.Waived {
	case "":
		p.claimed()
		return
	case "store": // another sidecar may run the same call meanwhile
		p.rec.Guarantee = "none"
	default:
		p.rec.Guarantee = "this sidecar"
	}
	p.rec.FailOpen = p.begun.Waived
	p.g.Meter.FailOpen(p.begun.Waived)
	if p.g.waived.lacking() {
		p.g.Log(slog.LevelWarn, "calls run under a claim of this sidecar alone, this one first: what is shared cannot be asked and their tools are on_store_error: allow", "check", p.begun.Waived, "tool", p.name, "request_id", p.r.ID)
	}
}

// claimed ends the log's tale of calls that went without a claim, or with one of this sidecar alone.
func (p *passage) claimed() {
	g := p.g
	if g.unclaimed.lasts() {
		g.unclaimed.had(func(calls int64, lasted time.Duration) {
			g.Log(slog.LevelInfo, "claims are taken again", "calls_without_claim", calls, "lasted", lasted.Round(time.Millisecond).String())
		})
	}
	if g.waived.lasts() {
		g.waived.had(func(calls int64, lasted time.Duration) {
			g.Log(slog.LevelInfo, "what is shared is asked again", "calls_under_own_claim", calls, "lasted", lasted.Round(time.Millisecond).String())
		})
	}
}

// recordBytes is room for a usual audit record.
const recordBytes = 768

// names sets what the run is called towards the tool. A call that is never the same as another one is called by its
// nonce, so that the tool does not take it for a repetition either.
func (p *passage) names(k dedup.Key, generation uint64) {
	if !p.keys.Applies {
		k, generation = p.keys.Arguments, p.nonce
	}
	p.runKey = dedup.UpstreamKey(k, generation)
}

// unclaimed decides what runs without a claim when the store takes none.
func (p *passage) unclaimed(err error) *Reply {
	p.g.Meter.StoreError("begin")
	if !p.tool.FailOpen || errors.Is(err, dedup.ErrDenied) {
		detail := "The store takes no new claims, and this tool's calls need one."
		if errors.Is(err, dedup.ErrNoLease) {
			detail = "The control plane gave no lease, and this tool's calls need one."
		}
		return p.refuse("store_unavailable", detail)
	}
	if p.tool.Effect == tool.Read && p.g.Audited != nil && !p.g.Audited() {
		return p.refuse("store_unavailable", "The store takes no entries, and no more audit records can wait for it in memory.")
	}
	p.g.Meter.FailOpen("store")
	if p.g.unclaimed.lacking() {
		p.g.Log(slog.LevelWarn, "calls run without a claim, this one first: the store takes none and their tools are on_store_error: allow", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
	}
	p.rec.FailOpen, p.rec.Guarantee, p.rec.Attempt, p.rec.SpendUSD = "store", "none", 1, p.cost.String()
	first := dedup.Key{}
	if p.keys.Applies {
		first = p.keys.Identities[0].Key
	}
	p.names(first, 0)
	return nil
}
