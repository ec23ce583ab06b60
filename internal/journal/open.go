package journal

import (
	"errors"
	"fmt"
	"time"
)

// Open takes the directory, makes a journal there if there is none, and calls fold with every fact, oldest first and
// each once, but for the journal's own. It fails with ErrLocked and with ErrCorrupt.
//
// After anything but a clean Close the old segment is sealed where the last frame begins that no other acknowledges,
// and that frame's entries are written again, into a new segment, before fold sees them: the old file may show what
// the disk does not have. Where the disk takes nothing, fold sees them nevertheless, and they are written first once
// it does; until then the journal takes no others.
func Open(opt Options, fold func(Stored) error) (_ *Journal, err error) {
	opt.fill()
	j := &Journal{
		opt: opt, fs: opt.FS,
		wake: make(chan struct{}, 1), prepare: make(chan struct{}, 1),
		stopped: make(chan struct{}), kept: make(chan struct{}), quit: make(chan struct{}),
	}
	if err := j.fs.MkdirAll(opt.Dir); err != nil {
		return nil, fmt.Errorf("journal: make %s: %w", opt.Dir, err)
	}
	unlock, owner, err := j.fs.Lock(opt.Dir)
	if err != nil {
		return nil, lockError(opt.Dir, owner, err)
	}
	j.unlock = unlock
	defer func() {
		if err != nil {
			for _, s := range j.segments {
				s.close()
			}
			unlock()
		}
	}()
	if err := j.load(fold); err != nil {
		return nil, err
	}
	j.nextSeq = j.last + 1
	if j.deferred != nil && !j.deferred.empty() {
		j.nextSeq = j.deferred.last + 1
	}
	j.watch()
	go j.run()
	go j.keep()
	return j, nil
}

func lockError(dir, owner string, err error) error {
	if errors.Is(err, errWouldBlock) {
		if owner == "" {
			owner = "another process"
		}
		return fmt.Errorf("%w: %s has %s; stop it, or use another directory", ErrLocked, owner, dir)
	}
	return fmt.Errorf("journal: lock %s: %w", dir, err)
}

// load reads what is there and leaves the committer ready to write.
func (j *Journal) load(fold func(Stored) error) error {
	l, err := readLayout(j.fs, j.opt.Dir, true)
	if err != nil {
		return fmt.Errorf("journal: open %s: %w", j.opt.Dir, err)
	}
	j.segments, j.number = l.live, l.top
	for _, name := range l.waste {
		_ = j.fs.Remove(name)
	}
	if err := j.identify(l); err != nil {
		return err
	}
	if len(l.live) == 0 {
		return j.create()
	}
	w := walker{fold: fold, now: j.opt.Now().UnixNano()}
	for i, s := range j.segments[:len(j.segments)-1] {
		if err := w.sealed(s, j.segments[i+1].seal); err != nil {
			return err
		}
	}
	if err := j.recover(&w, j.segments[len(j.segments)-1]); err != nil {
		return err
	}
	if err := w.rooted(j.segments[0]); err != nil {
		return err
	}
	j.resume(&w)
	return nil
}

// resume ends what a crash has interrupted: the removal of a segment that was dropped already.
func (j *Journal) resume(w *walker) {
	for _, s := range j.segments {
		s.stripped = max(s.stripped, w.strips[s.number])
	}
	if len(w.drops) == 0 {
		return
	}
	d := w.drops[len(w.drops)-1]
	j.gone = d.count
	for len(j.segments) > 1 && j.segments[0].number <= d.segment {
		j.segments[0].close()
		_ = j.fs.Remove(j.segments[0].path)
		j.segments = j.segments[1:]
	}
}

// identify reads the journal's name, or finds it in its segments when the file has gone.
func (j *Journal) identify(l *layout) error {
	id, err := readIdentity(j.fs, j.opt.Dir)
	switch {
	case isMissing(err) && len(l.live) > 0:
		id = identity{ID: l.id, Made: time.Unix(0, l.live[0].seal.time).UTC().Truncate(time.Second)}
		_ = writeIdentity(j.fs, j.opt.Dir, id) // a full disk is no reason not to read; the next Open tries again
	case isMissing(err):
		j.fresh, id = true, newIdentity(j.opt.Now())
	case err != nil:
		return fmt.Errorf("journal: %s: %w", j.opt.Dir, err)
	case len(l.live) == 0:
		return errNoSegments(j.opt.Dir)
	case id.ID != l.id:
		return fmt.Errorf("%w: %s does not belong to the segments beside it", ErrCorrupt, identityName)
	}
	j.id = id
	return nil
}

// create begins an empty journal. The name comes last: with it, the absence of segments is a loss.
func (j *Journal) create() error {
	b := newBatch(nil)
	err := j.begin(b, seal{})
	if err == nil {
		j.note(j.seg, b)
		err = writeIdentity(j.fs, j.opt.Dir, j.id)
	}
	if err != nil {
		return fmt.Errorf("journal: create in %s: %w", j.opt.Dir, j.explained(err, "then start again: there is no journal yet to go on with"))
	}
	return nil
}

// recover reads the newest segment and decides whether it can be gone on with.
func (j *Journal) recover(w *walker, s *segment) error {
	t, err := findTail(s)
	if err != nil {
		return err
	}
	if t.flags&flagUnsynced != 0 && !t.clean {
		// Nothing was promised for a loss of power, and no sync of this file has failed.
		if !j.opt.Process {
			if err := s.f.Sync(); err != nil {
				return fmt.Errorf("journal: sync %s: %w", s.path, err)
			}
		}
		t.acked = t.end
	}
	if t.clean {
		t.acked = t.end
	}
	if t.acked == t.end {
		t.last = frame{}
	}
	s.end = t.acked
	if err := w.until(s); err != nil {
		return err
	}
	j.seg, j.off, j.acked, j.chain, j.last, j.time = s, t.acked, t.acked, w.chain, w.last, w.time
	j.shown, j.newest = Head{Seq: w.last, Chain: w.chain}, w.last
	j.head = j.shown
	j.clock.last.Store(w.time)
	if t.clean {
		return nil
	}
	return j.reseal(w, t)
}

// reseal begins a new segment with what nothing acknowledged in the old one.
func (j *Journal) reseal(w *walker, t tail) error {
	b, old := newBatch(nil), j.seg
	if t.last.count > 0 {
		b.time = t.last.time
		b.addRaw(t.last.entries)
		j.clock.tick(time.Unix(0, t.last.time))
	}
	b.musts = []*Commit{{j: j, must: true, asked: b, in: b, from: frameRoom, to: len(b.buf)}}
	if err := j.begin(b, j.sealing()); err != nil {
		j.broken, j.deferred = j.explain(err), b
		j.opt.Logf("journal: %v", j.broken)
		old.shown = true
		return w.show(&t.last, old)
	}
	j.note(j.seg, b)
	b.finish(nil)
	t.last.at = b.base + frameRoom
	return w.show(&t.last, j.seg)
}
