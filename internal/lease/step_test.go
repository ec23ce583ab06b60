package lease

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

const ttl = time.Minute

// states are one of each kind, as they stand at start+30s. The holder is "b"; "a" held the key before.
func states(t *testing.T) (map[string]State, time.Time) {
	t.Helper()
	now := start.Add(30 * time.Second)
	first, verdict := Acquire(State{}, Claim{ID: "a", TTL: 10 * time.Second}, start.Add(-time.Minute))
	if verdict != Acquired {
		t.Fatal(verdict)
	}
	held, verdict := Acquire(first, Claim{ID: "b", TTL: ttl}, start)
	if verdict != Acquired || held.Version != 2 || held.Former != "a" || !held.First.Equal(start.Add(-time.Minute)) {
		t.Fatalf("%v %+v", verdict, held)
	}
	expired, _ := Acquire(first, Claim{ID: "b", TTL: 10 * time.Second}, start)
	after := func(a Act) State {
		s, changed, err := Apply(held, Step{Act: a, ID: "b", Result: []byte("{}"), ErrorCode: "why"}, start.Add(time.Second))
		if err != nil || !changed {
			t.Fatal(a, changed, err)
		}
		return s
	}
	return map[string]State{
		"absent": {}, "held": held, "expired": expired, "completed": after(Complete), "failed": after(Fail), "canceled": after(Cancel),
		"forgotten": {Status: Completed, ID: "b", Former: "a", Until: start},
	}, now
}

// TestEveryStepInEveryState is §2.2 of the API's page, cell by cell, for the holder.
func TestEveryStepInEveryState(t *testing.T) {
	all, now := states(t)
	ok, same := "ok", "unchanged"
	for name, want := range map[string]map[Act]string{
		"absent":    {Extend: ErrAbsent.Error(), Complete: ErrAbsent.Error(), Fail: ErrAbsent.Error(), Cancel: ErrAbsent.Error(), Resume: ErrAbsent.Error()},
		"forgotten": {Extend: ErrAbsent.Error(), Complete: ErrAbsent.Error(), Fail: ErrAbsent.Error(), Cancel: ErrAbsent.Error(), Resume: ErrAbsent.Error()},
		"held":      {Extend: ok, Complete: ok, Fail: ok, Cancel: ok, Resume: ok},
		"expired":   {Extend: ErrLost.Error(), Complete: ok, Fail: ok, Cancel: ErrLost.Error(), Resume: ok},
		"completed": {Extend: ErrCompleted.Error(), Complete: same, Fail: ErrCompleted.Error(), Cancel: ErrCompleted.Error(), Resume: ErrCompleted.Error()},
		"failed":    {Extend: ErrFailed.Error(), Complete: ErrFailed.Error(), Fail: same, Cancel: ErrFailed.Error(), Resume: ErrFailed.Error()},
		"canceled":  {Extend: ErrCanceled.Error(), Complete: ErrCanceled.Error(), Fail: ErrCanceled.Error(), Cancel: same, Resume: ErrCanceled.Error()},
	} {
		for act, want := range want {
			before := all[name]
			next, changed, err := Apply(before, Step{Act: act, ID: "b"}, now)
			got := ok
			if err != nil {
				got = err.Error()
			} else if !changed {
				got = same
			}
			if got != want {
				t.Errorf("act %d on %s: %s, want %s", act, name, got, want)
			}
			if !changed && fmt.Sprint(next) != fmt.Sprint(before) {
				t.Errorf("act %d on %s changed it and says that it did not", act, name)
			}
		}
	}
}

// TestOnlyTheHolderTakesSteps: the lease before is told that it is lost, anybody else nothing.
func TestOnlyTheHolderTakesSteps(t *testing.T) {
	all, now := states(t)
	for name, s := range all {
		for id, want := range map[string]error{"a": ErrLost, "c": ErrMismatch, "": ErrMismatch} {
			if !s.Live(now) {
				want = ErrAbsent
			}
			for act := Extend; act <= Note; act++ {
				if next, changed, err := Apply(s, Step{Act: act, ID: id}, now); !errors.Is(err, want) || changed || fmt.Sprint(next) != fmt.Sprint(s) {
					t.Errorf("act %d by %q on %s: %v %v, want %v", act, id, name, changed, err, want)
				}
			}
		}
	}
}

func TestWhoAcquires(t *testing.T) {
	all, now := states(t)
	for name, want := range map[string]struct {
		verdict Verdict
		version uint64
	}{
		"absent": {Acquired, 1}, "forgotten": {Acquired, 1}, "expired": {Acquired, 3}, "canceled": {Acquired, 3},
		"held": {Held, 2}, "completed": {Ended, 2}, "failed": {Ended, 2},
	} {
		s := all[name]
		next, verdict := Acquire(s, Claim{ID: "c", TTL: ttl}, now)
		if verdict != want.verdict || next.Version != want.version {
			t.Errorf("%s: %v, version %d, want %+v", name, verdict, next.Version, want)
		}
		if verdict != Acquired {
			if fmt.Sprint(next) != fmt.Sprint(s) {
				t.Errorf("%s: a claim that lost changed the state", name)
			}
			continue
		}
		if next.ID != "c" || !next.Deadline.Equal(now.Add(ttl)) || next.Status != InProgress || next.Result != nil || next.ErrorCode != "" {
			t.Errorf("%s: %+v", name, next)
		}
		if s.Live(now) && (next.Former != "b" || !next.First.Equal(s.First)) {
			t.Errorf("%s: the key's history is gone: %+v", name, next)
		}
	}
}

func TestWhatPollersAreShown(t *testing.T) {
	all, now := states(t)
	for name, want := range map[string]string{
		"held": "in_progress ", "expired": "failed lease_expired", "completed": "completed ", "failed": "failed why", "canceled": "failed canceled",
	} {
		s := all[name]
		status, code := s.Shown(now)
		if got := status + " " + code; got != want {
			t.Errorf("%s is shown as %q, want %q", name, got, want)
		}
	}
	if s := all["held"]; s.Left(now) != 30*time.Second {
		t.Error(s.Left(now))
	}
}

func TestExtending(t *testing.T) {
	all, now := states(t)
	s, _, err := Apply(all["held"], Step{Act: Extend, ID: "b"}, now)
	if err != nil || s.Version != 3 || !s.Deadline.Equal(now.Add(ttl)) || s.TTL != ttl {
		t.Errorf("%v %+v", err, s)
	}
	s, _, _ = Apply(s, Step{Act: Extend, ID: "b", TTL: time.Hour}, now)
	if s.Version != 4 || !s.Deadline.Equal(now.Add(time.Hour)) || s.TTL != time.Hour || !s.Until.Equal(now.Add(time.Hour+Kept)) {
		t.Errorf("%+v", s)
	}
}

// model walks every sequence of steps up to a depth and holds what must hold between any two states.
type model struct {
	t     *testing.T
	seen  map[string]bool
	steps int
}

// TestEverySequence is exhaustive: three callers, all acts with all their ids, and time that passes a deadline or the
// memory of the key.
func TestEverySequence(t *testing.T) {
	m := &model{t: t, seen: map[string]bool{}}
	m.walk(State{}, start, 0, nil)
	if m.steps < 10_000 {
		t.Fatalf("only %d steps were taken", m.steps)
	}
	t.Logf("%d steps, %d states", m.steps, len(m.seen))
}

func (m *model) walk(s State, now time.Time, depth int, path []string) {
	at := fmt.Sprint(depth, now.Unix(), s.Status, s.ID, s.Former, s.Version, s.Deadline.Unix(), s.Until.Unix(), s.Job != nil)
	if depth == 6 || m.seen[at] {
		return
	}
	m.seen[at] = true
	go1 := func(next State, now time.Time, step string) {
		m.walk(next, now, depth+1, append(path[:len(path):len(path)], step))
	}
	for _, id := range []string{"a", "b", "c"} {
		next, verdict := Acquire(s, Claim{ID: fmt.Sprint(id, depth), TTL: ttl}, now)
		m.steps++
		m.claimed(s, next, verdict, now, path)
		go1(next, now, "acquire")
	}
	for act := Extend; act <= Note; act++ {
		for _, id := range []string{s.ID, s.Former, "x"} {
			next, changed, err := Apply(s, Step{Act: act, ID: id, ErrorCode: "why"}, now)
			m.steps++
			m.stepped(s, next, act, id, changed, err, now, path)
			go1(next, now, fmt.Sprint(act, id))
		}
	}
	for _, d := range []time.Duration{ttl / 2, 2 * ttl, 2 * Kept} {
		go1(s, now.Add(d), d.String())
	}
}

func (m *model) claimed(s, next State, verdict Verdict, now time.Time, path []string) {
	switch {
	case verdict == Acquired && s.Live(now) && (s.Status == Completed || s.Status == Failed):
		m.t.Fatalf("%v: finished work was acquired again", path)
	case verdict == Acquired && s.Live(now) && s.Status == InProgress && now.Before(s.Deadline):
		m.t.Fatalf("%v: two hold the key", path)
	case verdict == Acquired && s.Live(now) && next.Version <= s.Version:
		m.t.Fatalf("%v: the fencing token did not grow", path)
	case verdict != Acquired && fmt.Sprint(next) != fmt.Sprint(s):
		m.t.Fatalf("%v: a lost claim changed the state", path)
	case verdict == Ended && s.Status != Completed && s.Status != Failed:
		m.t.Fatalf("%v: %v is no end", path, s.Status)
	}
}

func (m *model) stepped(s, next State, act Act, id string, changed bool, err error, now time.Time, path []string) {
	switch {
	case (err != nil || !changed) && fmt.Sprint(next) != fmt.Sprint(s):
		m.t.Fatalf("%v: act %d changed the state and says that it did not", path, act)
	case changed && (id != s.ID || id == ""):
		m.t.Fatalf("%v: act %d by a stranger", path, act)
	case changed && s.Status != InProgress:
		m.t.Fatalf("%v: act %d changed an end", path, act)
	case next.Version < s.Version:
		m.t.Fatalf("%v: the fencing token shrank", path)
	case changed && act == Extend && next.Version == s.Version:
		m.t.Fatalf("%v: an extension is told by its version", path)
	case changed && act == Extend && s.Expired(now):
		m.t.Fatalf("%v: a late heartbeat revived a lease", path)
	}
}

func TestLock(t *testing.T) {
	var l Lock
	l, won := l.Take(ttl, start)
	if !won || l.TTL() != ttl || !l.First.Equal(start) {
		t.Fatalf("%v %+v", won, l)
	}
	for _, d := range []time.Duration{0, time.Second, ttl - 1} {
		if again, won := l.Take(time.Hour, start.Add(d)); won || again != l {
			t.Errorf("after %v: %v %+v", d, won, again)
		}
	}
	if again, won := l.Take(time.Hour, start.Add(ttl)); !won || !again.First.Equal(start.Add(ttl)) || again.TTL() != time.Hour {
		t.Errorf("after the window: %v %+v", won, again)
	}
}
