package control

import (
	"context"
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// formers are the keys under which earlier definitions of the tool know the call: those of its own kind. A client's key
// that only guards is never leased.
func formers(c *dedup.Claim) (keys []dedup.Key) {
	first := c.Keys[0]
	derived := first.Key == first.Print
	for _, id := range c.Keys[1:] {
		if id.Key != first.Key && (id.Key == id.Print) == derived {
			keys = append(keys, id.Key)
		}
	}
	return keys
}

// inTheWay looks, under a lease that is granted, whether another sidecar knows the call by another key: one of an earlier
// definition of the tool, or, for a Force-New, the key of the call that it repeats. The lease is then given back. False:
// nothing stands in the way.
func (s *Leases) inTheWay(ctx context.Context, c *dedup.Claim, b dedup.Begun, h *held) (dedup.Begun, bool, error) {
	earlier := formers(c)
	for i, k := range append(earlier, c.Guards...) {
		a, err := s.client.look(ctx, s.goesOut(k))
		if missing(err) || err == nil && a.Status == "failed" {
			continue
		}
		guard := i >= len(earlier)
		if err != nil {
			if c.FailOpen && kindOf(err) != Denied {
				continue
			}
			s.returns(c, b, h, "store_unavailable")
			return dedup.Begun{}, true, fmt.Errorf("%w: %w: what the call was under another key is not known: %w", dedup.ErrUnavailable, dedup.ErrNoLease, err)
		}
		switch found := (dedup.Begun{Key: k, Guard: guard, Fence: elsewhere, At: since(&a, b.Now), Now: b.Now}); {
		case a.ended() && guard:
			continue
		case a.ended():
			e := s.watches.ended(k, &a)
			s.returns(c, b, h, movedOn)
			return s.begun(e, c, k), true, nil
		case a.forLong():
			s.returns(c, b, h, "outcome_unknown")
			found.Status = dedup.Blocked
			return found, true, nil
		default:
			s.watches.running(k)
			s.returns(c, b, h, "in_flight")
			found.Status = dedup.InFlight
			return found, true, nil
		}
	}
	return dedup.Begun{}, false, nil
}

// begun is the answer to a claim of a call that ended elsewhere under one of its keys.
func (s *Leases) begun(e *ended, c *dedup.Claim, k dedup.Key) dedup.Begun {
	mine := e.print == ""
	for _, id := range c.Keys {
		mine = mine || id.Key == k && s.goesOut(id.Print) == e.print
	}
	if !mine {
		return dedup.Begun{Status: dedup.Reused, Key: k, Now: time.Now()}
	}
	return dedup.Begun{Status: dedup.Replay, Key: k, Outcome: e.outcome, At: e.at, Answer: e.answer, Now: time.Now()}
}
