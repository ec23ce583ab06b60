// Package journal is an append-only, checksummed, hash-chained, group-committed log of segments, and its recovery.
// It knows nothing of what its entries mean.
package journal

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Entry is one fact to be appended.
type Entry struct {
	Kind      Kind
	Fact      []byte    // lives for the journal's retention
	Body      []byte    // may be dropped after BodyUntil; the chain covers its digest only
	BodyUntil time.Time // zero with a nil Body
	// Must says that the entry may not be lost: when its frame fails it stays in memory and stands first in the
	// next durable frame. Any other entry of a failed frame is gone, and its caller is told so.
	Must bool
}

// Kind says what an entry is. The journal's own kinds are below 16; 16 to 31 belong to audit, 32 to 63 to store.
type Kind uint8

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
	Segment   int64         // bytes per segment; 0 means 64 MiB
	MaxBytes  int64         // of all segments; 0 means no bound
	Retention time.Duration // of facts; 0 means for ever
	Reserve   func() int64  // bytes that running calls still need for their outcomes
	Logf      func(format string, args ...any)
	FS        FS               // nil: the operating system's
	Now       func() time.Time // nil: time.Now
}

var (
	ErrUnavailable = errors.New("journal takes no entries") // wrapped: full, read-only, failed sync, closed; only Must entries are taken
	ErrNotDurable  = errors.New("entry was not made durable")
	ErrDeferred    = errors.New("entry is kept and will be written first")
	ErrCorrupt     = errors.New("journal is corrupt") // wrapped with segment, offset and what to do
	ErrLocked      = errors.New("journal is used by another process")
	ErrBodyGone    = errors.New("body is no longer kept")
)

// Commit is an appended batch on its way to the disk.
type Commit struct {
	First uint64 // sequence number of the first entry of the batch; the others follow without a gap
	// unexported: done channel, err
}

// The methods below are the journal's whole surface; see each one's comment in its file.
type surface interface {
	// Append queues the entries as one unit: all of them become durable or none does. Their order is the order of the calls.
	// It does not block on the disk.
	Append(entries ...Entry) (*Commit, error)
	// Body reads a body back, whole and checked against its digest.
	Body(Location) ([]byte, error)
	// Entries yields what is acknowledged from seq on.
	Entries(from uint64) iter.Seq2[Stored, error]
	Close(context.Context) error
}

// FS is the file system below the journal, so that tests can lose power at any write.
type FS interface{}
