package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// LeaseBench is a store of locks and leases under test.
type LeaseBench struct {
	Store lease.Store
	// Advance moves the store's clock.
	Advance func(time.Duration)
	// Crash ends the process without a word and starts it again; Store is then the new one.
	Crash func(t *testing.T, b *LeaseBench)
}

// LeaseLaw runs every clause of lease.Store against fresh stores that open makes.
func LeaseLaw(t *testing.T, open func(t *testing.T) *LeaseBench) {
	clauses := map[string]func(*testing.T, *LeaseBench){
		"one of a thousand locks":                    oneLock,
		"a duplicate does not extend the window":     lockWindow,
		"locks, leases and tenants are apart":        apart,
		"one of many claims acquires":                oneAcquires,
		"a result is read back":                      results,
		"an end is never overwritten":                endsStand,
		"an expired key is acquired again":           expires,
		"a late end counts while nobody else has it": lateEnd,
		"versions grow with every heartbeat":         versions,
		"a finished key is forgotten in time":        forgotten,
		"a crash loses nothing":                      crashLosesNothing,
		"jobs are found again":                       jobsFound,
		"a store that is asked by nobody waits not":  canceledCaller,
	}
	for name, clause := range clauses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clause(t, open(t))
		})
	}
}

func named(key string) lease.Name { return lease.Name{Tenant: "default", Key: key} }

func lock(t *testing.T, b *LeaseBench, n lease.Name, ttl time.Duration, want bool) lease.Lock {
	t.Helper()
	l, won, err := b.Store.Lock(t.Context(), n, ttl)
	if err != nil || won != want {
		t.Fatalf("Lock(%v): %v, %v; want %v", n, won, err, want)
	}
	return l
}

func acquire(t *testing.T, b *LeaseBench, key, id string, want lease.Verdict) lease.View {
	t.Helper()
	v, verdict, err := b.Store.Acquire(t.Context(), named(key), lease.Claim{ID: id, TTL: time.Minute})
	if err != nil || verdict != want {
		t.Fatalf("Acquire(%s): %v, %v; want %v", key, verdict, err, want)
	}
	return v
}

func apply(t *testing.T, b *LeaseBench, key string, st lease.Step, want error) lease.View {
	t.Helper()
	v, err := b.Store.Apply(t.Context(), named(key), st)
	if !errors.Is(err, want) {
		t.Fatalf("Apply(%s, %+v): %v, want %v", key, st, err, want)
	}
	return v
}

func look(t *testing.T, b *LeaseBench, key string) lease.View {
	t.Helper()
	v, err := b.Store.Look(t.Context(), named(key))
	if err != nil {
		t.Fatalf("Look(%s): %v", key, err)
	}
	return v
}

// together runs f n times at once.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	ready := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-ready
			f(i)
		})
	}
	close(ready)
	all.Wait()
}

func oneLock(t *testing.T, b *LeaseBench) {
	for round := range 5 {
		n := named(fmt.Sprint("k", round))
		var mu sync.Mutex
		winners, firsts := 0, map[time.Time]int{}
		together(1000, func(int) {
			l, won, err := b.Store.Lock(context.Background(), n, time.Minute)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if won {
				winners++
			}
			firsts[l.First]++
		})
		if winners != 1 || len(firsts) != 1 {
			t.Fatalf("%d of 1000 have the lock, which was first seen at %v", winners, firsts)
		}
	}
}

func lockWindow(t *testing.T, b *LeaseBench) {
	l := lock(t, b, named("k"), time.Minute, true)
	b.Advance(59 * time.Second)
	if again := lock(t, b, named("k"), time.Hour, false); again != l || again.TTL() != time.Minute {
		t.Fatalf("%+v, first %+v", again, l)
	}
	b.Advance(time.Second)
	if again := lock(t, b, named("k"), time.Hour, true); !again.First.After(l.First) || again.TTL() != time.Hour {
		t.Fatalf("%+v, first %+v", again, l)
	}
}

func apart(t *testing.T, b *LeaseBench) {
	lock(t, b, named("k"), time.Minute, true)
	acquire(t, b, "k", "a", lease.Acquired)
	lock(t, b, lease.Name{Tenant: "other", Key: "k"}, time.Minute, true)
	lock(t, b, lease.Name{Tenant: "defaul", Key: "tk"}, time.Minute, true)
	if _, err := b.Store.Look(t.Context(), lease.Name{Tenant: "other", Key: "k"}); !errors.Is(err, lease.ErrAbsent) {
		t.Fatal(err)
	}
	lock(t, b, lease.Name{Tenant: "", Key: "k"}, time.Minute, true)
	lock(t, b, named("k"), time.Minute, false)
}

func oneAcquires(t *testing.T, b *LeaseBench) {
	var mu sync.Mutex
	verdicts := map[lease.Verdict]int{}
	together(300, func(i int) {
		_, verdict, err := b.Store.Acquire(context.Background(), named("k"), lease.Claim{ID: fmt.Sprint("l", i), TTL: time.Minute})
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		verdicts[verdict]++
	})
	if verdicts[lease.Acquired] != 1 || verdicts[lease.Held] != 299 {
		t.Fatal(verdicts)
	}
}

func results(t *testing.T, b *LeaseBench) {
	acquire(t, b, "k", "a", lease.Acquired)
	apply(t, b, "k", lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{"x":1}`), ResultHash: "h"}, nil)
	v := look(t, b, "k")
	if v.Status != lease.Completed || string(v.Result) != `{"x":1}` || v.ResultHash != "h" || v.Version != 1 || v.ID != "a" {
		t.Fatalf("%+v", v)
	}
	if v := acquire(t, b, "k", "b", lease.Ended); string(v.Result) != `{"x":1}` {
		t.Fatalf("%+v", v)
	}
}

func endsStand(t *testing.T, b *LeaseBench) {
	acquire(t, b, "done", "a", lease.Acquired)
	apply(t, b, "done", lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{}`)}, nil)
	apply(t, b, "done", lease.Step{Act: lease.Fail, ID: "a", ErrorCode: "late"}, lease.ErrCompleted)
	apply(t, b, "done", lease.Step{Act: lease.Extend, ID: "a"}, lease.ErrCompleted)
	apply(t, b, "done", lease.Step{Act: lease.Cancel, ID: "a"}, lease.ErrCompleted)
	if v := apply(t, b, "done", lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{"x":2}`)}, nil); v.Changed || string(v.Result) != "{}" {
		t.Fatalf("%+v", v)
	}
	acquire(t, b, "failed", "a", lease.Acquired)
	apply(t, b, "failed", lease.Step{Act: lease.Fail, ID: "a", ErrorCode: "why", ErrorHash: "h"}, nil)
	apply(t, b, "failed", lease.Step{Act: lease.Complete, ID: "a"}, lease.ErrFailed)
	if v := look(t, b, "failed"); v.Status != lease.Failed || v.ErrorCode != "why" || v.ErrorHash != "h" {
		t.Fatalf("%+v", v)
	}
	acquire(t, b, "failed", "b", lease.Ended)
}

func expires(t *testing.T, b *LeaseBench) {
	first := acquire(t, b, "k", "a", lease.Acquired)
	b.Advance(time.Minute)
	v := acquire(t, b, "k", "b", lease.Acquired)
	if v.Version != 2 || !v.Lost || !v.First.Equal(first.First) || first.Lost {
		t.Fatalf("%+v", v)
	}
	apply(t, b, "k", lease.Step{Act: lease.Complete, ID: "a"}, lease.ErrLost)
	apply(t, b, "k", lease.Step{Act: lease.Extend, ID: "a"}, lease.ErrLost)
	apply(t, b, "k", lease.Step{Act: lease.Cancel, ID: "b"}, nil)
	if v := acquire(t, b, "k", "c", lease.Acquired); v.Version != 3 || v.Lost {
		t.Fatalf("%+v", v)
	}
}

func lateEnd(t *testing.T, b *LeaseBench) {
	acquire(t, b, "k", "a", lease.Acquired)
	b.Advance(time.Hour)
	apply(t, b, "k", lease.Step{Act: lease.Extend, ID: "a"}, lease.ErrLost)
	if v := look(t, b, "k"); !v.Expired(v.Now) {
		t.Fatalf("a late heartbeat revived the lease: %+v", v)
	}
	apply(t, b, "k", lease.Step{Act: lease.Complete, ID: "a"}, nil)
	acquire(t, b, "k", "b", lease.Ended)
}

func versions(t *testing.T, b *LeaseBench) {
	acquire(t, b, "k", "a", lease.Acquired)
	var mu sync.Mutex
	seen := map[uint64]bool{1: true}
	together(50, func(int) {
		v, err := b.Store.Apply(context.Background(), named("k"), lease.Step{Act: lease.Extend, ID: "a"})
		mu.Lock()
		defer mu.Unlock()
		if err != nil || seen[v.Version] {
			t.Errorf("version %d again, or %v", v.Version, err)
		}
		seen[v.Version] = true
	})
	if v := look(t, b, "k"); v.Version != 51 {
		t.Fatalf("%+v", v)
	}
}

func forgotten(t *testing.T, b *LeaseBench) {
	acquire(t, b, "k", "a", lease.Acquired)
	apply(t, b, "k", lease.Step{Act: lease.Fail, ID: "a", ErrorCode: "e"}, nil)
	b.Advance(lease.Kept - time.Second)
	acquire(t, b, "k", "b", lease.Ended)
	b.Advance(time.Second)
	if _, err := b.Store.Look(t.Context(), named("k")); !errors.Is(err, lease.ErrAbsent) {
		t.Fatal(err)
	}
	apply(t, b, "k", lease.Step{Act: lease.Fail, ID: "a"}, lease.ErrAbsent)
	if v := acquire(t, b, "k", "b", lease.Acquired); v.Version != 1 || v.ErrorCode != "" {
		t.Fatalf("%+v", v)
	}
}

func crashLosesNothing(t *testing.T, b *LeaseBench) {
	l := lock(t, b, named("k"), time.Hour, true)
	acquire(t, b, "held", "a", lease.Acquired)
	apply(t, b, "held", lease.Step{Act: lease.Extend, ID: "a", TTL: time.Hour}, nil)
	for i := range 20 {
		key := fmt.Sprint("done", i)
		acquire(t, b, key, "a", lease.Acquired)
		apply(t, b, key, lease.Step{Act: lease.Complete, ID: "a", Result: fmt.Appendf(nil, `{"n":%d}`, i)}, nil)
	}
	acquire(t, b, "canceled", "a", lease.Acquired)
	apply(t, b, "canceled", lease.Step{Act: lease.Cancel, ID: "a"}, nil)
	b.Crash(t, b)
	if again := lock(t, b, named("k"), time.Hour, false); !again.First.Equal(l.First) || again.TTL() != time.Hour {
		t.Fatalf("%+v, first %+v", again, l)
	}
	if v := acquire(t, b, "held", "b", lease.Held); v.Version != 2 || v.TTL != time.Hour {
		t.Fatalf("%+v", v)
	}
	apply(t, b, "held", lease.Step{Act: lease.Complete, ID: "a"}, nil)
	for i := range 20 {
		if v := look(t, b, fmt.Sprint("done", i)); string(v.Result) != fmt.Sprintf(`{"n":%d}`, i) {
			t.Fatalf("%d: %+v", i, v)
		}
	}
	if v := acquire(t, b, "canceled", "b", lease.Acquired); v.Version != 2 {
		t.Fatalf("%+v", v)
	}
}

func jobsFound(t *testing.T, b *LeaseBench) {
	job := &lease.Job{Run: "r", Spec: []byte(`{"actions":[]}`), Agent: "ag", RunID: "run", Key: "api"}
	for _, key := range []string{"open", "done"} {
		if _, verdict, err := b.Store.Acquire(t.Context(), named(key), lease.Claim{ID: "a", TTL: time.Minute, Job: job}); err != nil || verdict != lease.Acquired {
			t.Fatal(verdict, err)
		}
	}
	acquire(t, b, "plain", "a", lease.Acquired)
	apply(t, b, "open", lease.Step{Act: lease.Begin, ID: "a"}, nil)
	apply(t, b, "open", lease.Step{Act: lease.Note, ID: "a", Answer: []byte("one")}, nil)
	apply(t, b, "open", lease.Step{Act: lease.Begin, ID: "a"}, nil)
	apply(t, b, "done", lease.Step{Act: lease.Complete, ID: "a"}, nil)
	b.Crash(t, b)
	jobs := b.Store.Jobs()
	if len(jobs) != 1 || jobs[0].Name != named("open") {
		t.Fatalf("%+v", jobs)
	}
	j := jobs[0].Job
	if j.Run != "r" || string(j.Spec) != `{"actions":[]}` || j.Agent != "ag" || j.RunID != "run" || j.Key != "api" || len(j.Answers) != 1 || !j.Begun || j.BegunAt.IsZero() {
		t.Fatalf("%+v", j)
	}
}

// canceledCaller: a caller that has gone gets an error or an answer, and a claim that it won stands all the same.
func canceledCaller(t *testing.T, b *LeaseBench) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, won, err := b.Store.Lock(ctx, named("k"), time.Minute)
	if err != nil {
		if !errors.Is(err, lease.ErrUnavailable) {
			t.Fatal(err)
		}
		return
	}
	lock(t, b, named("k"), time.Minute, !won)
}
