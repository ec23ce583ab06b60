package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestTheSwitchReachesTwenty measures how long a switch takes to bind at twenty sidecars: pushed, and by the poll alone.
func TestTheSwitchReachesTwenty(t *testing.T) {
	server := redistest.Start(t)
	for _, c := range []struct {
		how    string
		rounds int
		deaf   bool
		wanted time.Duration
		most   time.Duration
	}{{"pushed", 20, false, 100 * time.Millisecond, time.Second}, {"polled", 3, true, 200 * time.Millisecond, 2 * time.Second}} {
		cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: c.how + ":"}, sharedOptions{Poll: 10 * time.Minute}
		if c.deaf {
			opt.Poll, opt.deaf = c.wanted, true
		}
		var mu sync.Mutex
		var took []time.Duration
		var thrown time.Time
		var all sync.WaitGroup
		fleet, stopped := make([]*sharing, 20), make([]bool, 20)
		for i := range fleet {
			fleet[i] = joinShared(t, cfg, opt)
			fleet[i].OnSwitch(func(_ string, off bool) {
				mu.Lock()
				defer mu.Unlock()
				if stopped[i] == off { // who throws it may hear of it once more
					return
				}
				if stopped[i] = off; off {
					took = append(took, time.Since(thrown))
				}
				all.Done()
			})
		}
		if !c.deaf {
			until(t, "all listen", func() bool { return listening(t, fleet[0], int64(len(fleet))) })
		}
		for round := range c.rounds {
			agent := fmt.Sprint("agent", round)
			for _, turn := range []func() error{
				func() error { _, err := fleet[round%len(fleet)].Disable(t.Context(), agent, "", "ops"); return err },
				func() error { _, err := fleet[0].Enable(t.Context(), agent, "", "ops"); return err },
			} {
				all.Add(len(fleet))
				mu.Lock()
				thrown = time.Now()
				mu.Unlock()
				if err := turn(); err != nil {
					t.Fatal(err)
				}
				all.Wait()
			}
		}
		slices.Sort(took)
		p99 := took[len(took)*99/100]
		t.Logf("%s: the switch bound at 20 sidecars after %v (p99 of %d; wanted %v)", c.how, p99.Round(time.Microsecond), len(took), c.wanted)
		if p99 > 10*c.wanted || p99 > c.most {
			t.Error(c.how, p99)
		}
	}
}

// TestSharingAsTheReadmesUser: its ACL line allows all that is shared.
func TestSharingAsTheReadmesUser(t *testing.T) {
	server := redistest.Start(t)
	s := joinShared(t, limited(t, server, "mine:"), sharedOptions{Poll: 50 * time.Millisecond})
	ctx, n := t.Context(), lease.Name{Tenant: "default", Key: "k"}
	_, _, err1 := s.Lock(ctx, n, time.Minute)
	_, _, err2 := s.Acquire(ctx, n, lease.Claim{ID: "a", TTL: time.Minute, Job: &lease.Job{Run: "r"}})
	_, err3 := s.Apply(ctx, n, lease.Step{Act: lease.Complete, ID: "a"})
	_, err4 := s.Disable(ctx, "a", "", "ops")
	_, err5 := s.Enable(ctx, "a", "", "ops")
	err6 := s.Put(ctx, filed(PolicyEntry, "a", `1`), "ops")
	err7 := s.Delete(ctx, PolicyEntry, "a", "ops")
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
		if err != nil {
			t.Error(i+1, err)
		}
	}
	s.Publish([]byte(`{}`))
	until(t, "the record is there", func() bool { return server.Do("XLEN", s.c.key("audit")) == int64(1) })
	until(t, "hints are heard", func() bool { return strings.Contains(fmt.Sprint(server.Do("PUBSUB", "CHANNELS", "mine:*")), s.hints()) })
}
