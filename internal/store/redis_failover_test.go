package store

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// TestFailover kills the master under load, again and again, and counts the calls that were executed twice. None may be
// where every replica that can be promoted has each claim; elsewhere the count is reported.
func TestFailover(t *testing.T) {
	t.Parallel()
	rounds, sets := 1, []struct{ replicas, wait int }{{1, 1}, {1, 0}, {2, 2}, {2, 1}}
	switch {
	case os.Getenv("OO_SOAK") != "":
		rounds = 20
	case os.Getenv("CI") == "true":
		rounds = 3
	default:
		sets = sets[:1]
	}
	for _, set := range sets {
		t.Run(fmt.Sprintf("%d replicas, wait for %d", set.replicas, set.wait), func(t *testing.T) {
			t.Parallel()
			w := redistest.StartSentinel(t, set.replicas, "--appendonly", "no")
			cfg := RedisConfig{Mode: "sentinel", Addrs: w.Sentinels, SentinelMaster: w.Name, WaitReplicas: set.wait}
			f := newFleet(sidecars(t, 3, cfg))
			stop := f.load(t)
			for range rounds {
				time.Sleep(loadBetween)
				w.Failover()
			}
			time.Sleep(loadBetween)
			stop()
			f.outlived(t, rounds, set.wait >= set.replicas)
		})
	}
}

// loadBetween failovers is longer than new claims are held after one.
const loadBetween = 3 * time.Second

// load runs calls at all sidecars, each asked for again by others at once and later, until it is stopped.
func (f *fleet) load(t *testing.T) (stop func()) {
	done := make(chan struct{})
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				i := int(next.Add(1))
				f.call(t, i, fmt.Sprint("x", i/4), 2*time.Millisecond)
				if i > 2000 && i%2 == 0 {
					f.call(t, i+1, fmt.Sprint("x", (i-2000)/4), 0)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return func() {
		close(done)
		wg.Wait()
	}
}

// outlived tells what so many failovers did to a fleet's calls. none: not one may have been executed twice.
func (f *fleet) outlived(t *testing.T, rounds int, none bool) {
	t.Helper()
	twice := 0
	for _, n := range f.executed {
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d failovers: of %d calls %d were executed twice, %d were told as possibly so; %d callers were refused", rounds, len(f.executed), twice, f.moved, f.away)
	if none && twice+f.moved > 0 {
		t.Errorf("%d calls were executed twice, %d possibly", twice, f.moved)
	}
	if len(f.executed) < 100 {
		t.Errorf("only %d calls came through", len(f.executed))
	}
}
