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

// redisTimeout bounds every command from when it is its turn, connecting included. Only tests under the race detector,
// where everything is slower, change it, and before anything begins.
var redisTimeout = 250 * time.Millisecond

// A lane has few connections: a command that finds one free goes at once, alone; the others wait for the next that
// comes free and go together. So batches grow with the load and nothing waits without need. What waits does so as long as
// the server answers: a queue of our own making is no failure of the server's. When the server does not, the queue is
// refused with the batch that found out.
const (
	laneConns    = 3
	laneBatch    = 128         // most commands written at once
	laneQueue    = 8192        // most that wait
	lanePatience = time.Second // longest wait
)

// errCrowded: the server answers, and more callers of this sidecar ask than it answers.
var errCrowded = errors.New("too many calls of this sidecar wait for Redis")

// counted is an error that says nothing new about the server: what came of the batch's first command, or of our own queue.
type counted struct{ error }

func (c counted) Unwrap() error { return c.error }

// request is one command on its way.
type request struct {
	tag    string // of its keys; empty: it has none
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
	heard time.Time    // when the server last answered on any of them; guarded by mu
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
	conn, err := l.enter(r)
	if err != nil {
		return nil, err
	}
	if conn == nil {
		return l.await(ctx, r)
	}
	r.taken.Store(true)
	bounded, cancel := context.WithTimeout(ctx, redisTimeout)
	conn.send(bounded, []*request{r}, l.replicas)
	cancel()
	if ctx.Err() == nil {
		l.judge(r.err)
	}
	l.leave(conn)
	return r.reply, r.err
}

// await is for a request in the queue.
func (l *lane) await(ctx context.Context, r *request) (any, error) {
	patience := time.NewTimer(lanePatience)
	defer patience.Stop()
	select {
	case <-r.done:
		return r.reply, r.err
	case <-patience.C:
		if r.taken.CompareAndSwap(false, true) {
			return nil, counted{notExecuted(errCrowded)}
		}
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return nil, notExecuted(ctx.Err())
		}
	}
	select { // it is on its way
	case <-r.done:
		return r.reply, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errLost, ctx.Err())
	}
}

// enter takes a free connection, or puts the request in the queue.
func (l *lane) enter(r *request) (*redisConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		conn := l.free[n-1]
		l.free = l.free[:n-1]
		return conn, nil
	}
	if len(l.queue) >= laneQueue {
		return nil, counted{notExecuted(errCrowded)}
	}
	l.queue = append(l.queue, r)
	return nil, nil
}

// hopeless says that what waits would fare no better: the server cannot be reached, does not answer or takes nothing.
func hopeless(err error) bool {
	return outage(err) && (errors.Is(err, errNotExecuted) || timedOut(err) || errors.Is(err, context.DeadlineExceeded))
}

// judge ends what waits when what came of a batch leaves it no hope: one that was not answered in time does not, as long
// as others are.
func (l *lane) judge(why error) {
	l.mu.Lock()
	if !outage(why) {
		l.heard = time.Now()
	}
	var queue []*request
	if hopeless(why) && time.Since(l.heard) > redisTimeout {
		queue, l.queue = l.queue, nil
	}
	l.mu.Unlock()
	for _, r := range claimed(queue) {
		r.err = counted{fmt.Errorf("%w: before it was its turn: %s", errNotExecuted, why)}
		close(r.done)
	}
}

// leave gives the connection back, or to what waits.
func (l *lane) leave(conn *redisConn) {
	if batch := l.next(conn); batch != nil {
		go l.drain(conn, batch)
	}
}

func (l *lane) drain(conn *redisConn, batch []*request) {
	for ; batch != nil; batch = l.next(conn) {
		if batch = claimed(batch); len(batch) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
		conn.send(ctx, batch, l.replicas)
		cancel()
		l.judge(batch[0].err)
		for i, r := range batch {
			if i > 0 && outage(r.err) {
				r.err = counted{r.err}
			}
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
