package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

func takenOver(t *testing.T, b *Bench) {
	first := idempotent("x")
	r := run(t, b, first, dedup.Unknown)
	second := idempotent("x")
	second.Keys = append(second.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	d := wants(t, b, second, dedup.Mine)
	if !d.Taken || d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 2 || d.Key != first.Keys[0].Key {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
	if err := b.Store.Finish(t.Context(), Ending(first, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("the first holder's late answer: %v", err)
	}
	wants(t, b, idempotent("x"), dedup.InFlight)
	finish(t, b, Ending(second, d, dedup.Done))
	used(t, b, 1, 100)
	for _, k := range second.Keys {
		c := idempotent("x")
		c.Keys = []dedup.Identity{k}
		if got := wants(t, b, c, dedup.Replay); got.RequestID != requestOf(first) {
			t.Fatalf("%+v", got)
		}
	}
}

// renewed is a holder that tries an idempotent tool again under its own claim: whoever waited for it goes on waiting.
func renewed(t *testing.T, b *Bench) {
	first := idempotent("x")
	r := wants(t, b, first, dedup.Mine)
	ended := make(chan dedup.Ending, 1)
	go func() {
		e, err := b.Store.Wait(context.Background(), first.Agent, first.Keys[0].Key, r.Fence)
		if err != nil {
			t.Error(err)
		}
		ended <- e
	}()
	again := idempotent("x")
	again.Renews = r.Fence
	d := wants(t, b, again, dedup.Mine)
	if !d.Taken || d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 2 {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
	wants(t, b, idempotent("x"), dedup.InFlight)
	if err := b.Store.Finish(t.Context(), Ending(first, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("an end under the former fence: %v", err)
	}
	finish(t, b, Ending(again, d, dedup.Done))
	if e := <-ended; e.Outcome != dedup.Done {
		t.Fatalf("the waiter learned %+v", e)
	}
	used(t, b, 1, 100)
	stale := idempotent("x")
	stale.Renews = d.Fence
	wants(t, b, stale, dedup.Replay)
	mutating := NewClaim("y")
	m := wants(t, b, mutating, dedup.Mine)
	other := NewClaim("y")
	other.Renews = m.Fence
	wants(t, b, other, dedup.InFlight)
}

func takeOverFails(t *testing.T, b *Bench) {
	r := run(t, b, idempotent("x"), dedup.Unknown)
	for i, o := range []dedup.Outcome{dedup.NotSent, dedup.Failed, dedup.Unknown} {
		d := run(t, b, idempotent("x"), o)
		if !d.Taken || d.Attempt != i+2 || d.Generation != r.Generation {
			t.Fatalf("%+v", d)
		}
		used(t, b, 1, 100)
	}
	wants(t, b, NewClaim("x"), dedup.Blocked)
	b.Crash(t, b)
	wants(t, b, NewClaim("x"), dedup.Blocked)
	if d := run(t, b, idempotent("x"), dedup.Done); d.Attempt != 5 || d.Generation != r.Generation {
		t.Fatalf("%+v", d)
	}
	wants(t, b, NewClaim("x"), dedup.Replay)
	used(t, b, 1, 100)
}

func takeOverWindow(t *testing.T, b *Bench) {
	run(t, b, idempotent("x"), dedup.Unknown)
	b.Advance(40 * time.Minute)
	run(t, b, idempotent("x"), dedup.Unknown)
	b.Advance(20 * time.Minute)
	wants(t, b, idempotent("x"), dedup.Blocked)
}

func overtaken(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	for _, e := range []dedup.End{{Fence: r.Fence + 1, Nonce: c.Nonce}, {Fence: r.Fence, Nonce: c.Nonce + 1000}} {
		e.Keys, e.Agent, e.Outcome, e.Keep = c.Keys, c.Agent, dedup.Done, time.Hour
		if err := b.Store.Finish(t.Context(), &e); !errors.Is(err, dedup.ErrOvertaken) {
			t.Fatalf("Finish: %v", err)
		}
	}
	wants(t, b, NewClaim("x"), dedup.InFlight)
	finish(t, b, Ending(c, r, dedup.Done))
}
