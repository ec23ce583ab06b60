package journal

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// fail ends the segment at its last good frame. What may be lost of b and of everything queued behind it is lost,
// because it was decided on a state that includes b; what may not is kept and stands first in the next segment. ok is
// false when Close came first.
func (j *Journal) fail(b *batch, cause error) (ok bool) {
	why := j.explain(cause)
	j.mu.Lock()
	kept := newBatch(nil)
	kept.keep(b)
	lost := []*batch{b}
	for _, q := range j.queue {
		kept.keep(q)
		lost = append(lost, q)
	}
	j.queue, j.queued = nil, 0
	j.broken, j.deferred = why, kept
	j.mu.Unlock()
	j.opt.Logf("journal: %v; %d entries are kept and written first", why, kept.count)
	return j.repair(lost)
}

// repair tries to begin a new segment until that works or Close waits; ok says which. The callers of the lost batches
// are told after the first try: if it works, its seal makes sure that nothing of theirs is ever read back.
func (j *Journal) repair(lost []*batch) (ok bool) {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := j.reopen()
		why := j.brokenBy(err)
		for _, b := range lost {
			b.finish(why)
		}
		lost = nil
		if err == nil {
			j.opt.Logf("journal: takes entries again, in %s", j.seg.path)
			return true
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-j.quit:
			timer.Stop()
			if j.reopen() == nil {
				return true
			}
			j.giveUp()
			return false
		}
	}
}

// brokenBy records why the newest try to go on has failed and returns what the lost batches failed with.
func (j *Journal) brokenBy(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.broken = j.explain(err)
	}
	if j.broken == nil {
		return errSealed
	}
	return j.broken
}

var errSealed = fmt.Errorf("%w for a moment: a write failed and a new segment was begun", ErrUnavailable)

// reopen begins a new segment with the deferred entries.
func (j *Journal) reopen() error {
	j.mu.Lock()
	kept := j.deferred
	j.deferred = newBatch(nil)
	j.mu.Unlock()
	err := j.begin(kept, j.sealing())
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		kept.keep(j.deferred)
		j.deferred = kept
		return err
	}
	j.queued = 0
	if !j.deferred.empty() {
		j.queue, j.queued, j.urgent = []*batch{j.deferred}, int64(j.deferred.size()), true
	}
	j.broken, j.deferred = nil, nil
	j.room = room{}
	j.note(j.seg, kept)
	kept.finish(nil)
	return nil
}

// giveUp is the end of a journal that is closed while its disk takes nothing.
func (j *Journal) giveUp() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closeErr = j.broken
	if n := j.deferred.count; n > 0 {
		j.closeErr = fmt.Errorf("%w: %d entries that had to be kept: %w", ErrNotDurable, n, j.broken)
	}
	j.deferred.finish(errClosed)
}

// explain wraps a failure of the disk into words for an operator.
func (j *Journal) explain(err error) error { return j.explained(err, "it goes on by itself") }

// explained is explain, with what comes after the mend.
func (j *Journal) explained(err error, then string) error {
	what := "check the disk"
	switch {
	case errors.Is(err, ErrUnavailable):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		what = "no space left on " + j.opt.Dir + "; free space in it or shorten store.embedded.retention, " + then
	case errors.Is(err, syscall.EROFS):
		what = "read-only file system at " + j.opt.Dir + "; remount it, " + then
	case errors.Is(err, syscall.EIO):
		what = "the disk below " + j.opt.Dir + " fails; replace it"
	}
	return fmt.Errorf("%w: %s (%w)", ErrUnavailable, what, err)
}
