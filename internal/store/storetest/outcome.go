package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func failedKept(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Failed)
	e.Keep = 10 * time.Second
	finish(t, b, e)
	if d := wants(t, b, NewClaim("x"), dedup.Replay); d.Outcome != dedup.Failed {
		t.Fatalf("%+v", d)
	}
	used(t, b, 1, 0)
	b.Advance(10 * time.Second)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation == r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func released(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Failed)
	e.Keep = 0
	finish(t, b, e)
	used(t, b, 1, 0)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation == r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func notSent(t *testing.T, b *Bench) {
	r := run(t, b, NewClaim("x"), dedup.NotSent)
	used(t, b, 0, 0)
	c := NewClaim("x")
	d := run(t, b, c, dedup.NotSent)
	if d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 1 {
		t.Fatalf("%+v after %+v", d, r)
	}
	b.Crash(t, b)
	if d = run(t, b, NewClaim("x"), dedup.Done); d.Generation != r.Generation {
		t.Fatalf("the generation is forgotten: %+v after %+v", d, r)
	}
	b.Advance(25 * time.Hour)
	if d = wants(t, b, NewClaim("x"), dedup.Mine); d.Generation != d.Fence {
		t.Fatalf("%+v", d)
	}
}

func unknownStands(t *testing.T, b *Bench) {
	r := run(t, b, NewClaim("x"), dedup.Unknown)
	b.Advance(400 * 24 * time.Hour)
	if d := wants(t, b, NewClaim("x"), dedup.Blocked); d.Fence != r.Fence || d.Outcome != dedup.Unknown || d.RequestID == "" {
		t.Fatalf("%+v", d)
	}
	late := idempotent("x") // the tool is now said to be idempotent: this call was not
	wants(t, b, late, dedup.Blocked)
}

func notExecuted(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	word := &dedup.Resolution{Key: c.Keys[0].Key, Agent: c.Agent, Fence: r.Fence, Outcome: dedup.NotSent, Why: "the dashboard shows nothing", Who: "ops"}
	rejected(t, b, word, dedup.ErrStillRunning)
	finish(t, b, Ending(c, r, dedup.Unknown))
	rejected(t, b, word, dedup.ErrTooYoung)
	b.Advance(2 * time.Minute)
	moved := *word
	moved.Fence++
	rejected(t, b, &moved, dedup.ErrMoved)
	used(t, b, 1, 100)
	if err := b.Resolve(word); err != nil {
		t.Fatal(err)
	}
	used(t, b, 0, 0)
	rejected(t, b, word, dedup.ErrNotUnknown)
	if err := b.Store.Finish(t.Context(), Ending(c, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("a late answer after not executed: %v", err)
	}
	b.Crash(t, b)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation != r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
}

func rejected(t *testing.T, b *Bench, r *dedup.Resolution, want error) {
	t.Helper()
	if err := b.Resolve(r); !errors.Is(err, want) {
		t.Fatalf("Resolve: %v, want %v", err, want)
	}
}

func resolvedDone(t *testing.T, b *Bench) {
	for _, kept := range []bool{true, false} {
		name := fmt.Sprint("x", kept)
		c := NewClaim(name)
		r := run(t, b, c, dedup.Unknown)
		word := &dedup.Resolution{Key: c.Keys[0].Key, Agent: c.Agent, Fence: r.Fence, Outcome: dedup.Done, Why: "seen in the ledger", Who: "ops"}
		given := Ending(c, r, dedup.Done).Answer
		if kept {
			word.Answer = given
		}
		if err := b.Resolve(word); err != nil {
			t.Fatal(err)
		}
		d := wants(t, b, NewClaim(name), dedup.Replay)
		if !kept && d.Answer.Kept {
			t.Fatalf("%+v", d.Answer)
		}
		if kept {
			sameAnswer(t, d.Answer, given)
		}
		finish(t, b, Ending(c, r, dedup.Done)) // a late answer of the holder itself is no double execution
	}
	used(t, b, 2, 200)
}

func unknownFor(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.UnknownFor = time.Minute
	r := run(t, b, c, dedup.Unknown)
	d := NewClaim("x")
	d.UnknownFor = time.Minute
	wants(t, b, d, dedup.Blocked)
	b.Advance(time.Minute)
	d = NewClaim("x") // of the former nothing is won any more
	d.UnknownFor = time.Minute
	got := run(t, b, d, dedup.Done)
	if got.Generation == r.Generation {
		t.Fatalf("%+v", got)
	}
	used(t, b, 2, 200)
	b.Advance(time.Hour)
	if err := b.Resolve(&dedup.Resolution{Key: c.Keys[0].Key, Agent: c.Agent, Fence: r.Fence, Outcome: dedup.NotSent, Who: "ops"}); err != nil {
		t.Fatalf("it stays listed: %v", err)
	}
	wants(t, b, NewClaim("x"), dedup.Replay) // of the second run
}

func unknownRead(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Effect, c.Light = tool.Read, true
	run(t, b, c, dedup.Unknown)
	used(t, b, 1, 100)
	wants(t, b, NewClaim("x"), dedup.Mine)
}

func window(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	b.Advance(30 * time.Hour)
	wants(t, b, NewClaim("x"), dedup.InFlight)
	finish(t, b, Ending(c, r, dedup.Done))
	b.Advance(24*time.Hour - time.Second)
	wants(t, b, NewClaim("x"), dedup.Replay)
	b.Advance(time.Second)
	d := wants(t, b, NewClaim("x"), dedup.Mine)
	if d.Fence <= r.Fence || d.Generation == r.Generation {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func lateAnswer(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := run(t, b, c, dedup.Unknown)
	wants(t, b, NewClaim("x"), dedup.Blocked)
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	finish(t, b, e) // once more: the reply was lost
	sameAnswer(t, wants(t, b, NewClaim("x"), dedup.Replay).Answer, e.Answer)
	used(t, b, 1, 100)
}

func notKept(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Done)
	e.Answer.Kept, e.Answer.Body = false, nil
	finish(t, b, e)
	d := wants(t, b, NewClaim("x"), dedup.Replay)
	if a := d.Answer; a.Kept || a.Status != 200 || a.Size != e.Answer.Size || a.SHA256 != e.Answer.SHA256 {
		t.Fatalf("%+v", a)
	}
	none := NewClaim("y")
	r = wants(t, b, none, dedup.Mine)
	e = Ending(none, r, dedup.Done)
	e.Answer = nil
	finish(t, b, e)
	if d := wants(t, b, NewClaim("y"), dedup.Replay); d.Answer == nil || d.Answer.Kept {
		t.Fatalf("%+v", d.Answer)
	}
}
