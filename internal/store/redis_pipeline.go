package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// redisTimeout bounds every command, connecting and following redirects included.
const redisTimeout = 250 * time.Millisecond

// A lane has few connections: a command that finds one free goes at once, alone; the others wait for the next that
// comes free and go together. So batches grow with the load and nothing waits without need.
const (
	laneConns = 3
	laneBatch = 128 // most commands written at once
)

// request is one command on its way.
type request struct {
	args   []any
	asking bool // to a node that is taking the slot over

	taken atomic.Bool   // by who sends it, or by its caller giving up: the first wins
	done  chan struct{} // closed once reply and err are there
	reply any
	err   error
}

// lane is the way to one node for commands of one kind.
type lane struct {
	node     *redisNode
	replicas int // that every batch waits for
	all      []*redisConn

	mu    sync.Mutex
	free  []*redisConn // guarded by mu; the last used is taken first
	queue []*request   // guarded by mu; empty while a connection is free
}

func newLane(n *redisNode, replicas int) *lane {
	l := &lane{node: n, replicas: replicas}
	for range laneConns {
		l.all = append(l.all, newRedisConn(n, n.dial.options(n.addr)))
	}
	l.free = slices.Clone(l.all)
	return l
}

// close ends its connections, those in use too.
func (l *lane) close() error {
	var errs []error
	for _, c := range l.all {
		errs = append(errs, c.client.Close())
	}
	return errors.Join(errs...)
}

// send carries the request to the node and its answer back.
func (l *lane) send(ctx context.Context, r *request) (any, error) {
	r.done = make(chan struct{})
	if conn := l.enter(r); conn != nil {
		r.taken.Store(true)
		conn.send(ctx, []*request{r}, l.replicas)
		l.leave(conn)
		return r.reply, r.err
	}
	select {
	case <-r.done:
		return r.reply, r.err
	case <-ctx.Done():
	}
	if r.taken.CompareAndSwap(false, true) {
		return nil, notExecuted(ctx.Err())
	}
	return nil, fmt.Errorf("%w: %w", errLost, ctx.Err())
}

// enter takes a free connection, or puts the request in the queue.
func (l *lane) enter(r *request) *redisConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		conn := l.free[n-1]
		l.free = l.free[:n-1]
		return conn
	}
	l.queue = append(l.queue, r)
	return nil
}

// leave gives the connection back, or to what waits.
func (l *lane) leave(conn *redisConn) {
	if batch := l.next(conn); batch != nil {
		go l.drain(conn, batch)
	}
}

func (l *lane) drain(conn *redisConn, batch []*request) {
	for ; batch != nil; batch = l.next(conn) {
		batch = claimed(batch)
		ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
		conn.send(ctx, batch, l.replicas)
		cancel()
		for _, r := range batch {
			close(r.done)
		}
	}
}

// next takes what waits; nil when nothing does and the connection is free again.
func (l *lane) next(conn *redisConn) []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.free = append(l.free, conn)
		return nil
	}
	n := min(len(l.queue), laneBatch)
	batch := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return batch
}

// claimed are the requests whose callers have not given up.
func claimed(batch []*request) []*request {
	kept := batch[:0]
	for _, r := range batch {
		if r.taken.CompareAndSwap(false, true) {
			kept = append(kept, r)
		}
	}
	return kept
}
