package proxy

import (
	"sync"
	"time"
)

// Bounds of the connections that are kept for the next request.
const (
	// Servers commonly close after five seconds of silence. A request that crosses such a close on the way is an
	// unknown outcome, so ours are given up before that.
	idleTime     = 4 * time.Second
	lifetime     = 5 * time.Minute // so that a change of DNS is followed
	idlePerHost  = 256
	idleTogether = 1024
)

// pool keeps idle connections, the latest used first. It only ever hands out what nothing has been read from or written
// to since the answer before was whole; whether anything has arrived meanwhile its taker must look.
type pool struct {
	mu     sync.Mutex
	idle   map[backend][]*link // guarded by mu; oldest first
	count  int                 // guarded by mu; of all backends
	closed bool                // guarded by mu
	sweep  *time.Timer         // guarded by mu; nil while nothing is idle
}

// backend is whom a connection speaks to: connections of one are interchangeable but for the rules they were judged by.
type backend struct {
	https     bool
	authority string
}

// take gives the connection used last, or nil.
func (p *pool) take(to backend, now time.Time) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		all := p.idle[to]
		if len(all) == 0 {
			return nil
		}
		c := all[len(all)-1]
		all[len(all)-1] = nil
		p.idle[to] = all[:len(all)-1]
		p.count--
		if now.Before(c.expires) {
			return c
		}
		c.close()
	}
}

// put keeps c for another request, or closes it. Nobody else may hold it.
func (p *pool) put(c *link, now time.Time) {
	c.expires = now.Add(min(idleTime, c.patience))
	if end := c.born.Add(lifetime); end.Before(c.expires) {
		c.expires = end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle[c.to]
	if p.closed || !now.Before(c.expires) || len(all) >= idlePerHost || p.count >= idleTogether {
		c.close()
		return
	}
	if p.idle == nil {
		p.idle = map[backend][]*link{}
	}
	p.idle[c.to] = append(all, c)
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTime, p.clean)
	}
}

// clean closes what has been idle for too long, and comes again while anything is left.
func (p *pool) clean() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for to, all := range p.idle {
		kept := all[:0]
		for _, c := range all {
			if now.Before(c.expires) {
				kept = append(kept, c)
			} else {
				c.close()
				p.count--
			}
		}
		clear(all[len(kept):])
		p.idle[to] = kept
		if len(kept) == 0 {
			delete(p.idle, to)
		}
	}
	p.sweep = nil
	if p.count > 0 && !p.closed {
		p.sweep = time.AfterFunc(idleTime, p.clean)
	}
}

// close closes what is idle, and what is given back from now on.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, all := range p.idle {
		for _, c := range all {
			c.close()
		}
	}
	p.idle, p.count = nil, 0
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
}
