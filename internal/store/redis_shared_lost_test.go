package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestStepsWhoseRepliesAreLost: each step was taken, its reply is lost, and it is found to have been taken once: nobody
// is kept out by himself.
func TestStepsWhoseRepliesAreLost(t *testing.T) {
	server := redistest.Start(t)
	relay := redistest.NewRelay(t, server.Addr)
	s := joinShared(t, RedisConfig{Addrs: []string{relay.Addr}, Prefix: "lost:"}, sharedOptions{Poll: time.Hour})
	ctx := t.Context()
	lost := 0
	for n := 1; n <= 2; n++ {
		name := lease.Name{Tenant: "default", Key: fmt.Sprint("k", n)}
		step := func(what string, scripts int, f func() error) {
			t.Helper()
			if n > scripts {
				if err := f(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
			before := relay.Lost()
			relay.Lose(n)
			if err := f(); err != nil {
				t.Errorf("%s, its script %d answered by nobody: %v", what, n, err)
			}
			if relay.Lost() != before+1 {
				t.Errorf("%s: no reply was lost", what)
			}
			lost++
		}
		wanted := func(ok bool) error {
			if !ok {
				return errors.New("another answer than without a loss")
			}
			return nil
		}
		step("lock", 1, func() error {
			_, won, err := s.Lock(ctx, name, time.Minute)
			return errors.Join(err, wanted(won))
		})
		step("duplicate", 1, func() error {
			_, won, err := s.Lock(ctx, name, time.Minute)
			return errors.Join(err, wanted(!won))
		})
		step("acquire", 2, func() error {
			v, verdict, err := s.Acquire(ctx, name, lease.Claim{ID: "a", TTL: time.Minute})
			return errors.Join(err, wanted(verdict == lease.Acquired && v.Version == 1))
		})
		step("extend", 2, func() error {
			v, err := s.Apply(ctx, name, lease.Step{Act: lease.Extend, ID: "a"})
			return errors.Join(err, wanted(v.Version == 2 && v.Changed))
		})
		step("complete", 2, func() error {
			v, err := s.Apply(ctx, name, lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{}`)})
			return errors.Join(err, wanted(v.Status == lease.Completed && v.Changed))
		})
		none := uint64(0)
		policy := fmt.Sprint("p", n)
		step("put", 1, func() error {
			return s.Put(ctx, Entry{Kind: PolicyEntry, Name: policy, Value: []byte(`1`), Replaces: &none}, "ops")
		})
		step("delete", 1, func() error { return s.Delete(ctx, PolicyEntry, policy, "ops") })
		step("disable", 1, func() error { _, err := s.Disable(ctx, "a", "", "ops"); return err })
		step("enable", 1, func() error { _, err := s.Enable(ctx, "a", "", "ops"); return errors.Join(err, wanted(!isOff(s, "a"))) })
	}
	if lost != 12 {
		t.Fatalf("%d replies were lost", lost)
	}
	if got := server.Do("HLEN", "lost:{lost}:switch"); got != int64(0) {
		t.Fatal("the switch stands", got)
	}
}
