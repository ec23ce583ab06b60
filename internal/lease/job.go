package lease

import (
	"bytes"
	"errors"
	"slices"
	"time"
)

// Job is what the server does under a lease: actions, one after the other. It is never changed once it stands in a State.
type Job struct {
	Run     string    // names the work in the identity of its actions: the same for every attempt at it
	Spec    []byte    // what was asked for, as it came
	Agent   string    // in whose name
	RunID   string    // its timeline
	Key     string    // the name of the api key that asked
	Answers [][]byte  // of the actions that have ended, in order, JSON
	Begun   bool      // the action after those may have been sent
	BegunAt time.Time // when, if so
}

// ErrNoJob says that the lease is not one under which the server works, or that its job is not where the step has it.
var ErrNoJob = errors.New("the lease has no such job")

// after is the job of a new lease, given that of the lease before. Only the same job goes on where that one stopped:
// its actions keep their identity, so that none runs twice.
func (j *Job) after(before *Job) *Job {
	if j == nil || before == nil || !bytes.Equal(j.Spec, before.Spec) || j.Agent != before.Agent {
		return j
	}
	next := *j
	next.Run, next.Answers, next.Begun, next.BegunAt = before.Run, before.Answers, before.Begun, before.BegunAt
	return &next
}

// advance takes the job one step further. An action is begun, durably, before it is sent.
func (s State) advance(st Step, now time.Time) (State, bool, error) {
	if s.Job == nil || st.Act == Note && !s.Job.Begun {
		return s, false, ErrNoJob
	}
	j := *s.Job
	if st.Act == Begin {
		if j.Begun {
			return s, false, nil
		}
		j.Begun, j.BegunAt = true, now
	} else {
		j.Begun, j.BegunAt = false, time.Time{}
		j.Answers = append(slices.Clip(j.Answers), st.Answer)
	}
	s.Job = &j
	s.Deadline = now.Add(s.TTL)
	s.Until = s.Deadline.Add(Kept)
	return s, true, nil
}
