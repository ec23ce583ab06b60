package store

import (
	"container/list"
	"sync"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// cache keeps the ended calls that were asked for last, up to a number of bytes. It may be used from any goroutine.
type cache struct {
	limit int

	mu    sync.Mutex
	bytes int                                // guarded by mu
	order *list.List                         // of *cached, the last used first; guarded by mu
	at    map[journal.Location]*list.Element // guarded by mu
}

type cached struct {
	at   journal.Location
	call *endedCall
}

func newCache(limit int) *cache {
	return &cache{limit: limit, order: list.New(), at: map[journal.Location]*list.Element{}}
}

func (c *cache) get(l journal.Location) *endedCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[l]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).call
}

func (c *cache) add(l journal.Location, call *endedCall) {
	if l == (journal.Location{}) || call.cost() > c.limit/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[l] != nil {
		return
	}
	c.at[l] = c.order.PushFront(&cached{l, call})
	for c.bytes += call.cost(); c.bytes > c.limit; {
		last := c.order.Remove(c.order.Back()).(*cached)
		delete(c.at, last.at)
		c.bytes -= last.call.cost()
	}
}

func (c *cache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
