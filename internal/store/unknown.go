package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// UnknownCall is a call of which nobody knows whether it ran.
type UnknownCall struct {
	Key                 dedup.Key // never shown: its HMAC is
	Tenant, Agent, Tool string
	Effect              tool.Effect
	Cost                tool.Money
	Fence               uint64
	Attempt             int
	Claimed             time.Time // of the first attempt
	Ended               time.Time // when it became unknown; zero while a re-send runs
	Timeout             time.Duration
	RequestID           string    // of the first request
	BlocksUntil         time.Time // zero: until it is resolved
	Running             bool      // its holder is at it
}

// Unknowns are the calls whose outcome is unknown, oldest first.
func (e *Embedded) Unknowns() []UnknownCall {
	return e.list(func(c *call) bool { return c.state.Held && c.state.Outcome == dedup.Unknown })
}

// Open are the calls that are running or unknown, oldest first.
func (e *Embedded) Open() []UnknownCall {
	return e.list(func(c *call) bool { return c.state.Open() && !c.pending })
}

func (e *Embedded) list(which func(*call) bool) []UnknownCall {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []UnknownCall
	for _, c := range e.calls {
		if len(c.keys) > 0 && which(c) {
			list = append(list, c.listed())
		}
	}
	slices.SortFunc(list, func(a, b UnknownCall) int {
		return cmp.Or(a.Claimed.Compare(b.Claimed), cmp.Compare(a.Fence, b.Fence))
	})
	return list
}

func (c *call) listed() UnknownCall {
	s := &c.state
	return UnknownCall{
		Key: c.keys[0].Key, Tenant: s.Reserved.Tenant, Agent: s.Reserved.Agent, Tool: s.Reserved.Tool, Effect: s.Effect, Cost: s.Reserved.Cost,
		Fence: s.Fence, Attempt: s.Attempt, Claimed: s.Claimed, Ended: s.Ended, Timeout: s.Timeout, RequestID: c.requestID,
		BlocksUntil: s.Expires, Running: s.Outcome == dedup.Running,
	}
}

// UnknownCount is how many outcomes are unknown.
func (e *Embedded) UnknownCount() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unknown
}

// Resolve applies an operator's word on an unknown call, durably and with its audit record, under the name shown.
// It fails with dedup's ErrMoved, ErrNotUnknown, ErrStillRunning and ErrTooYoung.
func (e *Embedded) Resolve(ctx context.Context, r *dedup.Resolution, shown string) error {
	o, err := e.resolve(r, shown)
	if err != nil {
		return err
	}
	return e.witness(ctx, o)
}

func (e *Embedded) resolve(r *dedup.Resolution, shown string) (*outcome, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.calls[r.Fence]
	if c == nil || !hasKey(c.keys, r.Key) {
		if c = e.live[r.Key]; c == nil {
			return nil, dedup.ErrNotUnknown
		}
		return nil, dedup.ErrMoved
	}
	if c.ended || c.pending {
		return nil, dedup.ErrStillRunning
	}
	now := e.now()
	next, back, err := dedup.Resolve(c.state, r, now)
	if err != nil {
		return nil, err
	}
	answer := r.Answer
	if answer == nil {
		answer = &dedup.Answer{}
	}
	change := audit.Change{Time: now, Who: r.Who, What: "unknown_resolved", Entity: shown, Why: r.Why, Detail: detailOf(c, r)}
	running := c.state.Outcome == dedup.Running
	o := &outcome{call: c, fact: e.factOf(c, next, back, e.keepable(answer)), answer: answer}
	err = e.appendEnd(o, journal.Entry{Kind: audit.KindChange, Fact: change.Append(nil), Must: true})
	if errors.Is(err, journal.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	if err == nil && running {
		e.log.Warn("a call that still runs was resolved as not executed; if it ran, it may run twice", "tool", c.state.Reserved.Tool, "fence", r.Fence)
	}
	return o, err
}

func detailOf(c *call, r *dedup.Resolution) string {
	word := "not_executed"
	if r.Outcome == dedup.Done {
		word = "done"
	}
	forced := ""
	if r.Force {
		forced = ", forced"
	}
	s := &c.state
	return fmt.Sprintf("%s%s; tool %s, agent %s, fence %d, attempt %d, request %s", word, forced, s.Reserved.Tool, s.Reserved.Agent, s.Fence, s.Attempt, c.requestID)
}
