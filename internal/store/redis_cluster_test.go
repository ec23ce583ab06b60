package store

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestASlotMovesUnderLoad moves the namespace's slot from node to node, key by key, while three sidecars run calls, each
// asked for four times: nothing runs twice, nothing is counted twice, and nothing stays open.
func TestASlotMovesUnderLoad(t *testing.T) {
	cl := redistest.StartCluster(t, "--appendonly", "no")
	f := newFleet(sidecars(t, 3, RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Hold: 200 * time.Millisecond}))
	r := f.stores[0]
	fence := r.base + "fence"
	stop := f.load(t)
	for range 3 {
		before := f.ran()
		until(t, "calls run", func() bool { return f.ran() > before+50 })
		from, to := cl.Owner(fence)
		cl.BeginMove(fence, from, to)
		time.Sleep(200 * time.Millisecond)
		if name := r.home.damage.Load(); name != nil && *name != "" {
			t.Errorf("a slot that moves is no damage to %s", *name)
		}
		for _, set := range []string{"unknown", "open", "switch", "life", "h:default:a"} {
			cl.MoveKeys(from, to, r.base+set)
			time.Sleep(100 * time.Millisecond)
		}
		if name := r.home.damage.Load(); name != nil && *name != "" {
			t.Errorf("a slot that moves is no damage to %s", *name)
		}
		cl.EndMove(fence, from, to)
	}
	before := f.ran()
	until(t, "calls run again", func() bool { return f.ran() > before+50 })
	stop()
	f.once(t)
	until(t, "nothing is open", func() bool { return len(r.Open()) == 0 })
	if u := r.Usage("default", "a", "pay"); u.HourCalls != u.ToolCalls || u.ToolCalls < int64(f.ran()) {
		t.Errorf("%d calls ran, and %+v is counted", f.ran(), u)
	}
	t.Logf("%d calls ran, %d callers were refused", f.ran(), f.away)
}

// TestClusterFailover takes the master of the namespace's slot away under load, killed and frozen in turn. With a claim on
// the one replica before it counts no call is executed twice; without it the count is reported.
func TestClusterFailover(t *testing.T) {
	rounds, waits := 2, []int{1}
	if os.Getenv("OO_SOAK") != "" {
		rounds, waits = 20, []int{1, 0}
	}
	for _, wait := range waits {
		t.Run(fmt.Sprintf("wait for %d", wait), func(t *testing.T) {
			cl := redistest.StartReplicatedCluster(t, 1, "--appendonly", "no")
			f := newFleet(sidecars(t, 3, RedisConfig{Mode: "cluster", Addrs: cl.Addrs()[:3], WaitReplicas: wait}))
			stop := f.load(t)
			for i := range rounds {
				time.Sleep(loadBetween)
				cl.Failover(f.stores[0].base+"fence", i%2 == 1)
			}
			time.Sleep(loadBetween)
			stop()
			f.outlived(t, rounds, wait > 0)
		})
	}
}
