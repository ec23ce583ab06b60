package proxy

import (
	"strconv"
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

// hold makes sure of room for the first n bytes of the body that is being read.
func (c *conn) hold(n int64) *fault {
	small, large := min(n, bodyBuffer), min(max(n-bodyBuffer, 0), largeBudget)
	if more := small - c.small; more > 0 {
		if !c.s.small.Take(more, smallBudget, bodyPatience) {
			return noRoom(smallBudget)
		}
		c.small = small
	}
	if more := large - c.large; more > 0 {
		if !c.s.large.Take(more, largeBudget, bodyPatience) {
			return noRoom(largeBudget)
		}
		c.large = large
	}
	return nil
}

// release gives back what hold took: the body is whole, or will not be.
func (c *conn) release() {
	if c.small > 0 {
		c.s.small.Give(c.small)
	}
	if c.large > 0 {
		c.s.large.Give(c.large)
	}
	c.small, c.large = 0, 0
}

func noRoom(size int64) *fault {
	return &fault{"overloaded", "The bodies of requests that are being read fill the " + strconv.FormatInt(size>>20, 10) + " MiB that there are for them."}
}
