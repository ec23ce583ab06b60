// Package journal is an append-only, checksummed, hash-chained, group-committed log of segments, and its recovery.
// It knows nothing of what its entries mean.
package journal

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Entry is one fact to be appended.
type Entry struct {
	Kind      Kind
	Fact      []byte    // lives for the journal's retention
	Body      []byte    // may be dropped after BodyUntil; the chain covers its digest only
	BodyUntil time.Time // zero: the body is kept for as long as there is room
	// Must says that the entry may not be lost: when its frame fails it stays in memory and stands first in the
	// next durable frame. Any other entry of a failed frame is gone, and its caller is told so.
	// One such entry makes the whole batch of its Append a kept one.
	Must bool
}

// Kind says what an entry is. The journal's own kinds are below 16; 16 to 31 belong to audit, 32 to 63 to store.
type Kind uint8

// The journal's own kinds. Entries shows them, the fold of Open does not.
const (
	KindDropped  Kind = 1 // the oldest segment has gone
	KindStripped Kind = 2 // a sealed segment has lost expired bodies
	firstForeign Kind = 16
)

// Stored is an entry as it was read back. Fact is valid until the next step of the iteration.
type Stored struct {
	Seq     uint64
	Time    time.Time // of its commit, UTC, never earlier than that of the entry before
	Kind    Kind
	Fact    []byte
	Body    Location // zero when there was none
	Dropped bool     // it had a body, which has gone
}

// Location is where a body stands. The zero Location is nowhere.
type Location struct {
	Segment uint32
	Offset  uint32
	Length  uint32
}

// Options configure a journal.
type Options struct {
	Dir       string
	Process   bool          // durability: process; no sync
	Segment   int64         // bytes per segment; 0 means 64 MiB, or an eighth of MaxBytes where that is less
	MaxBytes  int64         // of all segments; 0 means no bound
	Retention time.Duration // of facts; 0 means for ever
	// Reserve says how many bytes running calls still need for their outcomes. Append calls it, so it must not wait
	// for a lock that is held around Append.
	Reserve func() int64
	// Carry calls emit for each entry that carries forward live state whose newest entry is older than the sequence
	// number before: the segment below it is about to be dropped. emit appends at once, so a caller that holds the
	// lock under which it decides keeps the order of decisions. An error keeps the segment. nil: nothing is ever dropped.
	Carry func(before uint64, emit func(Entry)) error
	Logf  func(format string, args ...any)
	FS    FS               // nil: the operating system's
	Now   func() time.Time // nil: time.Now
}

var (
	ErrUnavailable = errors.New("journal takes no entries") // wrapped: full, read-only, failed sync, closed; only Must entries are taken
	ErrNotDurable  = errors.New("entry was not made durable")
	ErrDeferred    = errors.New("entry is kept and will be written first")
	ErrCorrupt     = errors.New("journal is corrupt") // wrapped with segment, offset and what to do
	ErrLocked      = errors.New("journal is used by another process")
	ErrBodyGone    = errors.New("body is no longer kept")
)

const (
	defaultSegment = 64 << 20
	frameTarget    = 1 << 20  // a frame takes no further batch once it has so many bytes
	maxBatch       = 64 << 20 // bytes of one Append
	maxKept        = 1 << 30  // bytes of Must entries that wait for a disk
	spaceMargin    = 1 << 20  // left free beyond Reserve
	fillAfter      = 4 << 20  // bytes written before the next segment is written over
	fillPiece      = 1 << 20  // of that, between two syncs
	idleAfter      = 500 * time.Millisecond
	lingerFor      = 10 * time.Millisecond // that entries nobody waits for may stay in memory
)

// Journal is an open journal. One process has it at a time. Its methods may be called from any goroutine.
type Journal struct {
	opt    Options
	fs     FS
	id     identity
	fresh  bool
	unlock func()

	wake    chan struct{} // one token: the committer has something to do
	prepare chan struct{} // one token: the keeper should make a spare segment
	stopped chan struct{} // closed when the committer has ended
	kept    chan struct{} // closed when the keeper has ended
	quit    chan struct{} // closed when Close begins

	clock clock

	committer // owned by the committer goroutine once Open has returned

	maintaining sync.Mutex // one Maintain at a time

	mu       sync.Mutex
	queue    []*batch   // guarded by mu: what waits for the disk, oldest first
	queued   int64      // guarded by mu: bytes that are appended and not durable
	nextSeq  uint64     // guarded by mu
	idle     bool       // guarded by mu: the committer sleeps
	urgent   bool       // guarded by mu: write what is queued now; unset, it may linger
	lingers  bool       // guarded by mu: a timer will make it urgent
	settle   bool       // guarded by mu: write an empty frame although nothing waits
	closing  bool       // guarded by mu
	broken   error      // guarded by mu: why only Must entries are taken; nil when all is well
	deferred *batch     // guarded by mu: while broken, the Must entries that wait for a new segment
	recycled [][]byte   // guarded by mu: buffers of written batches
	segments []*segment // guarded by mu: oldest first, the last one is written to
	ghosts   []*segment // guarded by mu: unlinked, but Open has shown bodies in them
	head     Head       // guarded by mu: of the last acknowledged frame
	gone     uint64     // guarded by mu: entries dropped since the journal was made
	newest   uint64     // guarded by mu: last durable sequence number
	room     room       // guarded by mu
	spare    *segment   // guarded by mu
	filling  int64      // guarded by mu: bytes of a spare that is being written over
	grown    int64      // guarded by mu: bytes written since the newest segment began
	closeErr error      // written before stopped is closed
}

// Head names the state of a journal: everything up to Seq, in order. Chain is SHA-256.
type Head struct {
	Seq   uint64
	Chain [32]byte
}

func (o *Options) fill() {
	if o.Segment == 0 {
		o.Segment = defaultSegment
		if o.MaxBytes > 0 {
			o.Segment = min(o.Segment, max(o.MaxBytes/8, 1<<20))
		}
	}
	o.Segment = min(max(o.Segment, 4096), 1<<30)
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.FS == nil {
		o.FS = OS()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Reserve == nil {
		o.Reserve = func() int64 { return 0 }
	}
}

// Close writes what is queued, acknowledges it and gives the directory up. When ctx ends first it returns its error
// and the rest happens in the background. Entries that could not be made durable are an error that wraps ErrNotDurable.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	first := !j.closing
	j.closing = true
	j.rouse()
	j.mu.Unlock()
	if first {
		close(j.quit)
	}
	select {
	case <-j.stopped:
		return j.closeErr
	case <-ctx.Done():
		return ctx.Err()
	}
}
