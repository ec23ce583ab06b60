package lease

import (
	"errors"
	"time"
)

// Errors of Apply. The state is then as it was.
var (
	ErrAbsent    = errors.New("there is no lease of this key")
	ErrMismatch  = errors.New("the lease of this key is another one")
	ErrLost      = errors.New("the lease has expired")
	ErrCompleted = errors.New("the work of this key is completed")
	ErrFailed    = errors.New("the work of this key has failed")
	ErrCanceled  = errors.New("the lease was cancelled")
)

// Act is what a holder does with its lease.
type Act uint8

const (
	Extend   Act = iota // goes on holding it
	Complete            // the work is done
	Fail                // the work has failed
	Cancel              // gives the key back
	Resume              // a job goes on after a restart, or goes on working
	Begin               // a job is about to run its next action
	Note                // a job's action has ended
)

// Step is one act of the holder of a lease.
type Step struct {
	Act        Act
	ID         string        // of the lease
	TTL        time.Duration // Extend: from now on; 0: as it was
	Result     []byte        // Complete, and Fail of a job: a JSON object, or nil
	ResultHash string        // Complete
	ErrorCode  string        // Fail
	ErrorHash  string        // Fail
	Keep       time.Duration // Complete: how long the key is remembered; 0: Kept
	Answer     []byte        // Note: what the action came to, JSON
}

// Apply decides a step. changed is false for the repetition of an end that is recorded already, which is no error.
//
// An end counts even after the deadline while nobody else has acquired the key: the work was done, and to refuse the
// word of it would invite a second execution. Extending and cancelling need a lease that still holds: a late heartbeat
// never revives one.
func Apply(s State, st Step, now time.Time) (next State, changed bool, err error) {
	if err := s.owned(st.ID, now); err != nil {
		return s, false, err
	}
	if s.Status != InProgress {
		return s, false, s.ended(st.Act)
	}
	if s.Expired(now) && (st.Act == Extend || st.Act == Cancel) {
		return s, false, ErrLost
	}
	switch st.Act {
	case Complete, Fail, Cancel:
		return s.finish(st, now), true, nil
	case Begin, Note:
		return s.advance(st, now)
	}
	if st.TTL > 0 {
		s.TTL = st.TTL
	}
	s.Version++
	s.Deadline = now.Add(s.TTL)
	s.Until = s.Deadline.Add(Kept)
	return s, true, nil
}

// owned says whether id is the key's lease.
func (s *State) owned(id string, now time.Time) error {
	switch {
	case !s.Live(now):
		return ErrAbsent
	case id == s.ID && id != "":
		return nil
	case id == s.Former && id != "":
		return ErrLost
	}
	return ErrMismatch
}

// ended is what an act on a lease comes to that has ended already.
func (s *State) ended(a Act) error {
	switch s.Status {
	case Completed:
		if a != Complete {
			return ErrCompleted
		}
	case Failed:
		if a != Fail {
			return ErrFailed
		}
	case Canceled:
		if a != Cancel {
			return ErrCanceled
		}
	}
	return nil
}

func (s State) finish(st Step, now time.Time) State {
	s.Done, s.Until, s.Job = now, now.Add(Kept), nil
	switch st.Act {
	case Complete:
		s.Status, s.Result, s.ResultHash = Completed, st.Result, st.ResultHash
		if st.Keep > 0 {
			s.Until = now.Add(st.Keep)
		}
	case Fail:
		s.Status, s.Result, s.ErrorCode, s.ErrorHash = Failed, st.Result, st.ErrorCode, st.ErrorHash
	case Cancel:
		s.Status = Canceled
	}
	return s
}
