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
	return nil
}

// space says whether size more bytes leave room for the outcomes of what runs. Call it with mu held.
func (j *Journal) space(size int64) error {
	if err := j.measure(); err != nil {
		return err
	}
	need := j.opt.Reserve() + spaceMargin + size
	if j.room.left < need {
		return fmt.Errorf("%w: no space left on %s: %d bytes are free and %d are needed so that running calls can end; make room, it goes on by itself",
			ErrUnavailable, j.opt.Dir, max(j.room.left, 0), need)
	}
	need += j.queued
	if j.opt.MaxBytes > 0 && j.used()+need > j.opt.MaxBytes {
		return fmt.Errorf("%w: %s holds %d of at most %d bytes (store.embedded.max_bytes), and %d are needed so that running calls can end",
			ErrUnavailable, j.opt.Dir, j.used(), j.opt.MaxBytes, need)
	}
	return nil
}

// used is how many bytes the segments take. Call it with mu held.
func (j *Journal) used() (n int64) {
	for _, s := range j.segments {
		n += int64(s.end) - s.freed
	}
	return n
}
