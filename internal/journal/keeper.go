package journal

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

const (
	maintainEach = time.Minute
	watchEach    = 10 * time.Second
)

// keep makes segments ready, maintains the journal and watches the clock, in the background.
func (j *Journal) keep() {
	defer close(j.kept)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { <-j.quit; cancel() }()
	maintain, watch := time.NewTicker(maintainEach), time.NewTicker(watchEach)
	defer maintain.Stop()
	defer watch.Stop()
	for {
		select {
		case <-j.quit:
			return
		case <-watch.C:
			j.watch()
		case <-maintain.C:
			if err := j.Maintain(ctx); err != nil && ctx.Err() == nil {
				j.opt.Logf("journal: maintenance: %v", err)
			}
		case <-j.prepare:
			j.allocate()
			j.ready()
			j.fill()
		}
	}
}

// allocate reserves the space of the newest segment, so that its frames need no growth of the file.
func (j *Journal) allocate() {
	j.mu.Lock()
	s := j.segments[len(j.segments)-1]
	j.mu.Unlock()
	s.rw.RLock()
	defer s.rw.RUnlock()
	if s.f != nil && s.allocated.Load() < j.opt.Segment && s.f.Allocate(j.opt.Segment) == nil {
		s.allocated.Store(j.opt.Segment)
	}
}

// ready makes the segment that comes next. On a disk that has no room for it there is none.
func (j *Journal) ready() {
	j.mu.Lock()
	number, have := j.number+1, j.spare != nil
	j.mu.Unlock()
	if have {
		return
	}
	s, err := createSegment(j.fs, filepath.Join(j.opt.Dir, spareName(number)), number, j.id.ID, j.opt.Segment)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.number+1 != number { // the committer could not wait for it
		s.close()
		_ = j.fs.Remove(s.path)
		return
	}
	j.spare = s
}

// fill writes the spare once over when the journal is busy enough for that to pay. Nobody else has the spare meanwhile.
func (j *Journal) fill() {
	j.mu.Lock()
	s := j.spare
	if s == nil || s.written || j.opt.Process || j.grown < j.worthFilling() {
		j.mu.Unlock()
		return
	}
	j.spare, j.filling = nil, s.allocated.Load()
	j.mu.Unlock()
	err := s.fill(j.opt.Segment, j.quit)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.filling = 0
	if err != nil || j.number+1 != s.number { // or the committer could not wait for it
		s.close()
		_ = j.fs.Remove(s.path)
		return
	}
	j.spare = s
}

// worthFilling is how many bytes are written before the spare is written over: a sidecar that does little never does that.
func (j *Journal) worthFilling() int64 { return min(fillAfter, j.opt.Segment/4) }

// grew counts what was written and has the spare written over when that is due. Call it with mu held.
func (j *Journal) grew(n int64) {
	before := j.grown
	j.grown += n
	if due := j.worthFilling(); before < due && j.grown >= due {
		select {
		case j.prepare <- struct{}{}:
		default:
		}
	}
}

// betterSpare says that the next segment has been written over and the current one has not: it is worth changing now.
func (j *Journal) betterSpare() bool {
	if j.seg.written {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.spare != nil && j.spare.written && j.spare.number == j.number+1
}

// shut ends the journal: a last frame acknowledges all before it and says that this was no crash.
func (j *Journal) shut() error {
	<-j.kept
	if j.spare != nil {
		j.spare.close()
		_ = j.fs.Remove(j.spare.path)
	}
	err := j.closeErr
	if err == nil {
		err = j.farewell()
	}
	j.maintaining.Lock() // it is waited for
	defer j.maintaining.Unlock()
	for _, s := range append(j.segments, j.ghosts...) {
		s.close()
	}
	j.unlock()
	return err
}

func (j *Journal) farewell() error {
	if j.barren() {
		return nil
	}
	if j.opt.Process {
		if err := j.seg.f.Sync(); err != nil {
			return fmt.Errorf("journal: close: %w", err)
		}
		j.acked = j.off
	}
	b := newBatch(nil)
	if err := j.put(j.seg, b, frame{header: header{offset: j.off, acked: j.acked, flags: flagClosed}}); err != nil {
		scrub(j.seg, j.off)
		return fmt.Errorf("journal: close: %w", err)
	}
	_ = j.seg.f.Truncate(int64(j.off))
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note(j.seg, b)
	return nil
}
