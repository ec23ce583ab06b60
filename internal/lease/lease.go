// Package lease says who may do work that a client does itself, and what came of it: locks, leases and jobs. Its
// transitions are pure functions; every store, whatever it is made of, must behave as they do.
//
// Unlike the claims of package dedup a lease expires: whoever holds it may have done the work and died before saying
// so, and the next one to ask does it again. Version is the fencing token with which the work itself can tell the two
// apart.
package lease

import "time"

// Kept is how long a key is remembered after its lease was finished, cancelled or lost. Afterwards it is as if it had
// never been, and versions begin anew.
const Kept = 7 * 24 * time.Hour

// Status is how far the work of a key got, as stored. That a lease has expired is compared, never stored.
type Status uint8

const (
	Absent Status = iota
	InProgress
	Completed
	Failed
	Canceled
)

// State is what a store remembers of one key. The zero State is absent. Acquire and Apply are its only transitions.
type State struct {
	Status   Status
	ID       string // of the lease; known to its holder only
	Former   string // the lease before this one, which was lost or cancelled
	Version  uint64 // 1 for the first lease of a key; grows with each lease and each extension
	TTL      time.Duration
	First    time.Time // when the key was first acquired
	Deadline time.Time // when the lease expires unless it is extended or finished
	Done     time.Time // when it was finished or cancelled
	Until    time.Time // when the key is forgotten

	ErrorCode  string
	ErrorHash  string
	ResultHash string
	Result     []byte // a JSON object, or nil

	Job *Job // what the server itself does under this lease, while it is at it
}

// Live says whether the key is remembered at now.
func (s *State) Live(now time.Time) bool { return s.Status != Absent && now.Before(s.Until) }

// Expired says whether the lease passed its deadline unfinished.
func (s *State) Expired(now time.Time) bool {
	return s.Status == InProgress && !now.Before(s.Deadline)
}

// Words that pollers read where a lease ended without its holder's word.
const (
	CodeExpired  = "lease_expired"
	CodeCanceled = "canceled"
)

// Shown is the state in the words of the API's pollers, who stop on completed and failed only: an expired and a
// cancelled lease are failed ones to them, although the key can be acquired again.
func (s *State) Shown(now time.Time) (status, errorCode string) {
	switch {
	case s.Status == Completed:
		return "completed", s.ErrorCode
	case s.Status == Failed:
		return "failed", s.ErrorCode
	case s.Status == Canceled:
		return "failed", CodeCanceled
	case s.Expired(now):
		return "failed", CodeExpired
	}
	return "in_progress", ""
}

// Left is how long the lease still holds; zero when nobody holds it.
func (s *State) Left(now time.Time) time.Duration {
	if s.Status != InProgress {
		return 0
	}
	return max(0, s.Deadline.Sub(now))
}

// Claim asks for the lease of a key.
type Claim struct {
	ID  string        // of the new lease: unguessable, never used before
	TTL time.Duration // more than zero
	Job *Job          // what the server will do under it; nil for a lease
}

// Verdict is what a claim came to.
type Verdict uint8

const (
	Acquired Verdict = iota // the claim holds the lease
	Held                    // somebody else does
	Ended                   // the work is completed or failed
)

// Acquire decides a claim. An expired or cancelled key is acquired anew, a finished one is not until it is forgotten.
// The job of an expired lease goes on where it stopped if the same one is asked for.
func Acquire(s State, c Claim, now time.Time) (State, Verdict) {
	if !s.Live(now) {
		s = State{First: now}
	}
	switch {
	case s.Status == Completed || s.Status == Failed:
		return s, Ended
	case s.Status == InProgress && !s.Expired(now):
		return s, Held
	}
	next := State{
		Status: InProgress, ID: c.ID, Former: s.ID, Version: s.Version + 1, TTL: c.TTL, First: s.First,
		Deadline: now.Add(c.TTL), Job: c.Job.after(s.Job),
	}
	next.Until = next.Deadline.Add(Kept)
	return next, Acquired
}
