package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// claimOf is a claim of that agent.
func claimOf(agent, name string) *dedup.Claim {
	c := storetest.NewClaim(agent + " " + name) // keys hold the agent
	c.Agent = agent
	return c
}

// wonBy claims a call of the agent.
func wonBy(t *testing.T, r *Redis, agent, name string) (*dedup.Claim, dedup.Begun) {
	t.Helper()
	c := claimOf(agent, name)
	b, err := r.Begin(t.Context(), c)
	if err != nil || b.Status != dedup.Mine {
		t.Fatalf("%s %s: %+v, %v", agent, name, b, err)
	}
	return c, b
}

// standsOf claims the agent's call once more, and again while the store says that it takes none.
func standsOf(t *testing.T, r *Redis, agent, name string, want dedup.Status) dedup.Begun {
	t.Helper()
	var b dedup.Begun
	until(t, "the store says how "+agent+" "+name+" stands", func() (ok bool) {
		var err error
		b, err = r.Begin(t.Context(), claimOf(agent, name))
		if err != nil && !errors.Is(err, dedup.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
	if b.Status != want {
		t.Fatalf("%s %s stands as %+v, not %d", agent, name, b, want)
	}
	return b
}

// agentsOn are agents of the store's prefix, one for each node of the cluster.
func agentsOn(t *testing.T, c *redistest.Cluster, r *Redis) (agents []string) {
	t.Helper()
	for _, n := range c.Nodes[:3] {
		for i := 0; ; i++ {
			agent := fmt.Sprint("agent-", i)
			if owner, _ := c.Owner(r.shardOf(agent).base + "fence"); owner == n {
				agents = append(agents, agent)
				break
			}
		}
	}
	return agents
}

// TestAgentsOnDifferentMasters: each agent's calls stand on its own master, and everything that looks at all of them does.
func TestAgentsOnDifferentMasters(t *testing.T) {
	cl := redistest.StartCluster(t)
	stores := sidecars(t, 2, RedisConfig{Mode: "cluster", Addrs: cl.Addrs()[:1], Shard: "agent"})
	a, b := stores[0], stores[1]
	agents := agentsOn(t, cl, a)
	var ends []*dedup.End
	for i, agent := range agents {
		c, mine := wonBy(t, a, agent, "x")
		ends = append(ends, storetest.Ending(c, mine, dedup.Done))
		if n := cl.Nodes[i].Do("EXISTS", fmt.Sprint(a.shardOf(agent).base, "r:", mine.Fence)); n != int64(1) {
			t.Errorf("the record of %s is not on its master", agent)
		}
		if got := standsOf(t, b, agent, "x", dedup.InFlight); got.Fence != mine.Fence {
			t.Errorf("%s: fence %d, not %d", agent, got.Fence, mine.Fence)
		}
		c, mine = wonBy(t, b, agent, "unknown")
		if err := b.Finish(t.Context(), storetest.Ending(c, mine, dedup.Unknown)); err != nil {
			t.Fatal(err)
		}
		if u := a.Usage("default", agent, "pay"); u.HourCalls != 2 {
			t.Errorf("%s has used %+v", agent, u)
		}
	}
	if list, err := a.ListUnknowns(); err != nil || len(list) != len(agents) {
		t.Fatalf("unknown are %+v, %v", list, err)
	}
	if open := b.Open(); len(open) != 2*len(agents) {
		t.Fatalf("open are %+v", open)
	}
	until(t, "all unknown ones are counted", func() bool { return a.UnknownCount() == len(agents) && b.UnknownCount() == len(agents) })
	var wait sync.WaitGroup
	for i, agent := range agents {
		wait.Go(func() {
			end, err := b.Wait(context.Background(), agent, ends[i].Keys[0].Key, ends[i].Fence)
			if err != nil || end.Answer == nil || string(end.Answer.Body) != string(ends[i].Answer.Body) {
				t.Errorf("%s: who waits elsewhere gets %+v, %v", agent, end, err)
			}
		})
	}
	for i := range agents {
		if err := a.Finish(t.Context(), ends[i]); err != nil {
			t.Fatal(err)
		}
	}
	wait.Wait()
	list, _ := a.ListUnknowns()
	for _, u := range list {
		word := &dedup.Resolution{Key: u.Key, Agent: u.Agent, Fence: u.Fence, Outcome: dedup.NotSent, Force: true, Who: "ops"}
		if err := a.Resolve(t.Context(), word, "shown"); err != nil {
			t.Fatal(err)
		}
		standsOf(t, b, u.Agent, "unknown", dedup.Mine)
	}
}

// TestEqualFences: two agents' calls may have the same fence, and are told apart by everything that goes by it.
func TestEqualFences(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent"})
	a, b := stores[0], stores[1]
	far := fmt.Sprint(time.Now().Add(time.Hour).UnixMicro())
	for _, agent := range []string{"one", "two"} {
		s.Do("SET", a.shardOf(agent).base+"fence", far)
	}
	c1, first := wonBy(t, a, "one", "x")
	c2, second := wonBy(t, a, "two", "x")
	if first.Fence != second.Fence {
		t.Fatalf("fences %d and %d", first.Fence, second.Fence)
	}
	type got struct {
		agent string
		end   dedup.Ending
	}
	told := make(chan got, 4)
	for _, r := range stores {
		for agent, c := range map[string]*dedup.Claim{"one": c1, "two": c2} {
			standsOf(t, r, agent, "x", dedup.InFlight)
			go func() {
				end, err := r.Wait(context.Background(), agent, c.Keys[0].Key, first.Fence)
				if err != nil {
					t.Error(err)
				}
				told <- got{agent, end}
			}()
		}
	}
	if err := a.Finish(t.Context(), storetest.Ending(c2, second, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if g := <-told; g.agent != "two" || g.end.Outcome != dedup.Done {
			t.Fatalf("the end of two's call was told as %+v", g)
		}
	}
	if err := a.Finish(t.Context(), storetest.Ending(c1, first, dedup.Failed)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if g := <-told; g.agent != "one" || g.end.Outcome != dedup.Failed {
			t.Fatalf("the end of one's call was told as %+v", g)
		}
	}
	standsOf(t, b, "two", "x", dedup.Replay)
}

// TestASwitchThatOneMasterCouldNotBeTold is brought there when it is back, by the sidecar that was asked.
func TestASwitchThatOneMasterCouldNotBeTold(t *testing.T) {
	cl := redistest.StartCluster(t, "--cluster-require-full-coverage", "no")
	stores := sidecars(t, 2, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent", Poll: time.Minute})
	ops, r := stores[0], stores[1]
	agents := agentsOn(t, cl, ops)
	home, _ := cl.Owner(ops.base + "fence")
	gone := 0
	for cl.Nodes[gone] == home {
		gone++
	}
	wonBy(t, r, agents[gone], "before")
	cl.Nodes[gone].Pause()
	if _, err := ops.Disable(t.Context(), Everyone, "stop", "me"); !errors.Is(err, dedup.ErrDeferred) {
		t.Fatalf("%v", err)
	}
	for i, agent := range agents {
		if err := claims(r, agent, "during"); err == nil || i != gone && !errors.Is(err, dedup.ErrDisabled) {
			t.Errorf("%s: %v", agent, err)
		}
	}
	cl.Nodes[gone].Resume()
	key := r.shardOf(agents[gone]).base + "switch"
	until(t, "it is told", func() bool { return cl.Nodes[gone].Do("HEXISTS", key, Everyone) == int64(1) })
	until(t, "its claims are refused", func() bool { return errors.Is(claims(r, agents[gone], "after"), dedup.ErrDisabled) })
}

// TestJoiningAsASwitchIsTurned: many shards are first used while everyone is switched off. None claims once that has returned.
func TestJoiningAsASwitchIsTurned(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: time.Minute})
	for round := range 5 {
		var off atomic.Bool
		var late atomic.Int64
		var work sync.WaitGroup
		for i := range 30 {
			work.Go(func() {
				for n := range 10 {
					was := off.Load()
					err := claims(stores[1+i%2], fmt.Sprint("agent", round, i%15, n), fmt.Sprint(i))
					if was && err == nil {
						late.Add(1)
					}
				}
			})
		}
		if _, err := stores[0].Disable(t.Context(), Everyone, "stop", "me"); err != nil {
			t.Fatal(err)
		}
		off.Store(true)
		work.Wait()
		if late.Load() > 0 {
			t.Fatalf("%d claims won after the switch", late.Load())
		}
		if _, err := stores[0].Enable(t.Context(), Everyone, "go on", "me"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShardingIsTheNamespaces: sidecars that would look for calls in different places do not share a prefix.
func TestShardingIsTheNamespaces(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	open := func(prefix, shard string) error {
		cfg := RedisConfig{Addrs: []string{s.Addr}, Prefix: prefix, Shard: shard}
		r, err := OpenRedis(t.Context(), RedisOptions{Options: Options{Config: EmbeddedConfig{Dir: t.TempDir(), Durability: "process"}}, Redis: cfg})
		if err == nil {
			err = r.Close(context.Background())
		}
		return err
	}
	s.Do("SET", "old:{old}:life", "abc") // of a version that knew one way
	for _, c := range []struct {
		prefix, shard string
		fits          bool
	}{
		{"a:", "agent", true}, {"a:", "namespace", false}, {"a:", "", false}, {"a:", "agent", true},
		{"n:", "", true}, {"n:", "agent", false}, {"n:", "namespace", true},
		{"old:", "agent", false}, {"old:", "namespace", true},
	} {
		err := open(c.prefix, c.shard)
		if fits := err == nil; fits != c.fits {
			t.Errorf("%s %q: %v", c.prefix, c.shard, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "store.redis.shard is ") || !strings.Contains(err.Error(), "write shard: ")) {
			t.Errorf("%v", err)
		}
	}
}

// TestShardingThatChangesUnderneath: a sidecar that runs takes no claims once the namespace is another's.
func TestShardingThatChangesUnderneath(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: 50 * time.Millisecond})[0]
	wonBy(t, r, "one", "x")
	s.Do("SET", r.base+"shard", "namespace")
	until(t, "it notices", func() bool { return r.Err() != nil })
	if _, err := r.Begin(t.Context(), claimOf("one", "y")); !errors.Is(err, dedup.ErrUnavailable) || !strings.Contains(err.Error(), "write shard: namespace") {
		t.Fatalf("%v", err)
	}
	s.Do("SET", r.base+"shard", "agent")
	until(t, "it goes on", func() bool { return r.Err() == nil })
	standsOf(t, r, "one", "y", dedup.Mine)
}

// TestWhoShardsOtherwiseNamesNoLife: a sidecar that was told that calls are sharded otherwise does not decide how they are
// once Redis has forgotten it: the others would see its calls no more than it sees theirs.
func TestWhoShardsOtherwiseNamesNoLife(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: time.Minute})[0]
	s.Do("SET", r.base+"shard", "namespace")
	if err := r.read(t.Context()); err == nil {
		t.Fatal("it takes part")
	}
	s.Do("FLUSHALL")
	if err := r.read(t.Context()); err == nil || s.Do("EXISTS", r.base+"shard") != int64(0) {
		t.Fatalf("%v; %v", err, s.Do("GET", r.base+"shard"))
	}
	s.Do("SET", r.base+"shard", "agent")
	s.Do("SET", r.base+"life", "abc")
	if err := r.read(t.Context()); err != nil {
		t.Fatal(err)
	}
}
