package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestRedisBatches: what waits for a connection goes in few writes.
func TestRedisBatches(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	const callers = 100
	reads := func() int64 { return atoi(t, s.Info("total_reads_processed")) }
	var fewest int64 = callers
	for range 5 { // a machine that is busy elsewhere lets the callers come one by one
		before := reads()
		s.Pause()
		var work sync.WaitGroup
		for i := range callers {
			work.Go(func() {
				if _, err := c.run(t.Context(), once, []string{c.key("batch")}, i); err != nil && !errors.Is(err, errLost) && !errors.Is(err, errNotExecuted) {
					t.Error(err)
				}
			})
		}
		queued(t, c, s.Addr, callers-laneConns)
		s.Resume()
		work.Wait()
		redistest.Eventually(t, "Redis answers", func() error { _, err := c.do(t.Context(), "EXISTS", c.key("x")); return err })
		fewest = min(fewest, reads()-before)
	}
	t.Logf("%d scripts came in %d reads or fewer", callers, fewest)
	if fewest > callers/2 {
		t.Errorf("%d callers made %d reads at the server", callers, fewest)
	}
}

// queued waits until that many requests wait for a connection, or have waited too long.
func queued(t *testing.T, c *redisClient, addr string, n int) {
	t.Helper()
	l := c.node(addr).plain
	deadline := time.Now().Add(redisTimeout / 2)
	for time.Now().Before(deadline) {
		l.mu.Lock()
		have := len(l.queue)
		l.mu.Unlock()
		if have >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// TestRedisGivesUp: a caller that leaves while its script waits for a connection knows that it did not run.
func TestRedisGivesUp(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	key := c.key("gone")
	s.Pause()
	var work sync.WaitGroup
	for i := range laneConns {
		work.Go(func() { _, _ = c.run(t.Context(), once, []string{key}, i) })
	}
	l := c.node(s.Addr).plain
	redistest.Eventually(t, "every connection is taken", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.free) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := c.run(ctx, once, []string{key}, 1000)
		gone <- err
	}()
	queued(t, c, s.Addr, 1)
	cancel()
	if err := <-gone; !errors.Is(err, errNotExecuted) {
		t.Errorf("the caller was told %v", err)
	}
	s.Resume()
	work.Wait()
	redistest.Eventually(t, "Redis answers", func() error { _, err := c.run(t.Context(), once, []string{key}, 2000); return err })
	if runs := runsOf(t, s, key); runs[1000] != 0 {
		t.Errorf("ran: %v", runs)
	}
}

// TestRedisWay: a slow, cut or dead way is told in time, and all is well when it is whole again.
func TestRedisWay(t *testing.T) {
	s := redistest.Start(t)
	relay := redistest.NewRelay(t, s.Addr)
	c := dialTest(t, RedisConfig{Addrs: []string{relay.Addr}})
	for what, spoil := range map[string][2]func(){
		"blackhole": {relay.Blackhole, relay.Open},
		"slow":      {func() { relay.Delay(2 * redisTimeout) }, func() { relay.Delay(0) }},
		"cut":       {relay.Cut, func() {}},
	} {
		key := c.key("way", what) // what is held on one way arrives during the next
		checkExactly(t, c, s, key, func() {
			spoil[0]()
			begin := time.Now()
			_, err := c.run(t.Context(), once, []string{key}, 0)
			t.Logf("%s: %v after %v", what, err, time.Since(begin))
			if took := time.Since(begin); took > 10*redisTimeout {
				t.Errorf("%s: told after %v", what, took)
			}
			spoil[1]()
		})
	}
}
