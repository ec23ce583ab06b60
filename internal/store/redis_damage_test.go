package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// garbage is what something else may write in the place of a key.
var garbage = map[string][]string{
	"a list": {"RPUSH", "KEY", "x"},
	"a hash": {"HSET", "KEY", "x", "y", "sum", "junk", "low", "junk", "spend", "junk", "t:pay", "junk", "z", "9"},
	"a set":  {"ZADD", "KEY", "1", "junk", "2", "-1", "3", "1e300", "4", "9007199254740999"},
	"text":   {"SET", "KEY", "what is this"},
	"1e300":  {"SET", "KEY", "1e300"},
	"2^53-1": {"SET", "KEY", "9007199254740991"},
	"empty":  {"SET", "KEY", ""},
}

// TestGarbageInRedis has something else write over each key of a namespace in turn. Nothing runs twice, what runs is
// ended and found, and where nothing can be claimed the key is named; once it is removed all goes on.
func TestGarbageInRedis(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	for _, key := range []string{"fence", "switch", "switch-on", "entries", "entries-revision", "secret", "life", "open", "unknown", "i:", "k:", "k: running", "r:", "r: running", "b:", "h:", "d:"} {
		for what, command := range garbage {
			t.Run(key+" is "+what, func(t *testing.T) {
				t.Parallel()
				wrecked(t, s, key, command)
			})
		}
	}
}

// wrecked has one call done and one running when a key is overwritten.
func wrecked(t *testing.T, s *redistest.Server, key string, command []string) {
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}, Hold: 50 * time.Millisecond})
	r, other := stores[0], stores[1]
	done, d := won(t, r, "done")
	if err := r.Finish(t.Context(), storetest.Ending(done, d, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	running, b := won(t, r, "running")
	fence := func(b dedup.Begun) string { return strconv.FormatUint(b.Fence, 10) }
	name := r.base + map[string]string{
		"i:": "i:" + r.instance, "k:": "k:" + keyText(done.Keys[0].Key), "k: running": "k:" + keyText(running.Keys[0].Key),
		"r:": "r:" + fence(d), "r: running": "r:" + fence(b), "b:": "b:" + fence(d),
		"h:": "h:default:a", "d:": fmt.Sprintf("d:%d:default:a", dayOf(r.nowIn(r.home))),
	}[key]
	if name == r.base {
		name += key
	}
	s.Do("DEL", name)
	s.Do(strings.Split(strings.Replace(strings.Join(command, "\n"), "KEY", name, 1), "\n")...)
	notAnew(t, other, name, "done", "running")
	claimAround(t, other, name, "new")
	if err := r.Finish(context.Background(), storetest.Ending(running, b, dedup.Done)); err != nil {
		t.Errorf("what runs is not ended: %v", err)
	}
	notAnew(t, other, name, "done", "running")
	s.Do("DEL", name)
	until(t, "claims are taken again", func() bool {
		b, err := other.Begin(t.Context(), storetest.NewClaim("after"))
		return err == nil && b.Status != dedup.Blocked
	})
	if key != "k:" && key != "k: running" { // a pointer that an operator removed is gone
		notAnew(t, other, name, "done", "running")
	}
	if err := r.Err(); err != nil {
		until(t, "the beat has heard of it", func() bool { return r.Err() == nil })
	}
}

// notAnew claims calls that were claimed before: none may run again, and a refusal names the key.
func notAnew(t *testing.T, r *Redis, name string, calls ...string) {
	t.Helper()
	for _, call := range calls {
		b, err := r.Begin(t.Context(), storetest.NewClaim(call))
		if err == nil && b.Status == dedup.Mine {
			t.Errorf("%s ran again", call)
		}
		if err != nil {
			saysWhat(t, err, name)
		}
	}
}

// claimAround claims a new call under limits and gives what it reserved back.
func claimAround(t *testing.T, r *Redis, name, call string) {
	t.Helper()
	c, calls, spend := storetest.NewClaim(call), int64(700), tool.Money(1e9)
	c.Limits = tool.Limits{SpendPerDay: &spend, ActionsPerHour: &calls, CallsPerDay: &calls}
	b, err := r.Begin(t.Context(), c)
	if err != nil {
		saysWhat(t, err, name)
		return
	}
	if err := r.Finish(t.Context(), storetest.Ending(c, b, dedup.NotSent)); err != nil {
		t.Errorf("a new call is not ended: %v", err)
	}
}

func saysWhat(t *testing.T, err error, name string) {
	t.Helper()
	if errors.Is(err, dedup.ErrDisabled) {
		return // what cannot be read stops everybody
	}
	if !errors.Is(err, dedup.ErrUnavailable) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "redis-cli DEL") {
		t.Errorf("it does not say what to do about %s: %v", name, err)
	}
}
