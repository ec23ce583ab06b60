package dedup

import (
	"errors"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// State is what a store remembers of one call: the same for all its keys, but for Print. The zero State is absent.
// Begin, Finish, Recover, Resolve and Deliver are its only transitions; they are pure, and every store, whatever it is
// made of, must behave as they do.
type State struct {
	Outcome    Outcome // Running: sent
	Held       bool    // false: absent, or a tombstone that only carries Fence, Nonce, Print and Generation until Expires
	Print      Key     // the fingerprint under the key by which the state was found
	Origin     Key     // the first key of the run's first claim: with Generation it names the run to the tool
	Fence      uint64
	Generation uint64 // of a tombstone: the run that the next claim continues; 0: the next claim is a new run
	Nonce      uint64
	Attempt    int
	Effect     tool.Effect // as it was when the run was claimed; a tool's later definition does not change it
	Claimed    time.Time   // of the first attempt
	Sent       time.Time   // of the last attempt's claim
	Ended      time.Time
	Expires    time.Time // zero: never
	Timeout    time.Duration
	UnknownFor time.Duration // Claim.UnknownFor
	Reserved   Reservation
}

// Reservation is what a claim has charged and where, so that settling touches just that, once.
type Reservation struct {
	Tenant, Agent, Tool string
	Cost                tool.Money
	Minute              int64 // unix minutes of the hour bucket
	Day                 int64 // unix days, UTC
	Settled             bool
}

// Refund is what a settlement gives back of a reservation. The zero Refund gives back nothing.
type Refund struct {
	Call  bool       // the count in the hour and of the tool
	Spend tool.Money // of the day
}

// How long tombstones stand. A tool that saw an earlier attempt honours its key for a day or so; an operator's word
// must outlive a week-end.
const (
	NotSentTombstone  = 24 * time.Hour
	ResolvedTombstone = 7 * 24 * time.Hour
)

// Live says whether the state stands in the way of a new claim at now. Sent stands for ever.
func (s *State) Live(now time.Time) bool {
	return s.Held && (s.Outcome == Running || s.Expires.IsZero() || now.Before(s.Expires))
}

// Open says whether nobody knows yet how the call ended.
func (s *State) Open() bool { return s.Held && (s.Outcome == Running || s.Outcome == Unknown) }

// Verdict is what the states found under a claim's keys say about it. Limits come after it.
type Verdict struct {
	Status Status // never Over
	At     int    // of the state that decided: its index among found, or among guards when Guard; 0 for Mine
	Guard  bool
	Taken  bool  // Mine, of a call whose outcome was unknown: nothing is charged
	Again  bool  // Mine already: this very claim won before and its answer was lost; Next is as it stands
	Next   State // Mine: what all keys hold once Granted
}

// Begin decides a claim on what was found under each of its keys, in their order, and under its guards.
//
// A key that was used for another call is an error of the caller even if another key of the claim would replay, unless
// both lead to the same call. Otherwise the first live state decides.
func Begin(c *Claim, found, guards []State, now time.Time) Verdict {
	if i, ok := reused(c.Keys, found, now); ok {
		return Verdict{Status: Reused, At: i}
	}
	v := Verdict{Next: fresh(c, found, now)}
	for i := range found {
		if s := &found[i]; s.Live(now) {
			v = meet(c, found, i, now)
			break
		}
	}
	if v.Status != Mine || v.Again {
		return v
	}
	for i := range guards {
		if s := &guards[i]; s.Live(now) && s.Open() {
			return Verdict{Status: inTheWay(s.Outcome), At: i, Guard: true}
		}
	}
	return v
}

// reused finds a key whose live record has another fingerprint and is another call than those of the matching keys.
func reused(keys []Identity, found []State, now time.Time) (int, bool) {
	for i := range found {
		if !found[i].Live(now) || found[i].Print == keys[i].Print {
			continue
		}
		if !known(keys, found, found[i].Fence, now) {
			return i, true
		}
	}
	return 0, false
}

func known(keys []Identity, found []State, fence uint64, now time.Time) bool {
	for i := range found {
		if found[i].Live(now) && found[i].Print == keys[i].Print && found[i].Fence == fence {
			return true
		}
	}
	return false
}

// fresh is the state of a claim whose keys are all free. It goes on with the generation of a run that never was.
func fresh(c *Claim, found []State, now time.Time) State {
	s := State{Held: true, Nonce: c.Nonce, Attempt: 1, Effect: c.Effect, Claimed: now, Sent: now, Timeout: c.Timeout, UnknownFor: c.UnknownFor}
	if len(c.Keys) > 0 {
		s.Origin = c.Keys[0].Key
	}
	for i := range found {
		f := &found[i]
		if !f.Held && f.Generation != 0 && f.Print == c.Keys[i].Print && now.Before(f.Expires) {
			s.Generation, s.Origin = f.Generation, f.Origin
			break
		}
	}
	return s
}

// meet decides a claim that met a live state.
func meet(c *Claim, found []State, i int, now time.Time) Verdict {
	s := found[i]
	switch {
	case s.Outcome == Running && s.Nonce == c.Nonce:
		return Verdict{Status: Mine, Again: true, Taken: s.Attempt > 1, Next: s}
	case (s.Outcome == Unknown || s.Outcome == Running && s.Fence == c.Renews) && takeable(c, &s, now) && alone(found, s.Fence, now):
		s.Outcome, s.Nonce, s.Sent, s.Timeout = Running, c.Nonce, now, c.Timeout
		s.Ended, s.Expires = time.Time{}, time.Time{}
		s.Attempt++
		return Verdict{Status: Mine, Taken: true, Next: s}
	}
	return Verdict{Status: inTheWay(s.Outcome), At: i}
}

// takeable says whether the tool still promises that running the unknown call once more under its key does nothing new.
func takeable(c *Claim, s *State, now time.Time) bool {
	return s.Effect == tool.Idempotent && c.Effect == tool.Idempotent && now.Sub(s.Claimed) < c.Resend
}

// alone says whether no other live call is in the way.
func alone(found []State, fence uint64, now time.Time) bool {
	for i := range found {
		if found[i].Live(now) && found[i].Fence != fence {
			return false
		}
	}
	return true
}

func inTheWay(o Outcome) Status {
	switch o {
	case Running:
		return InFlight
	case Unknown:
		return Blocked
	}
	return Replay
}

// Granted is the state once its claim has its fence, which must be larger than every fence that any of its keys ever had.
// The fence of a run's first claim names its generation.
func (s State) Granted(fence uint64) State {
	s.Fence = fence
	if s.Generation == 0 {
		s.Generation = fence
	}
	return s
}

// Finish ends a claim. An end by another fence or nonce changes nothing and is ErrOvertaken; the repetition of an end
// changes nothing and is none. An unknown call is settled late by its own holder.
//
// Once an earlier attempt may have run, only Done settles the call: that the tool refused a re-send, or that a re-send
// never left, says nothing about the first.
func Finish(s State, e *End, now time.Time) (State, Refund, error) {
	if s.Fence != e.Fence || s.Nonce != e.Nonce || s.Fence == 0 {
		return s, Refund{}, ErrOvertaken
	}
	if !s.Open() {
		return s, Refund{}, nil
	}
	outcome := e.Outcome
	if s.Attempt > 1 && outcome != Done {
		outcome = Unknown
	}
	s, back := s.end(outcome, e.Keep, now)
	return s, back, nil
}

// Recover ends the claim of a holder that died or lapsed. Nothing can tell whether its bytes left.
func Recover(s State, now time.Time) (State, Refund) {
	if !s.Held || s.Outcome != Running {
		return s, Refund{}
	}
	return s.end(Unknown, 0, now)
}

func (s State) end(o Outcome, keep time.Duration, now time.Time) (State, Refund) {
	back := s.Reserved.settle(o)
	s.Outcome, s.Ended = o, now
	switch {
	case o == Unknown && s.Effect != tool.Read:
		s.Expires = time.Time{}
		if s.UnknownFor > 0 {
			s.Expires = now.Add(s.UnknownFor)
		}
		return s, back
	case o == NotSent:
		return s.released(s.Generation, now.Add(NotSentTombstone)), back
	case keep <= 0 || o == Unknown: // a read changes nothing: not knowing how it ended binds nobody
		return s.released(0, now), back
	}
	s.Expires = now.Add(keep)
	return s, back
}

// released is the tombstone of a call: its holder's repeated end is still recognised, and generation, unless 0, goes on.
func (s State) released(generation uint64, until time.Time) State {
	return State{
		Outcome: s.Outcome, Print: s.Print, Origin: s.Origin, Fence: s.Fence, Nonce: s.Nonce, Attempt: s.Attempt,
		Generation: generation, Claimed: s.Claimed, Ended: s.Ended, Expires: until, Reserved: s.Reserved,
	}
}

// settle says what an outcome gives back, the first time one does. Unknown settles nothing: the charge stands and may
// still be given back by an operator who knows that nothing happened.
func (r *Reservation) settle(o Outcome) Refund {
	if r.Settled || o == Unknown || o == Running {
		return Refund{}
	}
	r.Settled = true
	switch o {
	case Failed:
		return Refund{Spend: r.Cost}
	case NotSent:
		return Refund{Call: true, Spend: r.Cost}
	}
	return Refund{}
}

// Resolution is an operator's word on an unknown call.
type Resolution struct {
	Key     Key
	Agent   string        // whose call it is
	Fence   uint64        // as the operator saw it; another one means that the call has moved on
	Outcome Outcome       // Done, or NotSent: it was not executed
	Keep    time.Duration // Done: how long duplicates are answered; 0 means 24 h
	Answer  *Answer       // Done: what duplicates get; nil: that the answer was not kept
	Why     string
	Who     string
	Force   bool // not executed, although the holder lives or the tool may still be at it
}

var (
	ErrNotUnknown   = errors.New("the call's outcome is not unknown")
	ErrMoved        = errors.New("the call has moved on since it was looked at")
	ErrStillRunning = errors.New("the call's holder is still at it")
	ErrTooYoung     = errors.New("the call is younger than its tool's timeout and may still be running there")
)

// Resolve applies an operator's word. Not executed frees the key, gives the charge back and keeps the generation: the
// tool, if it knows the key after all, recognises the next attempt. A late end of the holder is then ErrOvertaken.
func Resolve(s State, r *Resolution, now time.Time) (State, Refund, error) {
	if err := s.resolvable(r, now); err != nil {
		return s, Refund{}, err
	}
	if r.Outcome == Done {
		keep := r.Keep
		if keep <= 0 {
			keep = 24 * time.Hour
		}
		s, back := s.end(Done, keep, now)
		return s, back, nil
	}
	s.Outcome, s.Ended = NotSent, now
	back := s.Reserved.settle(NotSent)
	s = s.released(s.Generation, now.Add(ResolvedTombstone))
	s.Nonce = 0
	return s, back, nil
}

func (s *State) resolvable(r *Resolution, now time.Time) error {
	forced := r.Force && r.Outcome == NotSent
	switch {
	case r.Outcome != Done && r.Outcome != NotSent:
		return errors.New("a call is resolved as done or as not executed")
	case s.Fence != r.Fence:
		return ErrMoved
	case !s.Open():
		return ErrNotUnknown
	case s.Outcome == Running && !forced:
		return ErrStillRunning
	case r.Outcome == NotSent && now.Before(s.Sent.Add(s.Timeout)) && !forced:
		return ErrTooYoung
	}
	return nil
}

// Deliver shortens the window of an ended call whose answer reached its caller whole: it then stands for window after
// its outcome. It never makes a window longer.
func Deliver(s State, fence uint64, window time.Duration) State {
	if !s.Held || s.Open() || s.Fence != fence {
		return s
	}
	if until := s.Ended.Add(window); until.Before(s.Expires) {
		s.Expires = until
	}
	return s
}
