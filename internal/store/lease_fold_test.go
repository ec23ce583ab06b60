package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// leaseRig drives a store and, beside it, the pure transitions on a map: the two must always agree.
type leaseRig struct {
	*rig
	n      int
	leases map[string]lease.State
	locks  map[string]lease.Lock
}

func newLeaseRig(t *testing.T, seed uint64, opt Options) *leaseRig {
	return &leaseRig{rig: newRig(t, seed, opt), leases: map[string]lease.State{}, locks: map[string]lease.Lock{}}
}

func (r *leaseRig) name() lease.Name {
	return lease.Name{Tenant: fmt.Sprint("t", r.r.IntN(2)), Key: fmt.Sprint("k", r.r.IntN(60))}
}

func (r *leaseRig) step() {
	r.n++
	n := r.name()
	model := n.Tenant + n.Key
	now := r.e.now()
	switch r.r.IntN(8) {
	case 0, 1:
		ttl := time.Duration(1+r.r.IntN(3000)) * time.Minute
		want, won := r.locks[model].Take(ttl, now)
		got, has, err := r.e.Lock(r.t.Context(), n, ttl)
		if err != nil || has != won || !got.First.Equal(want.First) || !got.Expires.Equal(want.Expires) {
			r.t.Fatalf("Lock(%v): %+v %v %v, want %+v %v", n, got, has, err, want, won)
		}
		r.locks[model] = want
	case 2, 3:
		c := lease.Claim{ID: fmt.Sprint("l", r.n), TTL: time.Duration(1+r.r.IntN(3000)) * time.Minute}
		if r.r.IntN(4) == 0 {
			c.Job = &lease.Job{Run: c.ID, Spec: []byte(strings.Repeat("s", r.r.IntN(500))), Agent: "a"}
		}
		want, verdict := lease.Acquire(r.leases[model], c, now)
		got, v, err := r.e.Acquire(r.t.Context(), n, c)
		if err != nil || v != verdict || fmt.Sprint(got.State) != fmt.Sprint(want) && v == lease.Acquired {
			r.t.Fatalf("Acquire(%v): %+v %v %v, want %+v %v", n, got, v, err, want, verdict)
		}
		if v == lease.Acquired {
			r.leases[model] = want
		}
	default:
		s := r.leases[model]
		st := lease.Step{Act: lease.Act(r.r.IntN(7)), ID: []string{s.ID, s.ID, s.ID, s.Former, "x"}[r.r.IntN(5)], ErrorCode: "e"}
		if r.r.IntN(2) == 0 {
			st.Result = []byte(`{"r":"` + strings.Repeat("x", r.r.IntN(2000)) + `"}`)
		}
		want, changed, werr := lease.Apply(s, st, now)
		got, err := r.e.Apply(r.t.Context(), n, st)
		if !errors.Is(err, werr) || got.Changed != changed || err == nil && view(got.State) != view(want) {
			r.t.Fatalf("Apply(%v, %+v): %v %v %v\nwant %v %v %v", n, st, view(got.State), got.Changed, err, view(want), changed, werr)
		}
		r.leases[model] = want
	}
}

// view is a state as text: pointers and absent slices aside.
func view(s lease.State) string {
	job := "none"
	if s.Job != nil {
		j := *s.Job
		job = fmt.Sprintf("%s %s %s %v %v", j.Run, j.Spec, j.Answers, j.Begun, j.BegunAt.UTC())
	}
	result := string(s.Result)
	s.Job, s.Result = nil, nil
	return fmt.Sprintf("%+v %q %s", s, result, job)
}

// compare asks the store for everything that the model knows.
func (r *leaseRig) compare() {
	r.t.Helper()
	now, live := r.e.now(), 0
	for model, want := range r.leases {
		n := lease.Name{Tenant: model[:2], Key: model[2:]}
		got, err := r.e.Look(r.t.Context(), n)
		switch {
		case !want.Live(now) && errors.Is(err, lease.ErrAbsent):
		case err != nil || view(got.State) != view(want):
			r.t.Fatalf("%v is %v %v\nwant %v", n, view(got.State), err, view(want))
		default:
			live++
		}
	}
	if live < 10 {
		r.t.Fatalf("only %d leases are alive: there is little to compare", live)
	}
	for model, want := range r.locks {
		if !want.Held(now) {
			continue
		}
		got, won, err := r.e.Lock(r.t.Context(), lease.Name{Tenant: model[:2], Key: model[2:]}, time.Hour)
		if won || err != nil || !got.First.Equal(want.First) || !got.Expires.Equal(want.Expires) {
			r.t.Fatalf("lock %s is %+v %v %v, want %+v", model, got, won, err, want)
		}
	}
}

func TestLeasesFoldToTheSame(t *testing.T) {
	r := newLeaseRig(t, 11, Options{Config: EmbeddedConfig{Durability: "process"}})
	for range 6 {
		for range 400 {
			r.step()
			if r.r.IntN(20) == 0 {
				r.clock.add(time.Duration(r.r.IntN(3600*6)) * time.Second)
			}
		}
		r.compare()
		r.restart()
		r.compare()
	}
}

// TestLeasesAreCarried: segments that are dropped take no lock, no lease and no result with them that still counts.
func TestLeasesAreCarried(t *testing.T) {
	for seed := range uint64(2) {
		r := newLeaseRig(t, seed, Options{Config: EmbeddedConfig{Durability: "process", Retention: time.Hour}, Segment: 32 << 10})
		for range 10 {
			for range 300 {
				r.step()
			}
			r.clock.add(20 * time.Hour)
			if err := r.e.j.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.compare()
			r.restart()
			r.compare()
		}
		if oldest := r.e.j.Status().Oldest; oldest < 500 {
			t.Fatalf("nothing was dropped: the oldest entry is %d", oldest)
		}
	}
}

// TestAResultThatHadToGo: short of space a result may go before its time; that the work is done is never forgotten.
func TestAResultThatHadToGo(t *testing.T) {
	r := newLeaseRig(t, 4, Options{Config: EmbeddedConfig{Durability: "process", Retention: 26 * time.Hour, MaxBytes: 8 << 20}, Segment: 1 << 20})
	big := []byte(`{"x":"` + strings.Repeat("x", 100<<10) + `"}`)
	name := func(i int) lease.Name { return lease.Name{Tenant: "t", Key: fmt.Sprint(i)} }
	for i := range 90 {
		if _, v, err := r.e.Acquire(t.Context(), name(i), lease.Claim{ID: "a", TTL: time.Minute}); err != nil || v != lease.Acquired {
			t.Fatal(i, v, err)
		}
		if _, err := r.e.Apply(t.Context(), name(i), lease.Step{Act: lease.Complete, ID: "a", Result: big}); err != nil {
			t.Fatal(i, err)
		}
		if i%10 == 9 {
			if err := r.e.j.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 3 {
		kept, gone := 0, 0
		for i := range 90 {
			v, verdict, err := r.e.Acquire(t.Context(), name(i), lease.Claim{ID: "b", TTL: time.Minute})
			if err != nil || verdict != lease.Ended || v.Status != lease.Completed || v.Version != 1 {
				t.Fatal(round, i, verdict, err)
			}
			if len(v.Result) > 0 {
				kept++
			} else {
				gone++
			}
		}
		if gone == 0 || round == 0 && kept == 0 {
			t.Fatalf("%d results are kept, %d gone", kept, gone)
		}
		if round == 1 { // and they are carried without their bodies
			r.clock.add(30 * time.Hour)
			if err := r.e.j.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r.restart()
	}
}
