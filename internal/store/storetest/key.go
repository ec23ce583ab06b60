package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

func firstWins(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	if r.Fence == 0 || r.Generation != r.Fence || r.Attempt != 1 || r.Taken || r.Key != c.Keys[0].Key {
		t.Fatalf("%+v", r)
	}
	d := wants(t, b, NewClaim("x"), dedup.InFlight)
	if d.Fence != r.Fence || d.Key != c.Keys[0].Key || d.Outcome != dedup.Running || d.At.IsZero() {
		t.Fatalf("%+v", d)
	}
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	d = wants(t, b, NewClaim("x"), dedup.Replay)
	sameAnswer(t, d.Answer, e.Answer)
	if d.Outcome != dedup.Done || d.Fence != r.Fence || d.At.Before(r.Now) {
		t.Fatalf("%+v", d)
	}
	if want := requestOf(c); d.RequestID != want {
		t.Fatalf("the first request was %q, not %q", want, d.RequestID)
	}
	used(t, b, 1, 100)
}

func oneWins(t *testing.T, b *Bench) {
	const callers = 64
	status := make([]dedup.Begun, callers)
	claims := make([]*dedup.Claim, callers)
	var wg sync.WaitGroup
	for i := range callers {
		claims[i] = NewClaim("x")
		wg.Go(func() {
			var err error
			if status[i], err = b.Store.Begin(context.Background(), claims[i]); err != nil {
				t.Error(err)
				status[i].Status = dedup.InFlight // it has not won: the zero value says that it has
			}
		})
	}
	wg.Wait()
	won := -1
	for i, s := range status {
		if s.Status == dedup.Mine && won >= 0 {
			t.Fatal("two won")
		}
		if s.Status == dedup.Mine {
			won = i
		}
	}
	if won < 0 {
		t.Fatal("none won")
	}
	used(t, b, 1, 100)
	finish(t, b, Ending(claims[won], status[won], dedup.Done))
	used(t, b, 1, 100)
}

func allKeys(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Keys = append(c.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	r := wants(t, b, c, dedup.Mine)
	for _, k := range c.Keys {
		d := NewClaim("x")
		d.Keys = []dedup.Identity{k}
		if got := wants(t, b, d, dedup.InFlight); got.Key != k.Key || got.Fence != r.Fence {
			t.Fatalf("%+v", got)
		}
	}
	finish(t, b, Ending(c, r, dedup.Done))
	for _, k := range c.Keys {
		d := NewClaim("x")
		d.Keys = []dedup.Identity{k}
		wants(t, b, d, dedup.Replay)
	}
	// A call that knows one key more is the same call, and does not bind it.
	d := NewClaim("x")
	d.Keys = append(d.Keys, dedup.Identity{Key: K("other client"), Print: K("x")})
	wants(t, b, d, dedup.Replay)
	y := NewClaim("y")
	y.Keys = append(y.Keys, dedup.Identity{Key: K("other client"), Print: K("y")})
	wants(t, b, y, dedup.Mine)
}

func reusedKey(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Keys = append(c.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	r := wants(t, b, c, dedup.Mine)
	y := NewClaim("y")
	y.Keys = append(y.Keys, dedup.Identity{Key: K("client"), Print: K("y")})
	wants(t, b, y, dedup.Reused)
	finish(t, b, Ending(c, r, dedup.Done))
	wants(t, b, y, dedup.Reused)
	used(t, b, 1, 100)
	b.Advance(25 * time.Hour)
	wants(t, b, y, dedup.Mine)
}

func guarded(t *testing.T, b *Bench) {
	plain := NewClaim("x")
	r := wants(t, b, plain, dedup.Mine)
	forced := NewClaim("x forced")
	forced.Forced, forced.Guards = true, []dedup.Key{plain.Keys[0].Key}
	if g := wants(t, b, forced, dedup.InFlight); !g.Guard || g.Key != plain.Keys[0].Key {
		t.Fatalf("%+v", g)
	}
	finish(t, b, Ending(plain, r, dedup.Unknown))
	if g := wants(t, b, forced, dedup.Blocked); !g.Guard {
		t.Fatalf("%+v", g)
	}
	finish(t, b, Ending(plain, r, dedup.Done))
	f := run(t, b, forced, dedup.Done)
	if f.Generation == r.Generation {
		t.Fatal("a forced call is another run")
	}
	again := NewClaim("x forced")
	again.Guards = forced.Guards
	wants(t, b, again, dedup.Replay)
}

func keyless(t *testing.T, b *Bench) {
	for range 2 {
		c := NewClaim("")
		c.Keys = nil
		r := wants(t, b, c, dedup.Mine)
		finish(t, b, Ending(c, r, dedup.Done))
	}
	c := NewClaim("")
	c.Keys = nil
	wants(t, b, c, dedup.Mine)
	b.Crash(t, b)
	used(t, b, 3, 300)
}
