package govern

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// standing answers a request whose claim was not won: by what stands in its way.
func (p *passage) standing(ctx context.Context) *Reply {
	b := &p.begun
	if b.Key != (dedup.Key{}) && b.Status != dedup.Reused && (!p.keys.Applies || b.Key != p.keys.Identities[0].Key) {
		p.rec.Key = p.g.Shown(b.Key) // the key under which the first call is listed
	}
	switch b.Status {
	case dedup.InFlight:
		if b.Guard {
			return p.running("The call that this one means to repeat is still running.")
		}
		return p.await(ctx)
	case dedup.Replay:
		p.rec.FirstID = b.RequestID
		return p.replay(b.Outcome, b.At, b.Answer)
	case dedup.Blocked:
		return p.unknown()
	case dedup.Reused:
		return p.refuse("idempotency_key_reused", "This Idempotency-Key was used for a call with other arguments.")
	}
	return p.over()
}

// await waits for the holder of the same call and passes its answer or refusal on. No waiter becomes a sender.
func (p *passage) await(ctx context.Context) *Reply {
	end, err := p.wait(ctx)
	p.rec.FirstID = p.begun.RequestID
	switch {
	case p.g.Disabled(p.r.Agent):
		return p.refuse("agent_disabled", "")
	case errors.Is(err, dedup.ErrTooManyWaiters):
		return p.running("Too many callers wait for this call already.")
	case err != nil:
		return p.running("The same call has been running since " + p.begun.At.UTC().Format(time.RFC3339) + ".")
	}
	// The lists may have changed while this request waited.
	p.policy = p.g.Snapshot().Policies.For(p.r.Agent)
	if reply := p.lists(); reply != nil {
		return reply
	}
	return p.ended(&end)
}

func (p *passage) wait(ctx context.Context) (dedup.Ending, error) {
	ctx, cancel := context.WithTimeout(ctx, p.patience())
	defer cancel()
	start := time.Now()
	defer func() { p.waited += time.Since(start) }()
	return p.g.Store.Wait(ctx, p.r.Agent, p.begun.Key, p.begun.Fence)
}

// ended gives a waiter what its holder got. That the holder's agent was switched off says nothing of this one's, which
// has just been looked at.
func (p *passage) ended(end *dedup.Ending) *Reply {
	p.rec.Outcome = end.Outcome.String()
	switch {
	case end.Outcome == dedup.Unknown:
		return p.unknown()
	case end.Answer != nil:
		return p.replay(end.Outcome, end.At, end.Answer)
	case end.Refusal != "" && end.Refusal != "agent_disabled":
		return p.refuseAs(Dedup, end.Refusal, "The call that this one repeats ended so.")
	}
	return p.refuseAs(Dedup, "in_flight", "The call that this one repeats ended without an answer that is kept; repeat it.")
}

// running answers a duplicate of a call that has no outcome yet.
func (p *passage) running(detail string) *Reply {
	p.rec.Outcome = ""
	return p.refuseAs(Dedup, "in_flight", detail)
}

// unknown answers a duplicate of a call of which nobody can say whether it ran.
func (p *passage) unknown() *Reply {
	p.rec.Outcome, p.rec.FirstID = dedup.Unknown.String(), p.begun.RequestID
	return p.refuseAs(Dedup, "outcome_unknown", "The same call was sent before and no usable answer came; it may have run.")
}

// replay gives the kept answer of an earlier call, byte for byte.
func (p *passage) replay(outcome dedup.Outcome, at time.Time, a *dedup.Answer) *Reply {
	p.rec.Outcome, p.rec.UpstreamStatus = outcome.String(), a.Status
	if !a.Kept {
		return p.refuseWith(Dedup, notKept(a))
	}
	p.rec.Decision, p.rec.PolicyReason = string(Dedup), "tool_idempotency"
	age := max(0, int64(time.Since(at)/time.Second))
	h := make([]tool.Header, 0, len(a.Header)+8)
	for _, kept := range a.Header { // those of an answer that another sidecar gave are as it chose
		if p.keeps(strings.ToLower(kept.Name)) {
			h = append(h, kept)
		}
	}
	h = append(h, tool.Header{Name: "Idempotent-Replayed", Value: "true"}, tool.Header{Name: "Age", Value: strconv.FormatInt(age, 10)})
	return p.reply(&Reply{Status: a.Status, Header: h, Body: a.Body, Delivered: p.delivered()})
}

// notKept says of an answer what is still known. Of a call that an operator called done nothing is.
func notKept(a *dedup.Answer) *Refusal {
	f := NewRefusal("result_not_kept", "The call ran and its answer was not kept.")
	if a.Status != 0 {
		f.Extra = fmt.Sprintf(`,"upstream_status":%d,"length":%d,"sha256":"%x"`, a.Status, a.Size, a.SHA256)
	}
	return f
}

// over refuses a call that would pass a limit.
func (p *passage) over() *Reply {
	limit := string(p.begun.Over)
	f := NewRefusal(limit, "")
	f.RetryAfter = max(1, int((p.begun.RetryAfter+time.Second-1)/time.Second))
	p.ruled(p.policy.Rule(limit, p.name), p.policy.Source())
	return p.refuseWith(Blocked, f)
}

// delivered tells the store that an unregistered call's answer reached its caller, so that the next equal call is a
// new one soon. Nil for every other call.
func (p *passage) delivered() func(bool) {
	if p.tool == nil || !p.tool.Unregistered || !p.keys.Applies {
		return nil
	}
	store, agent, key, fence := p.g.Store, p.r.Agent, p.begun.Key, p.begun.Fence
	return func(whole bool) {
		if whole {
			store.Delivered(agent, key, fence, lightWindow)
		}
	}
}
