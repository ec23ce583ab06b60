package journal

import (
	"fmt"
	"time"
)

// room is a short-lived answer of the file system. Guarded by Journal.mu.
type room struct {
	at   time.Time
	free int64 // on the file system
	left int64 // that and what is allocated already, less what was appended since
}

const roomFor = 100 * time.Millisecond

// measure asks the file system when its last answer is old. Call it with mu held.
func (j *Journal) measure() error {
	now := time.Now()
	if now.Sub(j.room.at) <= roomFor {
		return nil
	}
	free, err := j.fs.Free(j.opt.Dir)
	if err != nil {
		return j.explain(err)
	}
	j.room = room{at: now, free: free, left: free - j.queued}
	s := j.segments[len(j.segments)-1]
	j.room.left += max(s.allocated.Load()-int64(s.end), 0)
	if j.spare != nil {
		j.room.left += j.spare.allocated.Load()
	}
	j.room.left += j.filling
	return nil
}

// oneCall is about what a claim writes: where that does not fit, calls are refused, and Status must not say otherwise.
const oneCall = 2048

// space says whether size more bytes leave room for the outcomes of what runs. Call it with mu held.
func (j *Journal) space(size int64) error {
	if err := j.measure(); err != nil {
		return err
	}
	need := j.opt.Reserve() + spaceMargin + size
	if j.room.left < need {
		return fmt.Errorf("%w: no space left on %s: %d bytes are free and %d are needed so that running calls can end; free space in %s or shorten store.embedded.retention, it goes on by itself",
			ErrUnavailable, j.opt.Dir, max(j.room.left, 0), need, j.opt.Dir)
	}
	need += j.queued
	if j.opt.MaxBytes > 0 && j.used()+need > j.opt.MaxBytes {
		return fmt.Errorf("%w: %s holds %d of at most %d bytes (store.embedded.max_bytes), and %d are needed so that running calls can end; raise store.embedded.max_bytes, or shorten store.embedded.retention",
			ErrUnavailable, j.opt.Dir, j.used(), j.opt.MaxBytes, need)
	}
	return nil
}

// Scarce says that the last sixteenth of MaxBytes is being used, or the last 16 MiB of the disk (less under a small
// MaxBytes), or that no entries are taken at all: what is left is for claims and outcomes. It costs next to nothing.
func (j *Journal) Scarce() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closing || j.broken != nil || j.measure() != nil {
		return true
	}
	share, need := j.opt.MaxBytes/16, j.opt.Reserve()+spaceMargin
	few := int64(16 << 20)
	if share > 0 {
		few = min(few, share)
	}
	return j.room.left < need+few || j.opt.MaxBytes > 0 && j.used()+j.queued+need+share > j.opt.MaxBytes
}

// used is how many bytes the segments take. Call it with mu held.
func (j *Journal) used() (n int64) {
	for _, s := range j.segments {
		n += int64(s.end) - s.freed
	}
	return n
}
