package lease

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func job(t *testing.T) State {
	t.Helper()
	s, verdict := Acquire(State{}, Claim{ID: "a", TTL: ttl, Job: &Job{Run: "r1", Spec: []byte(`{"actions":[1,2]}`), Agent: "x"}}, start)
	if verdict != Acquired {
		t.Fatal(verdict)
	}
	return s
}

func step(t *testing.T, s State, st Step) State {
	t.Helper()
	st.ID = s.ID
	next, _, err := Apply(s, st, start.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestAnActionIsBegunThenNoted(t *testing.T) {
	s := job(t)
	if _, _, err := Apply(s, Step{Act: Note, ID: "a", Answer: []byte("1")}, start); !errors.Is(err, ErrNoJob) {
		t.Errorf("an answer to what was not begun: %v", err)
	}
	begun := step(t, s, Step{Act: Begin})
	if !begun.Job.Begun || s.Job.Begun {
		t.Errorf("begun %+v, before %+v", begun.Job, s.Job)
	}
	if _, changed, err := Apply(begun, Step{Act: Begin, ID: "a"}, start); changed || err != nil {
		t.Errorf("begun twice: %v %v", changed, err)
	}
	noted := step(t, begun, Step{Act: Note, Answer: []byte("one")})
	if noted.Job.Begun || fmt.Sprintf("%s", noted.Job.Answers) != "[one]" {
		t.Errorf("%+v", noted.Job)
	}
	two := step(t, step(t, noted, Step{Act: Begin}), Step{Act: Note, Answer: []byte("two")})
	other := step(t, step(t, noted, Step{Act: Begin}), Step{Act: Note, Answer: []byte("2")})
	if fmt.Sprintf("%s %s", two.Job.Answers, other.Job.Answers) != "[one two] [one 2]" {
		t.Errorf("states share their answers: %s %s", two.Job.Answers, other.Job.Answers)
	}
	if done := step(t, two, Step{Act: Complete, Result: []byte("{}")}); done.Job != nil {
		t.Error("a finished job is remembered as work")
	}
}

func TestAJobThatIsNoJob(t *testing.T) {
	s, _ := Acquire(State{}, Claim{ID: "a", TTL: ttl}, start)
	for _, act := range []Act{Begin, Note} {
		if _, _, err := Apply(s, Step{Act: act, ID: "a"}, start); !errors.Is(err, ErrNoJob) {
			t.Errorf("act %d: %v", act, err)
		}
	}
}

// TestTheSameJobGoesOn: asked for again after its lease has expired, a job keeps the identity of its actions and what
// they came to; another job under the key begins anew.
func TestTheSameJobGoesOn(t *testing.T) {
	s := step(t, step(t, job(t), Step{Act: Begin}), Step{Act: Note, Answer: []byte("one")})
	late := start.Add(time.Hour)
	same, _ := Acquire(s, Claim{ID: "b", TTL: ttl, Job: &Job{Run: "r2", Spec: []byte(`{"actions":[1,2]}`), Agent: "x"}}, late)
	if same.Job.Run != "r1" || len(same.Job.Answers) != 1 {
		t.Errorf("%+v", same.Job)
	}
	for _, j := range []*Job{{Run: "r2", Spec: []byte(`{}`), Agent: "x"}, {Run: "r2", Spec: s.Job.Spec, Agent: "y"}} {
		other, _ := Acquire(s, Claim{ID: "b", TTL: ttl, Job: j}, late)
		if other.Job.Run != "r2" || len(other.Job.Answers) != 0 {
			t.Errorf("%+v", other.Job)
		}
	}
	plain, _ := Acquire(s, Claim{ID: "b", TTL: ttl}, late)
	if plain.Job != nil {
		t.Error("a lease has inherited a job")
	}
	canceled := step(t, s, Step{Act: Cancel})
	anew, _ := Acquire(canceled, Claim{ID: "b", TTL: ttl, Job: &Job{Run: "r2", Spec: s.Job.Spec, Agent: "x"}}, late)
	if anew.Job.Run != "r2" {
		t.Error("a cancelled job goes on")
	}
}

// TestAJobHoldsItsLease: every step of a job moves the deadline, and a restart goes on although it has passed.
func TestAJobHoldsItsLease(t *testing.T) {
	s := job(t)
	begun := step(t, s, Step{Act: Begin})
	if !begun.Deadline.Equal(start.Add(time.Second + ttl)) {
		t.Error(begun.Deadline)
	}
	resumed, changed, err := Apply(begun, Step{Act: Resume, ID: "a"}, start.Add(time.Hour))
	if err != nil || !changed || resumed.Version != begun.Version+1 || !resumed.Deadline.Equal(start.Add(time.Hour+ttl)) || !resumed.Job.Begun {
		t.Errorf("%v %v %+v", changed, err, resumed)
	}
}
