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
	sums  *chaining          // non-nil: compute the chain, and call body for every body
	body  func(*segment, *frame, *rawEntry)
	chain [32]byte
	last  uint64
	time  int64
	begun bool // the values above are of the journal, not zero

	drops  []dropped        // as the journal's own entries tell, oldest first
	strips map[uint32]int64 // segment to the time before which its bodies may have gone
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
	s.span = span{end: s.end, stripped: s.stripped, freed: s.freed}
	if !w.begun {
		w.chain, w.last, w.time, w.begun = s.seal.chain, s.seal.last, s.seal.time, true
	}
	if w.chain != s.seal.chain || w.last != s.seal.last {
		return corruptAt(s, preambleSize, "it does not go on where the segment before ends")
	}
	for off := int64(preambleSize); off < r.limit; {
		f, err := r.read(off)
		if err != nil {
			return damaged(s, off, err)
		}
		if err := w.step(s, &f); err != nil {
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
	if err := w.verify(s, f); err != nil {
		return err
	}
	end := s.end
	s.note(f)
	s.end = max(end, s.end)
	w.chain, w.time = f.chain, f.time
	if f.count > 0 {
		w.last = s.last
	}
	return w.show(f, s)
}

// show folds the entries of a frame, and takes the journal's own.
func (w *walker) show(f *frame, s *segment) (err error) {
	f.each(func(e *rawEntry) bool {
		if e.kind < firstForeign {
			err = w.own(e)
		} else if w.fold != nil {
			st := stored(f, e, s.number)
			if e.hasBody && e.until <= max(w.now, s.stripped) {
				st.Body, st.Dropped = Location{}, true
			}
			err = w.fold(st)
		}
		if err != nil {
			err = fmt.Errorf("journal: entry %d: %w", e.seq, err)
		}
		return err == nil
	})
	return err
}

func (w *walker) own(e *rawEntry) error {
	switch e.kind {
	case KindDropped:
		if d, ok := parseDropped(e.fact); ok {
			w.drops = append(w.drops, d)
			return nil
		}
	case KindStripped:
		if t, ok := parseStripped(e.fact); ok {
			if w.strips == nil {
				w.strips = map[uint32]int64{}
			}
			w.strips[t.segment] = max(w.strips[t.segment], t.before)
			return nil
		}
	}
	return fmt.Errorf("%w: an entry of kind %d that this version cannot read", ErrCorrupt, e.kind)
}

// rooted says whether the oldest segment begins the journal, or is the one after what was dropped.
func (w *walker) rooted(oldest *segment) error {
	sl := oldest.seal
	if sl.segment == 0 {
		return nil
	}
	for _, d := range w.drops {
		if d.segment == sl.segment && d.chain == sl.chain && d.last == sl.last {
			return nil
		}
	}
	return corruptAt(oldest, preambleSize, "segment %d before it is missing, and nothing says that it was dropped", sl.segment)
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
	start, off := int64(0), int64(preambleSize)
	for {
		f, err := r.read(off)
		if errors.Is(err, errNoFrame) {
			moved, err := r.torn(off)
			if err != nil {
				return t, err
			}
			if !moved {
				break
			}
			continue
		}
		if err != nil {
			return t, err
		}
		start, off = off, int64(f.end())
		t.acked, t.flags = max(t.acked, f.acked), f.flags
	}
	t.end = uint32(off)
	if start == 0 {
		return t, corruptAt(s, preambleSize, "its first frame is damaged")
	}
	f, err := r.read(start)
	if err != nil {
		return t, err
	}
	if !f.bodiesHold(s.stripped) { // torn within a body
		t.end = uint32(start)
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

// unrelied fails when a frame acknowledges what stands at off, which is damaged.
func (r *frames) unrelied(off int64) error {
	at, found, err := r.later(off)
	if err == nil && found {
		err = corruptAt(r.s, off, "a damaged frame stands before a good one at %d that acknowledges it", at)
	}
	return err
}

// torn says that the bad frame at off is one that power cut short: nothing behind it relies on it. moved means that
// it is there after all: its writer is another process, and was faster.
func (r *frames) torn(off int64) (moved bool, err error) {
	err = r.unrelied(off)
	if !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	r.buf = r.buf[:0]
	if _, again := r.read(off); again == nil {
		return true, nil
	}
	return false, err
}
