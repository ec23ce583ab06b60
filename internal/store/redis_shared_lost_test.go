package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
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

// TestChangesThatArriveLate has an agent let go and a policy changed at a server that is frozen: both are told to have
// failed. What was decided afterwards holds, and not what the server finds in its buffers when it goes on.
func TestChangesThatArriveLate(t *testing.T) {
	server := redistest.Start(t)
	cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: "late:"}, sharedOptions{Poll: time.Second}
	s, other := joinShared(t, cfg, opt), joinShared(t, cfg, opt)
	ctx := t.Context()
	if err := s.Put(ctx, Entry{Kind: PolicyEntry, Name: "p", Value: []byte(`1`)}, "ops"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Disable(ctx, "a", "", "ops"); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for i := range 24 { // all connections stand, whichever is busy
		both.Go(func() { _, _ = []*sharing{s, other}[i%2].c.do(ctx, "EXISTS", "late:{late}:none") })
	}
	both.Wait()
	server.Pause()
	both.Go(func() {
		if err := other.Put(ctx, Entry{Kind: PolicyEntry, Name: "p", Value: []byte(`2`)}, "ops"); !errors.Is(err, dedup.ErrUnavailable) {
			t.Errorf("a policy at a frozen server: %v", err)
		}
	})
	both.Go(func() {
		if _, err := s.Enable(ctx, "a", "", "ops"); !errors.Is(err, dedup.ErrUnavailable) {
			t.Errorf("an agent let go at a frozen server: %v", err)
		}
	})
	both.Wait()
	until(t, "nothing is asked any more", func() bool { return s.c.err() != nil })
	if _, err := s.Disable(ctx, "a", "again", "ops"); !errors.Is(err, dedup.ErrDeferred) {
		t.Fatalf("an agent disabled at a frozen server: %v", err)
	}
	time.Sleep(delayFor + 100*time.Millisecond)
	server.Resume()
	resumed := time.Now()
	until(t, "both have read the switch", func() bool {
		return s.sinceSwitchHeard() < time.Since(resumed) && other.sinceSwitchHeard() < time.Since(resumed)
	})
	if server.Do("HEXISTS", "late:{late}:switch", "a") != int64(1) {
		t.Error("the server has let the agent go")
	}
	if !isOff(s, "a") || !isOff(other, "a") {
		t.Error("the agent runs on")
	}
	if text, _ := server.Do("HGET", "late:{late}:entries", "policy p").(string); !strings.HasSuffix(text, `"value":1}`) {
		t.Errorf("the policy is %s", text)
	}
	if _, err := s.Enable(ctx, "a", "", "ops"); err != nil || isOff(s, "a") {
		t.Errorf("let go: %v", err)
	}
}
