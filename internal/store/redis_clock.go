package store

import (
	"sync"
	"sync/atomic"
	"time"
)

// serverClock estimates the server's clock, never behind it by more than clocks drift apart between two answers, and
// notices when it is set.
type serverClock struct {
	offset atomic.Int64 // microseconds; the server's clock less ours when the question was sent
	still  atomic.Int64 // microseconds; what the store's time, which never goes back, is ahead of the server's clock

	mu   sync.Mutex
	seen bool          // an answer; guarded by mu
	wall time.Duration // the server's clock less this machine's wall clock, at the last answer; guarded by mu
	at   time.Time     // of the last jump; guarded by mu
	by   time.Duration // the same
}

var clockStart = time.Now()

// jumpFrom is how far a clock must be set to be told of.
const jumpFrom = time.Minute

// learn takes what the server's clock said in the answer to a question sent then, and returns by how much it was set since
// the last one. What the way back took makes the estimate late, never early.
func (c *serverClock) learn(sent time.Time, v *verdict) (set time.Duration) {
	now := time.Now()
	wall := time.UnixMicro(v.wall).Sub(now.Round(0))
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.offset.Swap(v.wall - sent.Sub(clockStart).Microseconds())
	c.still.Store(v.now.UnixMicro() - v.wall)
	beside := wall - c.wall // a machine that slept has lost real time, one whose own clock was set has not
	steady := time.Duration(c.offset.Load()-old) * time.Microsecond
	if c.seen && beside.Abs() > jumpFrom && steady.Abs() > jumpFrom {
		c.at, c.by, set = now, beside, beside
	}
	c.seen, c.wall = true, wall
	return set
}

func (c *serverClock) now() int64 { return time.Since(clockStart).Microseconds() + c.offset.Load() }

// facts are what people should know of the server's clock, when it is not as it should be.
func (c *serverClock) facts(ahead time.Duration) (lines []string) {
	c.mu.Lock()
	at, by := c.at, c.by
	c.mu.Unlock()
	if !at.IsZero() {
		lines = append(lines, "was set by "+by.Round(time.Second).String()+" at "+at.UTC().Format(time.RFC3339))
	}
	if still := time.Duration(c.still.Load())*time.Microsecond - ahead; still > jumpFrom {
		lines = append(lines, "is "+still.Round(time.Second).String()+" behind the store's time, which stands still until then: windows and budgets last longer")
	}
	return lines
}
