package journal

import (
	"sync"
	"sync/atomic"
	"time"
)

const jumpFrom = time.Minute

// clock is the journal's time: the wall clock's, but it never goes back.
type clock struct {
	last atomic.Int64 // Unix, ns

	mu   sync.Mutex
	wall time.Time // at the last look; guarded by mu
	mono time.Time // real time at the last look, for its monotonic reading; guarded by mu
	jump Jump      // guarded by mu
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

// look compares the wall clock with the monotonic one and returns a jump that is new.
func (c *clock) look(now time.Time) (j Jump, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, mono := c.wall, c.mono
	c.wall, c.mono = now.Round(0), time.Now()
	if mono.IsZero() { // the first look since the start: all there is to compare with is what was written
		if back := time.Duration(c.last.Load() - now.UnixNano()); back > jumpFrom {
			c.jump, found = Jump{At: time.Unix(0, c.last.Load()).UTC(), By: -back}, true
		}
		return c.jump, found
	}
	if by := c.wall.Sub(wall) - c.mono.Sub(mono); by.Abs() > jumpFrom {
		c.jump, found = Jump{At: time.Unix(0, c.tick(now)).UTC(), By: by}, true
	}
	return c.jump, found
}

func (c *clock) jumped() Jump {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jump
}

// watch logs each jump once.
func (j *Journal) watch() {
	if jump, found := j.clock.look(j.opt.Now()); found {
		j.opt.Logf("journal: the clock has jumped by %v; journal time is %v and never goes back", jump.By, jump.At)
	}
}

// Now is the journal's time, UTC: the wall clock's, but never earlier than any time it gave or wrote before.
func (j *Journal) Now() time.Time { return time.Unix(0, j.clock.tick(j.opt.Now())).UTC() }
