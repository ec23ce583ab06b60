package store

import (
	"context"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Wait waits for a running call: see dedup.Store.
func (e *Embedded) Wait(ctx context.Context, _ string, k dedup.Key, fence uint64) (dedup.Ending, error) {
	c, err := e.join(k, fence)
	if err != nil {
		return dedup.Ending{}, err
	}
	if c == nil {
		return e.over(k, fence)
	}
	defer e.part(c)
	for {
		select {
		case <-c.done:
			if c.renewed == nil {
				return c.ending, nil
			}
			c = c.renewed
		case <-ctx.Done():
			return dedup.Ending{}, ctx.Err()
		}
	}
}

// join adds a waiter to a running call; nil when it is not running.
func (e *Embedded) join(k dedup.Key, fence uint64) (*call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.live[k]
	again := c != nil && c.state.Outcome == dedup.Running && c.state.Attempt > 1 && c.state.Fence > fence
	if c == nil || c.state.Fence != fence && !again {
		return nil, nil
	}
	if c.waiters >= e.opt.Waiters {
		return nil, dedup.ErrTooManyWaiters
	}
	c.waiters++
	return c, nil
}

func (e *Embedded) part(c *call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.waiters--
}

// over is how a call ended that is no longer running.
func (e *Embedded) over(k dedup.Key, fence uint64) (dedup.Ending, error) {
	h, err := e.look(k)
	if err != nil {
		return dedup.Ending{}, err
	}
	s := h.state(k, k)
	switch {
	case h.call != nil && s.Attempt > 1 && s.Fence > fence: // unknown, and then taken over
		return dedup.Ending{Outcome: dedup.Unknown}, nil
	case s.Fence != fence || !s.Held:
		return dedup.Ending{Outcome: s.Outcome, At: s.Ended}, nil
	}
	return dedup.Ending{Outcome: s.Outcome, At: s.Ended, Answer: h.answer()}, nil
}

// Delivered says that the answer of an ended call reached its caller whole: the call then stands in the way for window
// after its outcome and no longer. Nobody waits for the disk; what is lost by a crash only lengthens the window.
func (e *Embedded) Delivered(_ string, k dedup.Key, fence uint64, window time.Duration) {
	h, err := e.look(k)
	if err != nil || h.ended == nil || h.ended.state.Fence != fence {
		return
	}
	s := h.ended.state
	s.Expires = earlier(s.Expires, h.place.expires)
	next := dedup.Deliver(s, fence, window)
	if next.Expires.Equal(s.Expires) {
		return
	}
	f := deliverFact{fence: fence, keys: h.ended.keys, expires: next.Expires}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.shorten(&f, h.place.at) {
		return // the keys are a newer call's by now
	}
	e.buf = f.append(e.buf)
	if _, err := e.j.Append(journal.Entry{Kind: kindDeliver, Fact: e.buf}); err != nil {
		e.log.Warn("a shorter window is not written", "error", err)
	}
}

// shorten sets the expiry of an ended call's keys where they still stand for it.
func (e *Embedded) shorten(f *deliverFact, at journal.Location) (done bool) {
	for _, id := range f.keys {
		if p, ok := e.index.get(id.Key); ok && e.live[id.Key] == nil && p.at == at && !p.tombstone {
			p.expires = earlier(p.expires, f.expires)
			e.index.put(id.Key, p, f.expires.Add(-time.Hour))
			done = true
		}
	}
	return done
}
