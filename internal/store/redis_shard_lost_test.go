package store

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// TestADamagedShard: what somebody else wrote over an agent's switch keeps that agent's claims away, and nobody else's.
func TestADamagedShard(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Hold: 100 * time.Millisecond})[0]
	for _, agent := range []string{"one", "two"} {
		wonBy(t, r, agent, "x")
	}
	key := r.shardOf("one").base + "switch"
	s.Do("SET", key, "what is this")
	if err := claims(r, "one", "y"); !errors.Is(err, dedup.ErrUnavailable) || !strings.Contains(err.Error(), "DEL '"+key+"'") {
		t.Fatalf("%v", err)
	}
	if err := claims(r, "two", "y"); err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), key) {
		t.Fatalf("%v", err)
	}
	s.Do("DEL", key)
	until(t, "it is well again", func() bool { return r.Err() == nil })
	standsOf(t, r, "one", "y", dedup.Mine)
	s.Do("DEL", r.base+"shards")
	s.Do("SET", r.base+"shards", "what is this")
	if err := claims(r, "three", "x"); !errors.Is(err, dedup.ErrUnavailable) || !strings.Contains(err.Error(), "DEL '"+r.base+"shards'") {
		t.Fatalf("%v", err)
	}
	s.Do("DEL", r.base+"shards")
	standsOf(t, r, "three", "x", dedup.Mine)
	life := r.shardOf("one").base + "life"
	s.Do("DEL", life)
	s.Do("LPUSH", life, "what is this") // what is no name gives way
	standsOf(t, r, "one", "z", dedup.Mine)
}

// TestAShardThatForgot: what one master's data loses is noticed, also by a sidecar that never was in that shard, and given back.
func TestAShardThatForgot(t *testing.T) {
	cl := redistest.StartCluster(t)
	stores := sidecars(t, 3, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent"})
	a, b, never := stores[0], stores[1], stores[2]
	agents := agentsOn(t, cl, a)
	for i, agent := range agents {
		_, mine := wonBy(t, a, agent, "x")
		standsOf(t, b, agent, "x", dedup.InFlight)
		cl.Nodes[i].Do("FLUSHALL")
		for _, r := range []*Redis{never, b} {
			if got := standsOf(t, r, agent, "x", dedup.InFlight); got.Fence != mine.Fence {
				t.Fatalf("%s: %+v", agent, got)
			}
		}
	}
}

// TestAShardThatWasListedAnewIsHeld: others have just noticed that a shard forgot what it held, and its holders may not
// have said it again yet.
func TestAShardThatWasListedAnewIsHeld(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Hold: time.Minute})[0]
	now := time.Now()
	for _, c := range []struct {
		agent string
		since int64 // when the shard was listed
		held  bool
	}{{"first listed", 0, false}, {"just listed anew", now.UnixMicro(), true}, {"listed anew long ago", now.Add(-2 * time.Minute).UnixMicro(), false}} {
		in := r.shardOf(c.agent)
		s.Do("HSET", r.base+"shards", url.QueryEscape(c.agent), fmt.Sprint("name ", c.since))
		s.Do("SET", in.base+"life", "name")
		if err := r.join(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if held := in.heldTill.Load() > int64(time.Since(processStart)+30*time.Second); held != c.held {
			t.Errorf("%s: held %t", c.agent, held)
		}
	}
}

// TestFlushByAgentUnderLoad is TestFlushUnderLoad with a slot for each of some agents.
func TestFlushByAgentUnderLoad(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Poll: time.Second})
	f := newFleet(stores)
	f.claim = func(name string) *dedup.Claim {
		return claimOf(fmt.Sprint("agent", len(name)%5, name[len(name)-1:]), name)
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	begin := time.Now()
	for range 24 {
		wg.Go(func() {
			for time.Since(begin) < 9*time.Second {
				i := int(next.Add(1))
				f.call(t, i, fmt.Sprint("x", i/6), 700*time.Millisecond)
			}
		})
	}
	for range 2 {
		time.Sleep(3 * time.Second)
		s.Do("FLUSHALL")
	}
	wg.Wait()
	f.once(t)
	if len(f.executed) < 15 {
		t.Errorf("only %d calls came through", len(f.executed))
	}
	t.Logf("%d calls, %d callers were refused", len(f.executed), f.away)
}

// TestHeirsInTwoShards: a process that died leaves what it had open unknown on each master, and what ended late arrives.
func TestHeirsInTwoShards(t *testing.T) {
	cl := redistest.StartCluster(t)
	stores := sidecars(t, 2, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent"})
	r, other := stores[0], stores[1]
	agents := agentsOn(t, cl, r)[:2]
	var late []*dedup.End
	for _, agent := range agents {
		wonBy(t, r, agent, "open")
		c, mine := wonBy(t, r, agent, "late")
		late = append(late, storetest.Ending(c, mine, dedup.Done))
	}
	for _, n := range cl.Nodes {
		n.Pause()
	}
	for _, e := range late {
		if err := r.Finish(t.Context(), e); !errors.Is(err, dedup.ErrDeferred) {
			t.Fatal(err)
		}
	}
	opt := r.opt
	opt.Config.Dir = journalCopy(t, opt.Config.Dir)
	_ = r.client.close() // the dead say nothing
	for _, n := range cl.Nodes {
		n.Resume()
	}
	next := joinRedis(t, opt)
	next.Await(func() {})
	for _, agent := range agents {
		standsOf(t, other, agent, "late", dedup.Replay)
		until(t, "what was open is unknown", func() bool {
			b, err := other.Begin(t.Context(), claimOf(agent, "open"))
			return err == nil && b.Status == dedup.Blocked
		})
	}
	if list, err := next.ListUnknowns(); err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	if next.own.pending() {
		t.Error("something waits still")
	}
}

// TestAHolderLivesInEveryShard: a call that runs for longer than its holder's sign of life stands, while its agent's shard
// is not used otherwise.
func TestAHolderLivesInEveryShard(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent"})
	a, b := stores[0], stores[1]
	wonBy(t, a, "one", "x")
	in := a.shardOf("one")
	in.used.Store(-int64(idleAfter)) // long ago
	key := in.base + "i:" + a.instance
	for range 3 {
		s.Do("DEL", key)
		until(t, "it is seen to live", func() bool { return s.Do("EXISTS", key) == int64(1) })
	}
	standsOf(t, b, "one", "x", dedup.InFlight)
	_ = a.client.close()
	s.Do("DEL", key)
	until(t, "somebody who was never asked for it finds it unknown", func() bool { return b.UnknownCount() == 1 })
}

// TestOneMasterAway: the agents of the others go on.
func TestOneMasterAway(t *testing.T) {
	cl := redistest.StartCluster(t, "--cluster-require-full-coverage", "no")
	r := sidecars(t, 1, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent", Hold: 100 * time.Millisecond})[0]
	agents := agentsOn(t, cl, r)
	for _, agent := range agents {
		wonBy(t, r, agent, "before")
	}
	home, _ := cl.Owner(r.base + "fence")
	gone := 0
	for cl.Nodes[gone] == home {
		gone++
	}
	cl.Nodes[gone].Pause()
	until(t, "its agent is refused", func() bool {
		_, err := r.Begin(t.Context(), claimOf(agents[gone], "during"))
		return errors.Is(err, dedup.ErrUnavailable)
	})
	for i, agent := range agents {
		if i != gone {
			wonBy(t, r, agent, "during")
		}
	}
	until(t, "it says so", func() bool { return r.Err() != nil })
	if _, err := r.ListUnknowns(); !errors.Is(err, dedup.ErrUnavailable) {
		t.Errorf("the list is said to be whole: %v", err)
	}
	cl.Nodes[gone].Resume()
	standsOf(t, r, agents[gone], "before", dedup.InFlight)
	until(t, "it is well again", func() bool { return r.Err() == nil })
	home.Pause() // what is shared is away: an agent that is known elsewhere goes on, and its calls are seen to live
	until(t, "it is not well", func() bool { return r.Err() != nil })
	wonBy(t, r, agents[gone], "without the namespace's own")
	in := r.shardOf(agents[gone])
	in.joined.Store(false)
	cl.Nodes[gone].Do("DEL", in.base+"i:"+r.instance)
	until(t, "it is seen to live", func() bool { return cl.Nodes[gone].Do("EXISTS", in.base+"i:"+r.instance) == int64(1) })
	if _, err := r.Begin(t.Context(), claimOf(agents[gone], "not known there")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	home.Resume()
	standsOf(t, r, agents[gone], "not known there", dedup.Mine)
}

// TestFailoverOfOneMaster kills one master of a cluster under load by agents of all three, with wait_replicas for its one
// replica: nothing is executed twice, and the agents of the others go on meanwhile.
func TestFailoverOfOneMaster(t *testing.T) {
	cl := redistest.StartReplicatedCluster(t, 1, "--appendonly", "no", "--cluster-require-full-coverage", "no")
	stores := sidecars(t, 3, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent", WaitReplicas: 1})
	agents := agentsOn(t, cl, stores[0])
	f := newFleet(stores)
	f.claim = func(name string) *dedup.Claim { return claimOf(agents[int(name[len(name)-1])%3], name) }
	home, _ := cl.Owner(stores[0].base + "fence")
	gone := 0
	for cl.Nodes[gone] == home {
		gone++
	}
	var mine dedup.Begun
	until(t, "a replica is quick enough for a claim", func() bool {
		var err error
		mine, err = stores[0].Begin(t.Context(), claimOf(agents[gone], "held"))
		return err == nil && mine.Status == dedup.Mine
	})
	stop := f.load(t)
	time.Sleep(time.Second)
	for _, frozen := range []bool{false, true} {
		time.Sleep(loadBetween)
		cl.Failover(stores[0].shardOf(agents[gone]).base+"fence", frozen)
	}
	time.Sleep(loadBetween)
	stop()
	f.once(t)
	t.Logf("of %d calls none was executed twice; %d callers were refused", len(f.executed), f.away)
	if len(f.executed) < 100 {
		t.Errorf("only %d calls came through", len(f.executed))
	}
	for _, r := range stores {
		if got := standsOf(t, r, agents[gone], "held", dedup.InFlight); got.Fence != mine.Fence {
			t.Errorf("%+v", got)
		}
	}
	standsOf(t, stores[1], agents[gone], "new", dedup.Mine)
}

// TestAShardIsFirstUsedAfterAFailover: a sidecar that never was in a shard goes by what it has seen of the servers. Where the
// one that answers now lost all, or only the last claims, whoever holds one says so before the newcomer may claim.
func TestAShardIsFirstUsedAfterAFailover(t *testing.T) {
	for _, lost := range []string{"all", "the claim"} {
		s := redistest.Start(t, "--appendonly", map[string]string{"all": "no", "the claim": "yes"}[lost])
		stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent", Hold: 4 * time.Second})
		a, once, never := stores[0], stores[1], stores[2]
		c, mine := wonBy(t, a, "one", "x")
		standsOf(t, once, "one", "x", dedup.InFlight)
		if lost != "all" {
			in := a.shardOf("one").base
			s.Do("DEL", in+"k:"+keyText(c.Keys[0].Key), fmt.Sprint(in, "r:", mine.Fence))
		}
		s.Kill()
		s.Restart()
		var asked sync.WaitGroup
		for _, r := range []*Redis{never, once} {
			asked.Go(func() {
				b, err := r.Begin(t.Context(), claimOf("one", "x"))
				for errors.Is(err, dedup.ErrUnavailable) {
					b, err = r.Begin(t.Context(), claimOf("one", "x"))
				}
				if err != nil || b.Status != dedup.InFlight || b.Fence != mine.Fence {
					t.Errorf("lost is %s: %+v, %v", lost, b, err)
				}
			})
		}
		asked.Wait()
	}
}

// TestManyShardsAreToldAtOnce: a thousand agents of a master that does not answer are waited for together, so that the
// others' signs of life, and their copies of the switch, come in time.
func TestManyShardsAreToldAtOnce(t *testing.T) {
	const many = 1000
	inside, all := atomic.Int64{}, make(chan struct{})
	err := each(make([]*redisShard, many), tellsAtOnce, func(*redisShard) error {
		if inside.Add(1) == many {
			close(all)
		}
		select {
		case <-all:
			return nil
		case <-time.After(20 * time.Second):
			return errors.New("it waits for others that wait")
		}
	})
	if err != nil {
		t.Fatal(inside.Load(), "at once")
	}
}
