package store

import (
	"context"
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// waiver tells the nonce of a claim that only this process knows of from that of the claim which Redis was asked for,
// and which may yet have to be given up there.
const waiver = 0x9e3779b97f4a7c15

// waive claims a call here alone, because Redis could not be asked and the operator allows it. It binds this sidecar's
// callers at once and all others once Redis has heard of it; until then another sidecar may run the same call.
func (r *Redis) waive(ctx context.Context, c *dedup.Claim, why error) (dedup.Begun, error) {
	if err := r.local.Err(); err != nil {
		return dedup.Begun{}, fmt.Errorf("%w; and the journal beside it: %w", why, err)
	}
	r.waiving.Lock()
	defer r.waiving.Unlock()
	now := r.nowIn(r.shardOf(c.Agent))
	if b, ok := r.own.standing(c, now); ok {
		return b, nil
	}
	own := *c
	own.Nonce ^= waiver
	mine, commit, err := r.own.intend(&own, now)
	if err == nil {
		err = r.stand(ctx, c, commit)
	}
	if err != nil {
		return dedup.Begun{}, fmt.Errorf("%w: %w: %w", dedup.ErrUnavailable, why, err)
	}
	r.waivedLast = max(r.waivedLast+1, uint64(microsOf(now)))
	rec := *mine.record
	rec.state = rec.state.Granted(r.waivedLast)
	r.own.waive(mine, &rec)
	return dedup.Begun{Status: dedup.Mine, Waived: "store", Key: rec.state.Origin, Generation: rec.state.Generation, Attempt: 1, Now: now}, nil
}

// waivedEnd is the end of such a claim under the fence that it has here.
func (r *Redis) waivedEnd(e *dedup.End) *dedup.End {
	own := *e
	own.Nonce ^= waiver
	own.Fence = r.own.waivedFence(own.Nonce)
	return &own
}

// waive makes a claim stand that Redis does not know of.
func (o *ownCalls) waive(c *ownCall, rec *record) {
	o.granted(c, rec, 0)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waived[c.nonce] = c
}

func (o *ownCalls) isWaived(c *ownCall) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waived[c.nonce] == c
}

// waivedFence is the fence of the open claim of that nonce; 0 when there is none.
func (o *ownCalls) waivedFence(nonce uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.open[nonce]; c != nil {
		return c.record.state.Fence
	}
	return 0
}

// standing says what of this process's own calls is in a claim's way.
func (o *ownCalls) standing(c *dedup.Claim, now time.Time) (dedup.Begun, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, own := range o.open {
		if b, ok := own.inTheWay(c, now); ok {
			return b, true
		}
	}
	for _, own := range o.recent {
		if b, ok := own.inTheWay(c, now); ok {
			return b, true
		}
	}
	for _, own := range o.late { // also of the last process
		if b, ok := own.inTheWay(c, now); ok {
			return b, true
		}
	}
	for _, own := range o.heirs {
		if b, ok := own.leftOpen(c, now); ok {
			return b, true
		}
	}
	return dedup.Begun{}, false
}

// leftOpen is the word on a claim for a call that the last process left open: nothing can tell whether it ran.
func (c *ownCall) leftOpen(claim *dedup.Claim, now time.Time) (dedup.Begun, bool) {
	for _, id := range claim.Keys {
		if !c.gaveUp && !c.harmless() && hasKey(c.record.keys, id.Key) {
			return begunOf(dedup.Blocked, c.record, id.Key, now), true
		}
	}
	return dedup.Begun{}, false
}

func (c *ownCall) inTheWay(claim *dedup.Claim, now time.Time) (dedup.Begun, bool) {
	if !c.won || c.gaveUp || !c.record.state.Live(now) {
		return dedup.Begun{}, false
	}
	for _, id := range claim.Keys {
		if !hasKey(c.record.keys, id.Key) {
			continue
		}
		if printOf(c.record.keys, id.Key) != id.Print {
			return begunOf(dedup.Reused, c.record, id.Key, now), true
		}
		status := map[dedup.Outcome]dedup.Status{dedup.Running: dedup.InFlight, dedup.Unknown: dedup.Blocked}
		b := begunOf(dedup.Replay, c.record, id.Key, now)
		if s, open := status[c.record.state.Outcome]; open {
			b.Status = s
		} else if b.Answer = c.answer; b.Answer == nil {
			b.Answer = &dedup.Answer{}
		}
		return b, true
	}
	return dedup.Begun{}, false
}

// shadowed says that a claim for one of the call's keys was given up and may still stand in Redis. Call it with mu held.
func (o *ownCalls) shadowed(c *ownCall) bool {
	for _, other := range o.open {
		if !other.gaveUp {
			continue
		}
		for _, id := range c.record.keys {
			if hasKey(other.record.keys, id.Key) {
				return true
			}
		}
	}
	return false
}
