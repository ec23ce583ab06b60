package audit

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// An agent's refusals above sharedAbove in one window share one record with their count.
const (
	sharedAbove = 100
	window      = time.Second
)

// Write hands an encoded record to whatever keeps it. It may not keep the bytes after it has returned.
type Write func(ctx context.Context, record []byte) error

// Log takes the records of requests whose record is not written by the store in the same step as an outcome:
// refusals, replays, reads and tunnels. Its methods may be called from many goroutines.
type Log struct {
	write  Write
	failed func(error) // called for every record that could not be written

	mu      sync.Mutex
	started time.Time           // of the window; guarded by mu
	agents  map[string]refusals // of the window; guarded by mu
	flush   *time.Timer         // pending while a shared record waits; guarded by mu
	closed  bool                // nothing waits any more; guarded by mu
}

// refusals is what one agent was refused in one window.
type refusals struct {
	count  int
	shared *Record // nil until count passes sharedAbove
}

// NewLog makes a log that writes through write and tells failed, which may be nil, what could not be written.
func NewLog(write Write, failed func(error)) *Log {
	if failed == nil {
		failed = func(error) {}
	}
	return &Log{write: write, failed: failed, agents: map[string]refusals{}}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Append writes the record, or adds it to the one that its agent's refusals share, which is written within a second.
func (l *Log) Append(r *Record) {
	ctx := context.Background() // a record is written also when its request has gone
	if r.Decision == "blocked" {
		shared, due := l.share(r)
		l.put(ctx, due...)
		if shared {
			return
		}
	}
	l.put(ctx, r)
}

// Close writes what waits. Records appended later are written at once.
func (l *Log) Close(ctx context.Context) {
	l.mu.Lock()
	l.closed = true
	due := l.take()
	l.mu.Unlock()
	l.put(ctx, due...)
}

func (l *Log) put(ctx context.Context, records ...*Record) {
	for _, r := range records {
		b := buffers.Get().(*[]byte)
		*b = r.Append((*b)[:0])
		if err := l.write(ctx, *b); err != nil {
			l.failed(err)
		}
		buffers.Put(b)
	}
}

// share counts a refusal, says whether it went into a shared record, and returns the records of a window that is over.
func (l *Log) share(r *Record) (shared bool, due []*Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, nil
	}
	now := time.Now()
	if now.Sub(l.started) >= window {
		due = l.take()
		l.started = now
	}
	a := l.agents[r.AgentID]
	a.count++
	if a.count > sharedAbove {
		a.shared = merge(a.shared, r)
		l.arm(now)
	}
	l.agents[r.AgentID] = a
	return a.shared != nil, due
}

// arm sees to it that shared records are written when the window is over, also when no request comes any more.
func (l *Log) arm(now time.Time) {
	if l.flush != nil {
		return
	}
	l.flush = time.AfterFunc(window-now.Sub(l.started), func() {
		l.mu.Lock()
		due := l.take()
		l.mu.Unlock()
		l.put(context.Background(), due...)
	})
}

// take ends the window and returns its shared records by agent. The caller holds mu.
func (l *Log) take() []*Record {
	if l.flush != nil {
		l.flush.Stop()
		l.flush = nil
	}
	var due []*Record
	for _, agent := range slices.Sorted(maps.Keys(l.agents)) {
		if r := l.agents[agent].shared; r != nil {
			due = append(due, r)
		}
	}
	clear(l.agents)
	l.started = time.Time{}
	return due
}

// merge adds a refusal to a shared record: what all have in common stays, what differs goes, the first one's time and
// request id stand for all.
func merge(shared, r *Record) *Record {
	if shared == nil {
		first := *r
		first.Count = 1
		return &first
	}
	keep(&shared.Tool, r.Tool, "")
	keep(&shared.PolicyReason, r.PolicyReason, "several")
	keep(&shared.RiskLevel, r.RiskLevel, "high")
	for _, m := range [...][2]*string{
		{&shared.ArgsHash, &r.ArgsHash}, {&shared.Key, &r.Key}, {&shared.RunID, &r.RunID}, {&shared.Tenant, &r.Tenant},
		{&shared.Route, &r.Route}, {&shared.Method, &r.Method}, {&shared.Host, &r.Host}, {&shared.Rule, &r.Rule},
		{&shared.Detail, &r.Detail}, {&shared.ForceNew, &r.ForceNew},
	} {
		keep(m[0], *m[1], "")
	}
	shared.Count++
	return shared
}

func keep(shared *string, other, otherwise string) {
	if *shared != other {
		*shared = otherwise
	}
}
