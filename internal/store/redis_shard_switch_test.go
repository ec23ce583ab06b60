package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// claims is what the script itself says to a claim, whatever its sidecar knows of switches.
func claims(r *Redis, agent, name string) error {
	b, err := r.Begin(context.Background(), claimOf(agent, name))
	if err == nil && b.Status != dedup.Mine {
		err = fmt.Errorf("%+v", b)
	}
	return err
}

// TestTheSwitchReachesEveryShard: when Disable has returned no claim wins, also at sidecars that hear and read nothing,
// in shards that are in use, that are used for the first time, and in those that lost it.
func TestTheSwitchReachesEveryShard(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: time.Minute})
	ops, a, b := stores[0], stores[1], stores[2]
	for round, who := range []string{"one", Everyone, "one", Everyone} {
		for i, r := range []*Redis{a, b} {
			if err := claims(r, "one", fmt.Sprint("before", round, i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ops.Disable(t.Context(), who, "stop", "me"); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*Redis{a, b} {
			if err := claims(r, "one", fmt.Sprint("during", round)); !errors.Is(err, dedup.ErrDisabled) {
				t.Fatalf("%s is off: %v", who, err)
			}
		}
		err := claims(b, fmt.Sprint("fresh", round), "x") // a shard that is first used after the switch
		if off := who == Everyone; off != errors.Is(err, dedup.ErrDisabled) || !off && err != nil {
			t.Fatalf("%s is off, and a new agent is told %v", who, err)
		}
		if _, err := ops.Enable(t.Context(), who, "go on", "me"); err != nil {
			t.Fatal(err)
		}
		for i, r := range []*Redis{a, b} {
			if err := claims(r, "one", fmt.Sprint("after", round, i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := claims(b, fmt.Sprint("fresh", round), "y"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ops.Disable(t.Context(), Everyone, "stop", "me"); err != nil {
		t.Fatal(err)
	}
	home := ops.shardOf("one").base
	s.Do("DEL", home+"switch")
	until(t, "a shard that lost its switch has it again", func() bool {
		return s.Do("HEXISTS", home+"switch", Everyone) == int64(1)
	})
}

// TestASwitchIsCopiedByRevision: what a sidecar brings that has not heard of the latest word changes nothing.
func TestASwitchIsCopiedByRevision(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent"})[0]
	in := r.shardOf("nobody's")
	for i, step := range []struct {
		off  string
		on   uint64
		want string // how it is off then
	}{
		{"", 0, ""}, {"5 {}", 0, "5 {}"}, {"", 0, "5 {}"}, {"4 {}", 0, "5 {}"}, {"5 {}", 6, ""}, {"5 {}", 0, ""}, {"6 {}", 0, ""},
		{"9 {}", 6, "9 {}"}, {"", 7, "9 {}"}, {"", 9, ""}, {"cannot be read", 9, "cannot be read"}, {"", 12, "cannot be read"},
	} {
		if _, err := r.beatWith(t.Context(), in, "", []any{"one", step.off, step.on}); err != nil {
			t.Fatal(err)
		}
		if got := text(s.Do("HGET", in.base+"switch", "one")); got != step.want {
			t.Fatalf("step %d: it is off by %q, not %q", i, got, step.want)
		}
	}
}

// TestTheSwitchWhereTheListOfShardsIsLost: while a sidecar that hears and reads nothing may claim in a shard of which a
// namespace that forgot everything does not know, Disable does not say that all claims see it; then the shard is found.
func TestTheSwitchWhereTheListOfShardsIsLost(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: time.Minute, Hold: time.Millisecond})
	ops, a := stores[0], stores[1]
	if err := claims(a, "one", "before"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"shards", "life", "shard", "switch", "switch-on", "entries", "entries-revision"} {
		s.Do("DEL", ops.base+key)
	}
	s.Do("CLIENT", "KILL", "TYPE", "pubsub")
	ops.shards.mu.Lock()
	clear(ops.shards.by) // nor did the operator's sidecar hear of the shard
	ops.shards.mu.Unlock()
	_, told := ops.Disable(t.Context(), Everyone, "stop", "me")
	if won := claims(a, "one", "during"); told == nil && !errors.Is(won, dedup.ErrDisabled) {
		t.Fatalf("Disable said that it holds, and then a claim got %v", won)
	}
	if told != nil && !errors.Is(told, dedup.ErrDeferred) {
		t.Fatal(told)
	}
	until(t, "the shard is told", func() bool { return s.Do("HEXISTS", a.shardOf("one").base+"switch", Everyone) == int64(1) })
}
