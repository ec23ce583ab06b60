package audit

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Write hands an encoded record to whatever keeps it. It may not keep the bytes after it has returned.
type Write func(ctx context.Context, record []byte) error

// Log takes the records of requests whose record is not written by the store in the same step as an outcome:
// refusals, replays, reads and tunnels. While the store takes none it keeps them in memory, up to a bound, writes them
// first when it does again, and has the trail say how many were lost. Its methods may be called from many goroutines.
type Log struct {
	Change func(*Change) error // writes what the log says of itself, also where little space is left; may be nil
	Scarce func() bool         // the space that is left is for claims and outcomes; may be nil
	Again  func(lost int64)    // called when what waited is written, with the number of requests whose record was lost; may be nil

	write   Write
	failed  func(error) // called for every record that could not be written at once
	backlog backlog

	flushing sync.Mutex // held while what the timer took is written; taken before mu

	mu       sync.Mutex
	agents   map[string]*refusals // guarded by mu
	flush    *time.Timer          // pending while a shared record waits; guarded by mu
	flushAt  time.Time            // guarded by mu
	closed   bool                 // nothing is shared any more; guarded by mu
	scarce   bool                 // the last answer of Scarce; guarded by mu
	scarceAt time.Time            // when it was asked; guarded by mu
}

// NewLog makes a log that writes through write and tells failed, which may be nil, of each record that had to wait in
// memory or was lost. Change, Scarce and Again are set before the first record.
func NewLog(write Write, failed func(error)) *Log {
	if failed == nil {
		failed = func(error) {}
	}
	return &Log{write: write, failed: failed, agents: map[string]*refusals{}}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Append writes the record, or adds it to the one that its agent's refusals share, which is written within a minute.
func (l *Log) Append(r *Record) {
	ctx := context.Background() // a record is written also when its request has gone
	if r.Decision == "blocked" {
		shared, due := l.share(r)
		if due != nil {
			l.put(ctx, due)
		}
		if shared {
			return
		}
	}
	l.put(ctx, r)
}

// Close writes what waits and returns how many requests leave no record, because the store takes none. Records appended
// later are written at once.
func (l *Log) Close(ctx context.Context) (lost int64) {
	l.mu.Lock()
	l.closed = true
	if l.flush != nil {
		l.flush.Stop()
		l.flush = nil
	}
	due := l.take(time.Time{})
	l.mu.Unlock()
	l.put(ctx, due...)
	l.flushing.Lock() // the timer may have taken some before
	defer l.flushing.Unlock()
	return l.abandon(ctx)
}

// share counts a refusal, says whether it went into a shared record, and returns the agent's shared record of a window
// that is over.
func (l *Log) share(r *Record) (shared bool, due *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, nil
	}
	now := time.Now()
	a := l.agent(r.AgentID, now)
	due = a.due(now)
	if !a.share(now, l.short(now)) {
		return false, due
	}
	a.shared = merge(a.shared, r)
	l.arm(now, a.until)
	return true, due
}

// agent is what is remembered of an agent. Call it with mu held.
func (l *Log) agent(id string, now time.Time) *refusals {
	a := l.agents[id]
	if a == nil {
		if len(l.agents) >= maxAgents {
			l.forget(now)
		}
		a = &refusals{}
		l.agents[id] = a
	}
	return a
}

// forget makes room for other agents: those that are quiet go, and if all are busy those without a shared record. Call
// it with mu held.
func (l *Log) forget(now time.Time) {
	maps.DeleteFunc(l.agents, func(_ string, a *refusals) bool { return a.idle(now) })
	if len(l.agents) >= maxAgents {
		maps.DeleteFunc(l.agents, func(_ string, a *refusals) bool { return a.shared == nil })
	}
}

// short asks, once a second, whether space is short. Call it with mu held.
func (l *Log) short(now time.Time) bool {
	if l.Scarce != nil && now.Sub(l.scarceAt) >= time.Second {
		l.scarce, l.scarceAt = l.Scarce(), now
	}
	return l.scarce
}

// arm sees to it that shared records are written when their window is over, also when no request comes any more. Call
// it with mu held.
func (l *Log) arm(now, until time.Time) {
	if l.flush != nil {
		if !until.Before(l.flushAt) {
			return
		}
		l.flush.Stop()
	}
	l.flushAt = until
	l.flush = time.AfterFunc(until.Sub(now), l.flushed)
}

func (l *Log) flushed() {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	now := time.Now()
	due := l.take(now)
	l.flush = nil
	for _, a := range l.agents {
		if a.shared != nil {
			l.arm(now, a.until)
		}
	}
	l.mu.Unlock()
	l.put(context.Background(), due...)
}

// take returns the shared records whose window is over at now, or all if now is zero, by agent. Call it with mu held.
func (l *Log) take(now time.Time) []*Record {
	var due []*Record
	for _, id := range slices.Sorted(maps.Keys(l.agents)) {
		a := l.agents[id]
		if now.IsZero() {
			a.until = now
		}
		if r := a.due(now); r != nil {
			due = append(due, r)
		}
	}
	return due
}
