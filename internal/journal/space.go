package journal

import (
	"fmt"
	"time"
)

// room is a short-lived answer of the file system. Guarded by Journal.mu.
type room struct {
	at   time.Time
	free int64
}

const roomFor = 100 * time.Millisecond

// space says whether size more bytes leave room for the outcomes of what runs. Call it with mu held.
func (j *Journal) space(size int64) error {
	need := j.opt.Reserve() + spaceMargin + size + j.queued
	if now := time.Now(); now.Sub(j.room.at) > roomFor {
		free, err := j.fs.Free(j.opt.Dir)
		if err != nil {
			return j.explain(err)
		}
		j.room = room{at: now, free: free}
	}
	seg := j.segments[len(j.segments)-1]
	own := max(seg.allocated.Load()-int64(seg.end), 0)
	if j.room.free+own < need {
		return fmt.Errorf("%w: no space left on %s: %d bytes are free and %d are needed so that running calls can end; make room, it goes on by itself",
			ErrUnavailable, j.opt.Dir, j.room.free+own, need)
	}
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
