package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

func waiters(t *testing.T, b *Bench) {
	for i, end := range []dedup.End{
		{Outcome: dedup.Done, Keep: time.Hour}, {Outcome: dedup.Done}, {Outcome: dedup.Failed, Keep: time.Minute}, {Outcome: dedup.Failed},
		{Outcome: dedup.NotSent, Refusal: "upstream_unreachable"}, {Outcome: dedup.Unknown},
	} {
		c := NewClaim(fmt.Sprint("x", i))
		r := wants(t, b, c, dedup.Mine)
		endings := make(chan dedup.Ending, b.Waiters)
		for range b.Waiters {
			go func() {
				e, err := b.Store.Wait(context.Background(), c.Agent, c.Keys[0].Key, r.Fence)
				for errors.Is(err, dedup.ErrTooManyWaiters) { // full was looking from the last place
					e, err = b.Store.Wait(context.Background(), c.Agent, c.Keys[0].Key, r.Fence)
				}
				if err != nil {
					t.Error(err)
				}
				endings <- e
			}()
		}
		full(t, b, c.Keys[0].Key, r.Fence)
		e := Ending(c, r, end.Outcome)
		e.Keep, e.Refusal = end.Keep, end.Refusal
		finish(t, b, e)
		for range b.Waiters {
			got := <-endings
			if got.Outcome != end.Outcome || got.Refusal != end.Refusal || got.At.IsZero() || (got.Answer == nil) != (e.Answer == nil) {
				t.Fatalf("%+v, want %+v", got, end)
			}
			if e.Answer != nil {
				sameAnswer(t, got.Answer, e.Answer)
			}
		}
		// Whoever comes too late for what was released learns that it has ended, and no answer.
		late, err := b.Store.Wait(t.Context(), c.Agent, c.Keys[0].Key, r.Fence)
		if err != nil || (late.Answer != nil) != (end.Keep > 0) {
			t.Fatalf("too late: %+v, %v", late, err)
		}
	}
}

// full returns once all places for waiters of the key are taken.
func full(t *testing.T, b *Bench, k dedup.Key, fence uint64) {
	t.Helper()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		_, err := b.Store.Wait(gone, "a", k, fence)
		if errors.Is(err, dedup.ErrTooManyWaiters) {
			return
		}
		if t.Context().Err() != nil || !errors.Is(err, context.Canceled) {
			t.Fatalf("waiting for waiters: %v", err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func tooManyWaiters(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, b.Waiters+1)
	for range b.Waiters + 1 {
		go func() {
			_, err := b.Store.Wait(ctx, c.Agent, c.Keys[0].Key, r.Fence)
			results <- err
		}()
	}
	if err := <-results; !errors.Is(err, dedup.ErrTooManyWaiters) {
		t.Fatalf("%v", err)
	}
	cancel()
	for range b.Waiters {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
	}
	// The places are free again.
	done := make(chan error, 1)
	go func() {
		_, err := b.Store.Wait(context.Background(), c.Agent, c.Keys[0].Key, r.Fence)
		done <- err
	}()
	finish(t, b, Ending(c, r, dedup.Done))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func waiterLeaves(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Store.Wait(ctx, c.Agent, c.Keys[0].Key, r.Fence); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
