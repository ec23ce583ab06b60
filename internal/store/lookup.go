package store

import (
	"errors"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// bodies are ended calls that were read from the journal for one decision. nil: the body has gone.
type bodies map[journal.Location]*endedCall

// read fills in what a decision lacked. It is called without the lock.
func (e *Embedded) read(missing []journal.Location, into bodies) error {
	for _, l := range missing {
		body, err := e.j.Body(l)
		if errors.Is(err, journal.ErrBodyGone) {
			into[l] = nil
			continue
		}
		if err != nil {
			return err
		}
		ended, err := parseEnded(body)
		if err != nil {
			return err
		}
		e.cache.add(l, ended)
		into[l] = ended
	}
	return nil
}

// lookup finds the states under the keys of one decision. Use it with Embedded.mu held.
type lookup struct {
	e       *Embedded
	read    bodies
	missing []journal.Location
}

// hit is what stands under a key: a live call, an ended one, or (both nil, found) one whose body has gone.
type hit struct {
	found bool
	call  *call
	ended *endedCall
	place place
}

func (l *lookup) hit(k dedup.Key) hit {
	if c := l.e.live[k]; c != nil {
		return hit{found: true, call: c}
	}
	p, ok := l.e.index.get(k)
	if !ok {
		return hit{}
	}
	if p.at == (journal.Location{}) {
		return hit{found: true, place: p}
	}
	ended := l.e.cache.get(p.at)
	if ended == nil {
		if ended, ok = l.read[p.at]; !ok {
			l.missing = append(l.missing, p.at)
			return hit{}
		}
	}
	if ended != nil && !hasKey(ended.keys, k) {
		return hit{} // another key with the same hash
	}
	return hit{found: true, ended: ended, place: p}
}

// state is what the hit means for a claim that expects print. Of a call whose body has gone only that it ran is known:
// the claim's own fingerprint is taken for its.
func (h *hit) state(k, print dedup.Key) dedup.State {
	switch {
	case !h.found:
		return dedup.State{}
	case h.call != nil:
		return h.call.stateAt(k)
	case h.ended != nil:
		s := h.ended.state
		s.Print, s.Expires = printOf(h.ended.keys, k), earlier(s.Expires, h.place.expires)
		return s
	case h.place.tombstone:
		return dedup.State{} // its generation is lost; the next run is a new one
	}
	return dedup.State{Held: true, Outcome: dedup.Done, Print: print, Expires: h.place.expires}
}

// earlier prefers the exact time of the body to the index's, which is rounded up, unless the window was shortened.
func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// identities appends to states, which usually have their room in the caller's frame.
func (l *lookup) identities(states []dedup.State, keys []dedup.Identity) []dedup.State {
	for _, id := range keys {
		h := l.hit(id.Key)
		states = append(states, h.state(id.Key, id.Print))
	}
	return states
}

func (l *lookup) keys(keys []dedup.Key) []dedup.State {
	states := make([]dedup.State, len(keys))
	for i, k := range keys {
		h := l.hit(k)
		states[i] = h.state(k, dedup.Key{})
	}
	return states
}

// standing says what is in a claim's way.
func (l *lookup) standing(c *dedup.Claim, v *dedup.Verdict, now time.Time) dedup.Begun {
	k := dedup.Key{}
	if v.Guard {
		k = c.Guards[v.At]
	} else {
		k = c.Keys[v.At].Key
	}
	h := l.hit(k)
	s := h.state(k, k)
	b := dedup.Begun{
		Status: v.Status, Guard: v.Guard, Key: k, Fence: s.Fence, Generation: s.Generation, Attempt: s.Attempt,
		Outcome: s.Outcome, At: s.Ended, RequestID: h.requestID(), Now: now,
	}
	if s.Outcome == dedup.Running {
		b.At = s.Sent
	}
	if v.Status == dedup.Replay {
		b.Answer = h.answer()
	}
	return b
}

func (h *hit) requestID() string {
	switch {
	case h.call != nil:
		return h.call.requestID
	case h.ended != nil:
		return h.ended.requestID
	}
	return ""
}

// answer is what duplicates get: never nil.
func (h *hit) answer() *dedup.Answer {
	switch {
	case h.call != nil && h.call.answer != nil:
		return h.call.answer
	case h.ended != nil:
		return h.ended.answer
	}
	return &dedup.Answer{}
}
