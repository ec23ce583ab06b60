package journal

import (
	"errors"
	"fmt"
	"time"
)

// walker reads frames in order and checks that each continues the one before.
type walker struct {
	fold  func(Stored) error // nil: only check
	now   int64              // bodies that may go at this time are shown as gone
	sums  *chaining          // non-nil: compute the chain, and check every body that should be there
	chain [32]byte
	last  uint64
	time  int64
	begun bool // the values above are of the journal, not zero
}

// sealed reads a segment that a newer one has sealed.
func (w *walker) sealed(s *segment, by seal) error {
	if err := w.until(s); err != nil {
		return err
	}
	if w.chain != by.chain || w.last != by.last {
		return corruptAt(s, int64(s.end), "it does not end as the next segment says: entries are missing or changed")
	}
	return nil
}

// until reads a segment up to s.end.
func (w *walker) until(s *segment) error {
	r := frames{s: s, limit: int64(s.end)}
	s.span = span{end: s.end}
	if !w.begun {
		w.chain, w.last, w.time, w.begun = s.seal.chain, s.seal.last, s.seal.time, true
	}
	if w.chain != s.seal.chain || w.last != s.seal.last {
		return corruptAt(s, preambleSize, "it does not go on where the segment before ends")
	}
	for off := int64(preambleSize); off < r.limit; {
		f, err := r.read(off)
		if errors.Is(err, errNoFrame) {
			return corruptAt(s, off, "a frame that was acknowledged is damaged")
		}
		if err == nil {
			err = w.step(s, &f)
		}
		if err != nil {
			return err
		}
		off = int64(f.end())
	}
	return nil
}

// step takes one frame.
func (w *walker) step(s *segment, f *frame) error {
	if f.first <= w.last || f.time < w.time || f.flags&flagSeal != 0 && f.offset != preambleSize {
		return corruptAt(s, int64(f.offset), "a frame is out of order")
	}
	if f.count == 0 && f.chain != w.chain {
		return corruptAt(s, int64(f.offset), "the chain is broken: entries are missing or changed")
	}
	end := s.end
	s.note(f)
	s.end = max(end, s.end)
	w.chain, w.time = f.chain, f.time
	if f.count > 0 {
		w.last = s.last
	}
	return w.show(f, s.number)
}

// show folds the entries of a frame.
func (w *walker) show(f *frame, number uint32) (err error) {
	if w.fold == nil {
		return nil
	}
	f.each(func(e *rawEntry) bool {
		if e.kind < firstForeign {
			return true
		}
		st := stored(f, e, number)
		if e.hasBody && e.until <= w.now {
			st.Body, st.Dropped = Location{}, true
		}
		if err = w.fold(st); err != nil {
			err = fmt.Errorf("journal: entry %d: %w", e.seq, err)
		}
		return err == nil
	})
	return err
}

func stored(f *frame, e *rawEntry, number uint32) Stored {
	st := Stored{Seq: e.seq, Time: time.Unix(0, f.time).UTC(), Kind: e.kind, Fact: e.fact}
	if e.hasBody {
		st.Body = Location{Segment: number, Offset: f.at + uint32(e.bodyAt), Length: uint32(len(e.body))}
	}
	return st
}

// tail is how the newest segment ends.
type tail struct {
	end   uint32 // of the last good frame
	acked uint32 // everything below was acknowledged
	last  frame  // the last good frame, if it is not below acked; its own copy
	flags uint32 // of the last good frame
	clean bool   // it was closed, and nothing was written since
}

// findTail finds the last good frame of the newest segment. A bad frame is torn, and is cut with all behind it, unless
// a later one acknowledges an offset beyond it.
func findTail(s *segment) (t tail, err error) {
	r := frames{s: s, limit: s.allocated.Load()}
	start := int64(preambleSize)
	for off := start; ; {
		f, err := r.read(off)
		if errors.Is(err, errNoFrame) {
			t.end = uint32(off)
			break
		}
		if err != nil {
			return t, err
		}
		start, off = off, int64(f.end())
		t.acked, t.flags = max(t.acked, f.acked), f.flags
	}
	at, found, err := r.later(int64(t.end))
	if err != nil {
		return t, err
	}
	if found {
		return t, corruptAt(s, int64(t.end), "a damaged frame stands before a good one at %d that acknowledges it", at)
	}
	f, err := r.read(start)
	if err != nil {
		return t, err
	}
	if !f.bodiesHold() { // torn within a body
		t.end, t.flags = uint32(start), f.flags
		if f.flags&flagUnsynced == 0 {
			t.acked = t.end
		}
		return t, nil
	}
	t.last = f
	t.last.entries = append([]byte(nil), f.entries...)
	t.clean = t.flags&flagClosed != 0
	if t.clean {
		t.clean, err = r.zeros(int64(t.end))
	}
	return t, err
}
