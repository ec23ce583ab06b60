package store

import (
	"context"
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Begin claims a call: see dedup.Store.
func (e *Embedded) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	for read := (bodies)(nil); ; {
		b, mine, commit, missing, err := e.begin(c, read)
		switch {
		case err != nil:
			return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
		case len(missing) > 0: // read from the disk without the lock, and decide again
			if read == nil {
				read = bodies{}
			}
			if err := e.read(missing, read); err != nil {
				return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
			}
			continue
		case mine == nil:
			return b, nil
		}
		if err := e.stand(ctx, mine, commit); err != nil {
			return dedup.Begun{}, err
		}
		return b, nil
	}
}

// begin decides a claim and appends it if it wins. Where the decision needs bodies that are not in memory it says which.
func (e *Embedded) begin(c *dedup.Claim, read bodies) (b dedup.Begun, mine *call, commit *journal.Commit, missing []journal.Location, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	l := lookup{e: e, read: read}
	var few [2]dedup.State
	found, guards := l.identities(few[:0], c.Keys), l.keys(c.Guards)
	if len(l.missing) > 0 {
		return b, nil, nil, l.missing, nil
	}
	v := dedup.Begin(c, found, guards, now)
	if v.Status != dedup.Mine {
		return l.standing(c, &v, now), nil, nil, nil, nil
	}
	if v.Again {
		return mineOf(&v.Next, v.Taken, now), nil, nil, nil, nil
	}
	if err := e.room(c, v.Taken, now); err != nil {
		return b, nil, nil, nil, err
	}
	var shadow dedup.Limit
	if !v.Taken {
		limit, after := e.spent.of(c.Tenant, c.Agent).over(c, now)
		if limit != "" && !c.Shadow {
			return dedup.Begun{Status: dedup.Over, Over: limit, RetryAfter: after, Now: now}, nil, nil, nil, nil
		}
		shadow = limit
		v.Next.Reserved = dedup.Reservation{Tenant: c.Tenant, Agent: c.Agent, Tool: c.Tool, Cost: max(c.Cost, 0), Minute: minuteOf(now), Day: dayOf(now)}
	}
	mine, commit, err = e.claim(c, &v)
	if err != nil {
		return b, nil, nil, nil, err
	}
	b = mineOf(&mine.state, v.Taken, now)
	b.Shadow = shadow
	return b, mine, commit, nil, nil
}

func mineOf(s *dedup.State, taken bool, now time.Time) dedup.Begun {
	return dedup.Begun{Status: dedup.Mine, Key: s.Origin, Fence: s.Fence, Generation: s.Generation, Attempt: s.Attempt, Taken: taken, Now: now}
}

// room says whether the store's bounds let one more claim in. A call that is taken over is in already.
func (e *Embedded) room(c *dedup.Claim, taken bool, now time.Time) error {
	if e.closed {
		return errClosed
	}
	if taken || len(c.Keys) == 0 {
		return nil
	}
	if int64(e.unknown) >= e.opt.Config.MaxUnknown {
		return fmt.Errorf("%d outcomes are unknown, as many as store.embedded.max_unknown allows; resolve some with `oo-sidecar unknown ls` and `unknown resolve`", e.unknown)
	}
	if int64(e.index.count+len(e.live)) < e.opt.Config.MaxKeys {
		return nil
	}
	if now.Sub(e.swept) >= time.Second {
		e.swept = now
		e.index.sweepAll(now)
	}
	if n := int64(e.index.count + len(e.live)); n >= e.opt.Config.MaxKeys {
		return fmt.Errorf("%d keys are alive, as many as store.embedded.max_keys allows; raise it, or shorten dedup.ttl of the busiest tools", n)
	}
	return nil
}

var errClosed = fmt.Errorf("%w: the sidecar is stopping", dedup.ErrUnavailable)

// claim appends a claim that won and makes it stand in the way. Call it with mu held.
func (e *Embedded) claim(c *dedup.Claim, v *dedup.Verdict) (*call, *journal.Commit, error) {
	mine := &call{state: v.Next, keys: append([]dedup.Identity(nil), c.Keys...), done: make(chan struct{})}
	if c.Record != nil {
		mine.record = c.Record()
		mine.requestID = requestID(mine.record)
	}
	f := callFact{state: v.Next, record: mine.record}
	if v.Taken {
		mine.taken = e.calls[v.Next.Fence]
		mine.keys, mine.requestID = union(mine.taken.keys, mine.keys), mine.taken.requestID
		f.taken = mine.taken.state.Fence
	}
	f.keys, f.requestID = mine.keys, mine.requestID
	e.buf = f.append(e.buf, false)
	commit, err := e.j.Append(journal.Entry{Kind: kindClaim, Fact: e.buf})
	if err != nil {
		return nil, nil, err
	}
	mine.pending = !c.Light
	e.install(mine, commit.First)
	if c.Light {
		mine.taken, mine.displaced = nil, nil
	}
	return mine, commit, nil
}

// install puts a claim in its place, in this process's life and in the fold alike.
func (e *Embedded) install(c *call, fence uint64) {
	c.state = c.state.Granted(fence)
	c.seq = fence
	if c.taken != nil {
		delete(e.calls, c.taken.state.Fence)
		e.countTaken(c.taken, -1)
	} else {
		e.spent.charge(&c.state.Reserved)
	}
	e.calls[fence] = c
	e.running.Add(1)
	for _, id := range c.keys {
		if old := e.live[id.Key]; old != nil && old != c.taken {
			if c.displaced == nil {
				c.displaced = map[dedup.Key]*call{}
			}
			c.displaced[id.Key] = old
		}
		e.live[id.Key] = c
	}
}

// countTaken counts a call that is taken over out of its kind, or in again.
func (e *Embedded) countTaken(c *call, n int) {
	if c.state.Outcome == dedup.Unknown {
		e.unknown += n
	} else {
		e.running.Add(int64(n))
	}
}

// stand waits until a claim is durable. A claim that does not become durable was never there.
func (e *Embedded) stand(ctx context.Context, c *call, commit *journal.Commit) error {
	if !c.pending {
		return nil
	}
	err := commit.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		go e.release(c, commit)
		return fmt.Errorf("%w: the caller left before the claim was durable: %w", dedup.ErrUnavailable, ctx.Err())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.retract(c)
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	c.pending = false
	if c.taken != nil && c.taken.state.Outcome == dedup.Running {
		c.taken.renewed = c
		c.taken.end(dedup.Ending{})
	}
	c.taken, c.displaced = nil, nil
	return nil
}

// release gives up a claim whose caller left while it was being written. The caller's own record says so.
func (e *Embedded) release(c *call, commit *journal.Commit) {
	if e.stand(context.Background(), c, commit) != nil {
		return
	}
	end := &dedup.End{Keys: c.keys, Agent: c.state.Reserved.Agent, Fence: c.state.Fence, Nonce: c.state.Nonce, Outcome: dedup.NotSent, Refusal: "store_unavailable"}
	if err := e.Finish(context.Background(), end); err != nil {
		e.log.Error("a claim that nobody waits for could not be released", "error", err)
	}
}

// retract undoes install. Call it with mu held.
func (e *Embedded) retract(c *call) {
	e.running.Add(-1)
	delete(e.calls, c.state.Fence)
	for _, id := range c.keys {
		if e.live[id.Key] != c {
			continue
		}
		delete(e.live, id.Key)
		if old := c.displaced[id.Key]; old != nil && e.calls[old.state.Fence] == old {
			e.live[id.Key] = old
		}
		if c.taken != nil && hasKey(c.taken.keys, id.Key) {
			e.live[id.Key] = c.taken
		}
	}
	if c.taken != nil {
		e.calls[c.taken.state.Fence] = c.taken
		e.countTaken(c.taken, 1)
	} else {
		e.spent.undo(&c.state.Reserved)
	}
	c.end(dedup.Ending{Outcome: dedup.NotSent, At: e.now(), Refusal: "store_unavailable"})
}
