// Package store keeps calls, counters, switches, policies, tools, locks and leases: Embedded as a fold over this sidecar's
// journal, Redis for sidecars that share them, with a journal beside it.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Options configure an embedded store. Config is the configuration file's; the others have defaults.
type Options struct {
	Config      EmbeddedConfig
	Waiters     int   // most callers that wait for one key; 0 means 1024
	AnswerBytes int64 // largest answer that will be kept; 0 means 1 MiB
	CacheBytes  int   // of answers in memory; 0 means 16 MiB
	Log         *slog.Logger

	// For tests.
	FS      journal.FS       // nil: the operating system's
	Now     func() time.Time // nil: the wall clock
	Segment int64            // bytes per segment of the journal; 0: its default
}

// minRetention is the least time that facts are kept, whatever the configuration says: limits look back a day.
const minRetention = 25 * time.Hour

// Embedded is the store of one sidecar: a fold over its journal. Its methods may be called from any goroutine.
//
// What it decides it decides and appends under one lock, so the journal's order is that of the decisions. What it shows
// is durable, but for this: a claim stands in the way from the moment it is appended, and goes if that fails.
type Embedded struct {
	opt    Options
	log    *slog.Logger
	j      *journal.Journal
	secret [32]byte
	cache  *cache

	opened   chan struct{} // closed once j is set: the journal may ask for live state at any time
	running  atomic.Int64  // claims without an end, for Reserve
	switches atomic.Pointer[map[string]Switch]

	names  names          // of what is folded, while the journal is read
	leases *leases        // of clients, with a lock of their own
	book   *activity.Book // of what callers did, with a lock of its own
	own    *ownCalls      // claimed in Redis, where this is the journal beside it; with a lock of its own

	editing sync.Mutex // one change of entries at a time; taken before mu

	mu       sync.Mutex
	calls    map[uint64]*call      // by fence: running, unknown and deferred; guarded by mu
	live     map[dedup.Key]*call   // the same by key; of two calls the newer; guarded by mu
	unknown  int                   // calls of calls that are unknown; guarded by mu
	index    *index                // calls that have ended; guarded by mu
	spent    usage                 // guarded by mu
	entries  map[entryID]*versions // guarded by mu
	buf      []byte                // for facts; guarded by mu
	bodyBuf  []byte                // guarded by mu
	swept    time.Time             // when the index was last swept whole; guarded by mu
	watchers watchers              // guarded by mu
	closed   bool                  // guarded by mu
}

var _ dedup.Store = (*Embedded)(nil)

// OpenEmbedded opens the store in its directory, or makes one there. Calls that were running when the last process died
// are unknown when it returns, and their audit records are complete.
func OpenEmbedded(opt Options) (*Embedded, error) {
	opt.fill()
	e := &Embedded{
		opt: opt, log: opt.Log, opened: make(chan struct{}), cache: newCache(opt.CacheBytes),
		calls: map[uint64]*call{}, live: map[dedup.Key]*call{}, index: newIndex(), spent: usage{}, entries: map[entryID]*versions{}, leases: newLeases(), own: newOwnCalls(), names: names{},
	}
	e.switches.Store(&map[string]Switch{})
	e.book = activity.New(e.noteActivity)
	if err := e.open(); err != nil {
		e.index.close()
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w; let this user (uid %d) write there, or name another directory by store.embedded.dir", err, os.Getuid())
		}
		return nil, fmt.Errorf("open the store in %s: %w", opt.Config.Dir, err)
	}
	return e, nil
}

func (o *Options) fill() {
	if o.Waiters <= 0 {
		o.Waiters = 1024
	}
	if o.AnswerBytes <= 0 {
		o.AnswerBytes = 1 << 20
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 16 << 20
	}
	if o.Config.MaxKeys <= 0 {
		o.Config.MaxKeys = 5_000_000
	}
	if o.Config.MaxUnknown <= 0 {
		o.Config.MaxUnknown = 10_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func (e *Embedded) open() error {
	retention := e.opt.Config.Retention
	if retention > 0 {
		retention = max(retention, minRetention)
	}
	j, err := journal.Open(journal.Options{
		Dir: e.opt.Config.Dir, Process: e.opt.Config.Durability == "process", Segment: e.opt.Segment,
		MaxBytes: int64(e.opt.Config.MaxBytes), Retention: retention,
		Reserve: e.reserve, Carry: e.carry, FS: e.opt.FS, Now: e.opt.Now,
		Logf: func(format string, args ...any) { e.log.Warn(fmt.Sprintf(format, args...)) },
	}, e.fold)
	if err != nil {
		return err
	}
	e.names = nil
	e.j, e.own.append, e.own.note = j, j.Append, j.Note
	close(e.opened)
	if e.secret, err = shownKey(shownKeyPath(e.opt.Config.Dir)); err == nil {
		err = e.recover()
	}
	if err != nil {
		return errors.Join(err, j.Close(context.Background()))
	}
	return nil
}

// recover ends what the last process left running. Nothing can tell whether its bytes left.
func (e *Embedded) recover() error {
	e.mu.Lock()
	ends := e.abandon()
	e.mu.Unlock()
	for _, end := range ends {
		if err := end.Wait(context.Background()); err != nil && !errors.Is(err, journal.ErrDeferred) {
			return fmt.Errorf("record the calls that were running: %w", err)
		}
	}
	if len(ends) > 0 {
		e.log.Warn("calls were running when the last process ended; their outcome is unknown, and `oo-sidecar unknown ls` lists them", "calls", len(ends))
	}
	return nil
}

// abandon makes every running call unknown, with its audit record. Call it with mu held.
func (e *Embedded) abandon() (ends []*journal.Commit) {
	for fence, c := range e.calls {
		if c.state.Outcome != dedup.Running || c.ended || c.pending {
			continue
		}
		next, back := dedup.Recover(c.state, e.now())
		f := e.factOf(c, next, back, nil)
		commit, err := e.j.Append(
			journal.Entry{Kind: kindEnd, Fact: f.append(e.buf, false), Must: true},
			journal.Entry{Kind: audit.KindRecord, Fact: audit.Recover(c.record, fence), Must: true},
		)
		if err != nil {
			e.log.Error("the outcome of a call that was running cannot be recorded", "error", err)
			continue
		}
		e.settle(c, &f, commit.First, journal.Location{})
		c.end(dedup.Ending{Outcome: f.state.Outcome, At: f.state.Ended})
		ends = append(ends, commit)
	}
	return ends
}

// now is the store's time. It never goes back.
func (e *Embedded) now() time.Time { return e.j.Now() }

// reserve is what the journal must still take for the calls that are running: their outcomes, with an answer of up to
// 64 KiB. A larger answer is kept only while there is room for more than that.
func (e *Embedded) reserve() int64 {
	return (e.running.Load() + e.own.count.Load()) * (8<<10 + min(e.opt.AnswerBytes, largeAnswer))
}

const largeAnswer = 64 << 10

// Close records what is still running as unknown, writes everything and gives the directory up. When ctx ends first it
// returns its error and the rest happens in the background.
func (e *Embedded) Close(ctx context.Context) error {
	e.book.Flush()
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		e.abandon()
	}
	e.mu.Unlock()
	err := e.j.Close(ctx)
	if ctx.Err() == nil {
		e.mu.Lock()
		e.index.close()
		e.mu.Unlock()
	}
	return err
}

// Record appends the audit record of a request that no claim carries: one refused, replayed or waived. It does not wait
// for the disk.
func (e *Embedded) Record(_ context.Context, record []byte) error {
	return e.Append(record, false)
}

// Append is Record, and waits until the record is durable if it is told to.
func (e *Embedded) Append(record []byte, wait bool) error {
	entry := journal.Entry{Kind: audit.KindRecord, Fact: record}
	if !wait {
		return e.j.Note(entry)
	}
	c, err := e.j.Append(entry)
	if err != nil {
		return err
	}
	return c.Wait(context.Background())
}

// Change appends a change that the sidecar itself tells of. It is taken also where space is short, or while the disk takes
// nothing: then it is written first. It does not wait for the disk.
func (e *Embedded) Change(c *audit.Change) error {
	_, err := e.j.Append(journal.Entry{Kind: audit.KindChange, Fact: c.Append(nil), Must: true})
	return err
}

// Scarce says that the space that is left is for claims and outcomes.
func (e *Embedded) Scarce() bool { return e.j.Scarce() }

// Journal is the journal below, for queries of the audit.
func (e *Embedded) Journal() *journal.Journal { return e.j }

// Secret is the store's secret, under which keys are shown.
func (e *Embedded) Secret() [32]byte { return e.secret }

// Created says that this process made the store: nothing of an earlier one is known.
func (e *Embedded) Created() bool { return e.j.Status().Created }
