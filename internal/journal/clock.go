package journal

import (
	"sync/atomic"
	"time"
)

// clock is the journal's time: the wall clock's, but it never goes back.
type clock struct {
	last atomic.Int64 // Unix, ns
}

// tick is the time at the wall clock's now.
func (c *clock) tick(now time.Time) int64 {
	n := now.UnixNano()
	for {
		last := c.last.Load()
		if n <= last {
			return last
		}
		if c.last.CompareAndSwap(last, n) {
			return n
		}
	}
}

// Now is the journal's time, UTC: the wall clock's, but never earlier than any time it gave or wrote before.
func (j *Journal) Now() time.Time { return time.Unix(0, j.clock.tick(j.opt.Now())).UTC() }
