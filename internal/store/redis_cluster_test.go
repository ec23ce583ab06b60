package store

import (
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
		if name := r.damage.Load(); name != nil && *name != "" {
			t.Errorf("a slot that moves is no damage to %s", *name)
		}
		for _, set := range []string{"unknown", "open", "switch", "life", "h:default:a"} {
			cl.MoveKeys(from, to, r.base+set)
			time.Sleep(100 * time.Millisecond)
		}
		if name := r.damage.Load(); name != nil && *name != "" {
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
