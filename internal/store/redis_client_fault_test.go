package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// once appends the nonce: how often a question ran is how often its nonce is in the list.
var once = newScript("once", `return redis.call('RPUSH', KEYS[1], ARGV[1])`)

// TestRedisLostReply loses the reply of each script in turn, alone and in batches: whoever is not told "lost" finds its
// script run exactly once, or not at all when it was told so.
func TestRedisLostReply(t *testing.T) {
	s := redistest.Start(t)
	relay := redistest.NewRelay(t, s.Addr)
	c := dialTest(t, RedisConfig{Addrs: []string{relay.Addr}})
	for _, callers := range []int{1, 64} {
		for _, lose := range []func(int){relay.Lose, relay.Swallow} {
			checkLost(t, c, s, callers, func() { lose(callers) })
		}
	}
	if relay.Lost() != 4 {
		t.Errorf("the relay lost %d replies", relay.Lost())
	}
}

func checkLost(t *testing.T, c *redisClient, s *redistest.Server, callers int, lose func()) {
	t.Helper()
	key := c.key("lost")
	s.Do("DEL", key)
	redistest.Eventually(t, "Redis answers", func() error { _, err := c.do(t.Context(), "GET", c.key("x")); return err })
	lose()
	results := make([]error, callers)
	var work sync.WaitGroup
	for i := range callers {
		work.Go(func() { _, results[i] = c.run(t.Context(), once, []string{key}, i) })
	}
	work.Wait()
	runs := runsOf(t, s, key)
	lost := 0
	for i, err := range results {
		switch n := runs[int64(i)]; {
		case n > 1:
			t.Errorf("script %d ran %d times", i, n)
		case err == nil && n != 1:
			t.Errorf("script %d was answered and ran %d times", i, n)
		case errors.Is(err, errNotExecuted) && n != 0:
			t.Errorf("script %d was said not to have run, and ran: %v", i, err)
		case errors.Is(err, errLost):
			lost++
		case err != nil && !errors.Is(err, errNotExecuted):
			t.Errorf("script %d: %v", i, err)
		}
	}
	if lost == 0 {
		t.Errorf("of %d callers nobody was told of the lost reply", callers)
	}
}

// runsOf counts, by nonce, what ran.
func runsOf(t *testing.T, s *redistest.Server, key string) map[int64]int {
	t.Helper()
	runs := map[int64]int{}
	list, _ := s.Do("LRANGE", key, "0", "-1").([]any)
	for _, item := range list {
		runs[atoi(t, item)]++
	}
	return runs
}

// TestRedisFrozen stops the server with its connections open: an error comes in the timeout, at once when the breaker
// is open, and all is well again without a restart.
func TestRedisFrozen(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	key := c.key("frozen")
	if _, err := c.run(t.Context(), once, []string{key}, 0); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	for i := 1; c.err() == nil; i++ {
		begin := time.Now()
		if _, err := c.run(t.Context(), once, []string{key}, i); !errors.Is(err, errLost) && !errors.Is(err, errNotExecuted) {
			t.Fatalf("frozen: %v", err)
		}
		took := time.Since(begin)
		t.Logf("error after %v", took)
		if took > 10*redisTimeout {
			t.Errorf("an error took %v", took)
		}
	}
	begin := time.Now()
	_, err := c.run(t.Context(), once, []string{key}, 1000)
	if took := time.Since(begin); !errors.Is(err, errNotExecuted) || took > 500*time.Millisecond {
		t.Errorf("open breaker: %v after %v", err, took)
	} else {
		t.Logf("with the breaker open: error after %v", took)
	}
	s.Resume()
	redistest.Eventually(t, "the client asks again", func() error {
		_, err := c.run(t.Context(), once, []string{key}, 2000)
		return err
	})
	for nonce, n := range runsOf(t, s, key) {
		if nonce < 1000 && n > 1 || nonce == 1000 {
			t.Errorf("nonce %d ran %d times", nonce, n)
		}
	}
}

// TestRedisAway kills the server and starts it again under load.
func TestRedisAway(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	var epochs atomic.Int32
	c.onEpoch(func(_ string, old, new epoch) {
		if old.RunID == "" || old.RunID == new.RunID || new.Role != "master" {
			t.Errorf("epoch %+v after %+v", new, old)
		}
		epochs.Add(1)
	})
	checkExactly(t, c, s, c.key("away"), func() {
		s.Kill()
		s.Restart()
	})
	if n := epochs.Load(); n != 1 {
		t.Errorf("told of %d new epochs", n)
	}
}

// checkExactly asks from 32 callers while something happens, and then compares what they were told with what ran.
func checkExactly(t *testing.T, c *redisClient, s *redistest.Server, key string, happen func()) {
	t.Helper()
	told := askDuring(t, c, key, happen)
	runs := runsOf(t, s, key)
	answered, lost := 0, 0
	for nonce, err := range told {
		switch n := runs[nonce]; {
		case err == nil && n == 1:
			answered++
		case errors.Is(err, errLost) && n <= 1:
			lost++
		case errors.Is(err, errNotExecuted) && n == 0:
		default:
			t.Errorf("nonce %d ran %d times; told: %v", nonce, n, err)
		}
	}
	t.Logf("%d asked, %d answered, %d lost", len(told), answered, lost)
	if answered == 0 {
		t.Error("nothing was answered")
	}
}

func askDuring(t *testing.T, c *redisClient, key string, happen func()) map[int64]error {
	t.Helper()
	told, nonce, over := map[int64]error{}, atomic.Int64{}, make(chan struct{})
	var mu sync.Mutex
	var work sync.WaitGroup
	ask := func() error {
		n := nonce.Add(1)
		_, err := c.run(t.Context(), once, []string{key}, n)
		mu.Lock()
		defer mu.Unlock()
		told[n] = err
		return err
	}
	for range 32 {
		work.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if ask() != nil {
					time.Sleep(5 * time.Millisecond) // as a caller would; else refusals are all there is
				}
			}
		})
	}
	redistest.Eventually(t, "the first is answered", ask)
	happen()
	redistest.Eventually(t, "one is answered again", ask)
	close(over)
	work.Wait()
	return told
}

// TestRedisBusy has a script that never ends: others are told that they did not run.
func TestRedisBusy(t *testing.T) {
	s := redistest.Start(t, "--busy-reply-threshold", "50")
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	key := c.key("busy")
	if _, err := c.run(t.Context(), once, []string{key}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.run(t.Context(), newScript("endless", `while true do end`), []string{key}); !errors.Is(err, errLost) {
		t.Fatalf("the endless one: %v", err)
	}
	if _, err := c.run(t.Context(), once, []string{key}, 1); !errors.Is(err, errNotExecuted) {
		t.Errorf("another: %v", err)
	}
	s.Do("SCRIPT", "KILL")
	redistest.Eventually(t, "Redis answers", func() error { _, err := c.run(t.Context(), once, []string{key}, 2); return err })
	if runs := runsOf(t, s, key); runs[1] != 0 || runs[2] != 1 {
		t.Errorf("ran: %v", runs)
	}
}

// TestRedisDemoted makes the server a replica under open connections: nothing is written, and nothing is asked of it
// on a new connection either.
func TestRedisDemoted(t *testing.T) {
	s, other := redistest.Start(t), redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	key := c.key("demoted")
	if _, err := c.run(t.Context(), once, []string{key}, 0); err != nil {
		t.Fatal(err)
	}
	host, port := split(other.Addr)
	s.Do("REPLICAOF", host, port)
	for i := range 5 {
		if _, err := c.run(t.Context(), once, []string{key}, i); !errors.Is(err, errNotExecuted) {
			t.Errorf("a replica: %v", err)
		}
	}
	s.Do("REPLICAOF", "NO", "ONE")
	redistest.Eventually(t, "the master answers", func() error { _, err := c.run(t.Context(), once, []string{key}, 9); return err })
}
