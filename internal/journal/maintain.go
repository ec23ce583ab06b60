package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Maintain gives space back: it drops the oldest sealed segments whose facts are past Retention, then rewrites sealed
// segments without bodies that have expired, where that saves a quarter. When less than an eighth of MaxBytes is left,
// or little of the disk, bodies go before their time, oldest segment first; facts never do. The journal calls it each
// minute itself.
func (j *Journal) Maintain(ctx context.Context) error {
	j.maintaining.Lock()
	defer j.maintaining.Unlock()
	for range j.sealed() { // dropping writes too, and must not chase itself
		s := j.outlived()
		if s == nil {
			break
		}
		if err := j.drop(ctx, s); err != nil {
			return fmt.Errorf("journal: drop %s: %w", s.path, err)
		}
	}
	now := j.Now().UnixNano()
	for _, s := range j.sealed() {
		before, worth := j.worth(s, now)
		if !worth {
			continue
		}
		if err := j.strip(ctx, s, before); err != nil {
			return fmt.Errorf("journal: give up bodies in %s: %w", s.path, err)
		}
	}
	return nil
}

// sealed are the segments that nothing is appended to.
func (j *Journal) sealed() []*segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.segments[:len(j.segments)-1])
}

// worth says whether a segment should be rewritten, and without which bodies: those that could go at before.
func (j *Journal) worth(s *segment, now int64) (before int64, ok bool) {
	pressed := j.pressed()
	j.mu.Lock()
	defer j.mu.Unlock()
	if pressed && len(s.bodies) > 0 {
		return math.MaxInt64, true
	}
	due := s.bodies.due(now)
	return now, due > 0 && due*4 >= int64(s.end)-s.freed
}

// outlived is the oldest segment if it can be dropped.
func (j *Journal) outlived() *segment {
	if j.opt.Carry == nil || j.opt.Retention <= 0 {
		return nil
	}
	oldest := j.Now().Add(-j.opt.Retention).UnixNano()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) < 2 || j.segments[0].lastTime >= oldest || j.broken != nil {
		return nil
	}
	return j.segments[0]
}

// pressed reports whether bodies should go before their time.
func (j *Journal) pressed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	reserve := j.opt.Reserve() + spaceMargin
	if j.opt.MaxBytes > 0 && j.used()+reserve > j.opt.MaxBytes-j.opt.MaxBytes/8 {
		return true
	}
	free, err := j.fs.Free(j.opt.Dir)
	return err == nil && free < reserve+min(2*j.opt.Segment, 16<<20)
}

// dropped is the fact that a segment has gone.
type dropped struct {
	segment uint32
	last    uint64   // its last sequence number
	chain   [32]byte // after it
	count   uint64   // entries dropped since the journal was made
}

func (d *dropped) encode() []byte {
	p := le.AppendUint64(le.AppendUint32(nil, d.segment), d.last)
	return le.AppendUint64(append(p, d.chain[:]...), d.count)
}

func parseDropped(p []byte) (d dropped, ok bool) {
	if len(p) != 52 {
		return d, false
	}
	d = dropped{segment: le.Uint32(p), last: le.Uint64(p[4:]), count: le.Uint64(p[44:])}
	copy(d.chain[:], p[12:44])
	return d, true
}

// drop removes the oldest segment, after what it holds of live state and the fact itself are durable elsewhere and
// acknowledged: whoever finds the segment missing also finds why.
func (j *Journal) drop(ctx context.Context, s *segment) error {
	j.mu.Lock()
	sl, count := j.segments[1].seal, j.gone+uint64(s.count)
	j.mu.Unlock()
	if err := j.carry(ctx, sl.last+1); err != nil {
		return err
	}
	d := dropped{segment: s.number, last: sl.last, chain: sl.chain, count: count}
	if err := j.testify(ctx, Entry{Kind: KindDropped, Fact: d.encode()}); err != nil {
		return err
	}
	j.mu.Lock()
	j.segments = slices.Clone(j.segments[1:])
	j.gone = count
	j.mu.Unlock()
	s.close()
	return errors.Join(j.fs.Remove(s.path), j.fs.SyncDir(j.opt.Dir))
}

// carry makes the store's live state below before durable anew.
func (j *Journal) carry(ctx context.Context, before uint64) error {
	var commits []*Commit
	var failed error
	err := j.opt.Carry(before, func(e Entry) {
		if failed != nil {
			return
		}
		c, err := j.append(own, []Entry{e})
		if failed = err; err == nil {
			commits = append(commits, c)
		}
	})
	failed = errors.Join(failed, err)
	for _, c := range commits {
		if failed == nil {
			failed = c.Wait(ctx)
		}
	}
	return failed
}

// testify writes one of the journal's own entries, durable and acknowledged.
func (j *Journal) testify(ctx context.Context, e Entry) error {
	c, err := j.append(own, []Entry{e})
	if err != nil {
		return err
	}
	if err := c.Wait(ctx); err != nil {
		return err
	}
	return j.acknowledge(ctx, c.First)
}

// acknowledge returns once a frame stands behind the one with seq.
func (j *Journal) acknowledge(ctx context.Context, seq uint64) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		j.mu.Lock()
		done := j.head.Seq >= seq
		if !done && !j.opt.Process {
			j.settle = true
			j.rouse()
		}
		err := j.broken
		j.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		case <-j.stopped:
			return errClosed
		}
	}
}

// stripped is the fact that a segment has lost the bodies that could go at before.
type stripped struct {
	segment uint32
	before  int64 // Unix, ns
}

func (t *stripped) encode() []byte {
	return le.AppendUint64(le.AppendUint32(nil, t.segment), uint64(t.before))
}

func parseStripped(p []byte) (t stripped, ok bool) {
	if len(p) != 12 {
		return t, false
	}
	return stripped{segment: le.Uint32(p), before: int64(le.Uint64(p[4:]))}, true
}

// strip rewrites a sealed segment without the bodies that could go at before.
func (j *Journal) strip(ctx context.Context, s *segment, before int64) error {
	end := s.end // sealed
	t := stripped{segment: s.number, before: before}
	if err := j.testify(ctx, Entry{Kind: KindStripped, Fact: t.encode()}); err != nil {
		return err
	}
	j.mu.Lock()
	s.stripped = max(s.stripped, before)
	j.mu.Unlock()
	size, err := j.rewrite(s, end, before)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.freed = int64(end) - size
	for hour := range s.bodies {
		if before == math.MaxInt64 || hour <= before/int64(time.Hour) {
			delete(s.bodies, hour)
		}
	}
	return nil
}

// rewrite replaces the file of s at once, or leaves it.
func (j *Journal) rewrite(s *segment, end uint32, before int64) (size int64, err error) {
	name := s.path + ".new"
	_ = j.fs.Remove(name)
	f, err := j.fs.Create(name)
	if err != nil {
		return 0, err
	}
	size, err = copyWithout(f, s, end, before)
	if err == nil {
		err = j.fs.Rename(name, s.path)
	}
	if err != nil {
		f.Close()
		_ = j.fs.Remove(name)
		return 0, err
	}
	c, err := openCompact(f, size, s.seed)
	if err != nil {
		return 0, err
	}
	s.rw.Lock()
	s.f.Close()
	s.f = c
	s.rw.Unlock()
	return size, j.fs.SyncDir(j.opt.Dir)
}
