package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// TestRedisRefusesWrites has a server that answers take no writes: new claims are refused and nobody is told that the
// store is ready, what runs is ended once it takes them again.
func TestRedisRefusesWrites(t *testing.T) {
	words := map[string]string{"NOPERM": "can't run this command"}
	for word, refuse := range map[string]func(s *redistest.Server) (allow func()){
		"NOREPLICAS": func(s *redistest.Server) func() {
			s.Do("CONFIG", "SET", "min-replicas-to-write", "1")
			return func() { s.Do("CONFIG", "SET", "min-replicas-to-write", "0") }
		},
		"MISCONF": func(s *redistest.Server) func() {
			dir, _ := s.Do("CONFIG", "GET", "dir").([]any)
			_ = os.RemoveAll(fmt.Sprint(dir[1]))
			s.Do("CONFIG", "SET", "save", "1 1", "stop-writes-on-bgsave-error", "yes")
			redistest.Eventually(t, "a snapshot fails", func() error {
				_, _ = redistest.Ask(s.Addr, "BGSAVE")
				if status := s.Info("rdb_last_bgsave_status"); status != "err" {
					return fmt.Errorf("the last is %s", status)
				}
				return nil
			})
			return func() { s.Do("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") }
		},
		"NOPERM": func(s *redistest.Server) func() {
			s.Do("ACL", "SETUSER", "default", "-zadd", "-hincrby", "-zcard")
			return func() { s.Do("ACL", "SETUSER", "default", "+@all") }
		},
	} {
		t.Run(word, func(t *testing.T) {
			s := redistest.Start(t, "--appendonly", "no")
			r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Hold: 50 * time.Millisecond})[0]
			c, mine := won(t, r, "running")
			allow := refuse(s)
			if _, err := r.Begin(t.Context(), storetest.NewClaim("x")); !errors.Is(err, dedup.ErrUnavailable) {
				t.Fatalf("a new claim: %v", err)
			}
			if err := r.Finish(context.Background(), storetest.Ending(c, mine, dedup.Done)); err != nil && !errors.Is(err, dedup.ErrDeferred) {
				t.Fatalf("the end of a running call: %v", err)
			}
			until(t, "it is told", func() bool { return r.Err() != nil })
			if err := r.Err(); !errors.Is(err, dedup.ErrUnavailable) || !strings.Contains(err.Error(), cmp.Or(words[word], word)) {
				t.Errorf("it is told as %v", err)
			}
			allow()
			until(t, "all is well", func() bool { return r.Err() == nil })
			stands(t, r, "running", dedup.Replay)
			stands(t, r, "x", dedup.Mine)
		})
	}
}

// TestMemoryComesAndGoesUnderLoad has a server be full and empty in turn while three sidecars run calls: nothing runs
// twice, and nothing that ran stays open.
func TestMemoryComesAndGoesUnderLoad(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}}))
	stop := f.load(t)
	for range 5 {
		before := f.ran()
		until(t, "calls run", func() bool { return f.ran() > before+50 })
		s.Do("CONFIG", "SET", "maxmemory", "500kb")
		f.mu.Lock()
		away := f.away
		f.mu.Unlock()
		until(t, "calls are refused", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.away > away+50
		})
		s.Do("CONFIG", "SET", "maxmemory", "0")
	}
	stop()
	f.once(t)
	until(t, "nothing is open", func() bool { return len(f.stores[0].Open()) == 0 })
}

// TestKeysThatWereEvicted are told of, also once the policy is right: what Redis dropped may run again.
func TestKeysThatWereEvicted(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Hold: 50 * time.Millisecond})[0]
	_, mine := won(t, r, "running")
	s.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", "500kb")
	until(t, "all is evicted", func() bool {
		_, _ = redistest.Ask(s.Addr, "SET", "more", "x")
		return s.Do("DBSIZE") == int64(0)
	})
	s.Do("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")
	until(t, "it is told", func() bool {
		for _, f := range r.Facts() {
			if f[0] == "redis_weakness" && strings.Contains(f[1], "evicted") {
				return true
			}
		}
		return false
	})
	if d := stands(t, r, "running", dedup.InFlight); d.Fence != mine.Fence {
		t.Fatalf("%+v after %+v", d, mine)
	}
}
