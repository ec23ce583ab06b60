package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// count adds one: how often it ran is what the server says.
var count = newScript("count", `return redis.call('INCR', KEYS[1])`)

func dialTest(t testing.TB, cfg RedisConfig) *redisClient {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = "oo:"
	}
	c, err := dialRedis(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestRedisClient(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	key := c.key("test", "count")
	if key != "oo:{oo}:test:count" {
		t.Errorf("key %q", key)
	}
	for i := int64(1); i <= 3; i++ {
		if got, err := c.run(t.Context(), count, []string{key}); err != nil || got != i {
			t.Fatalf("run %d: %v, %v", i, got, err)
		}
	}
	s.Do("SCRIPT", "FLUSH")
	if got, err := c.run(t.Context(), count, []string{key}); err != nil || got != int64(4) {
		t.Errorf("after SCRIPT FLUSH: %v, %v", got, err)
	}
	if got, err := c.do(t.Context(), "GET", key); err != nil || got != "4" {
		t.Errorf("do: %v, %v", got, err)
	}
	if got, err := c.do(t.Context(), "GET", c.key("nothing")); err != nil || got != nil {
		t.Errorf("do, absent: %v, %v", got, err)
	}
	_, err := c.run(t.Context(), newScript("raise", `return redis.error_reply('OWN words')`), []string{key})
	if err == nil || errors.Is(err, errLost) || errors.Is(err, errNotExecuted) || !strings.Contains(err.Error(), "OWN words") {
		t.Errorf("a script's own error: %v", err)
	}
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

func TestRedisSubscribe(t *testing.T) {
	s := redistest.Start(t)
	c := dialTest(t, RedisConfig{Addrs: []string{s.Addr}})
	heard := make(chan string, 16)
	stop := c.subscribe(c.key("hint"), func(payload string) { heard <- payload })
	hear := func(want string) {
		t.Helper()
		redistest.Eventually(t, "the subscription stands", func() error {
			if s.Do("PUBLISH", c.key("hint"), want) == int64(0) {
				return errors.New("nobody listens")
			}
			return nil
		})
		if got := <-heard; got != want {
			t.Fatalf("heard %q", got)
		}
	}
	hear("one")
	s.Kill()
	s.Restart()
	hear("two")
	stop()
}
