package proxy

import (
	"strconv"
	"sync"
	"time"
)

// Bodies that are being read are kept in memory, and a sender may take its time. All connections together hold no more
// than this of them; a request that finds no room within bodyPatience is told 503 overloaded. The beginnings of bodies
// have room of their own, so that large bodies that stall do not stop small calls.
const (
	smallBudget  = 64 << 20  // of the first bodyBuffer bytes of each body
	largeBudget  = 128 << 20 // of all bytes behind them; one larger body may have it alone
	bodyPatience = time.Second
)

// budget is a number of bytes that requests share. Its zero value has lent none.
type budget struct {
	mu    sync.Mutex
	lent  int64
	freed chan struct{} // closed when something was given back; nil while nobody waits
}

// take lends n bytes of size, waiting for them until patience is over.
func (b *budget) take(n, size int64, patience time.Duration) bool {
	var over <-chan time.Time
	for {
		freed := b.try(n, size)
		if freed == nil {
			return true
		}
		if over == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-freed:
		case <-over:
			return false
		}
	}
}

// try lends n bytes, or returns what tells that others gave some back.
func (b *budget) try(n, size int64) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lent+n <= size {
		b.lent += n
		return nil
	}
	if b.freed == nil {
		b.freed = make(chan struct{})
	}
	return b.freed
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent -= n
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// hold makes sure of room for the first n bytes of the body that is being read.
func (c *conn) hold(n int64) *fault {
	small, large := min(n, bodyBuffer), min(max(n-bodyBuffer, 0), largeBudget)
	if more := small - c.small; more > 0 {
		if !c.s.small.take(more, smallBudget, bodyPatience) {
			return noRoom(smallBudget)
		}
		c.small = small
	}
	if more := large - c.large; more > 0 {
		if !c.s.large.take(more, largeBudget, bodyPatience) {
			return noRoom(largeBudget)
		}
		c.large = large
	}
	return nil
}

// release gives back what hold took: the body is whole, or will not be.
func (c *conn) release() {
	if c.small > 0 {
		c.s.small.give(c.small)
	}
	if c.large > 0 {
		c.s.large.give(c.large)
	}
	c.small, c.large = 0, 0
}

func noRoom(size int64) *fault {
	return &fault{"overloaded", "The bodies of requests that are being read fill the " + strconv.FormatInt(size>>20, 10) + " MiB that there are for them."}
}
