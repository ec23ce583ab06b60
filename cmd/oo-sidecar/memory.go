package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	collectAt  = 400      // percent of what is live: little is, and collecting at every doubling costs a tenth of the processor under load
	memoryGoal = 64 << 20 // of bytes that Go holds; a thousand tunnels then fit into 100 MB with all else
	tendMemory = time.Second
)

// tend keeps the process small until ctx ends: it collects rarely while that fits into memoryGoal, then as often as that
// takes, and at every doubling of what is live where even that is more.
func tend(ctx context.Context) {
	debug.SetGCPercent(collectAt)
	debug.SetMemoryLimit(memoryGoal)
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	tick := time.NewTicker(tendMemory)
	defer tick.Stop()
	for limit := int64(memoryGoal); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		if next := wanted(sample[0].Value.Uint64(), sample[1].Value.Uint64()); next != limit {
			limit = next
			debug.SetMemoryLimit(limit)
		}
	}
}

// wanted is the limit for so many live bytes and bytes of stacks; the rest is what the runtime holds for itself.
func wanted(live, stacks uint64) int64 { return max(memoryGoal, int64(2*live+stacks)+16<<20) }
