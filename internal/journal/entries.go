package journal

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// Body reads a body back, whole and checked against its digest. It fails with ErrBodyGone and with ErrCorrupt.
func (j *Journal) Body(l Location) ([]byte, error) {
	if l == (Location{}) {
		return nil, ErrBodyGone
	}
	s := j.holder(l.Segment)
	if s == nil {
		return nil, ErrBodyGone
	}
	if l.Offset < preambleSize+headerSize+digestSize || l.Length > maxBatch {
		return nil, corruptAt(s, int64(l.Offset), "no body stands there")
	}
	p := make([]byte, digestSize+int(l.Length))
	_, err := s.ReadAt(p, int64(l.Offset)-digestSize)
	if err != nil && !errors.Is(err, io.EOF) {
		if errors.Is(err, errSegmentGone) {
			return nil, ErrBodyGone
		}
		return nil, fmt.Errorf("journal: read %s: %w", s.path, err)
	}
	if err == nil && holds(p[digestSize:], p[:digestSize]) {
		return p[digestSize:], nil
	}
	if j.stripped(s) {
		return nil, ErrBodyGone
	}
	return nil, corruptAt(s, int64(l.Offset), "a body is not what its digest says")
}

// holder is the segment with that number; nil when it has gone.
func (j *Journal) holder(number uint32) *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, list := range [][]*segment{j.segments, j.ghosts} {
		for _, s := range list {
			if s.number == number {
				return s
			}
		}
	}
	return nil
}

// stripped reports whether bodies of s have been given up, so that one that does not hold is no damage.
func (j *Journal) stripped(s *segment) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return s.stripped != 0
}

// extent is how much of a segment an iteration may read.
type extent struct {
	s *segment
	span
}

// extents are the segments as they are now.
func (j *Journal) extents() []extent {
	j.mu.Lock()
	defer j.mu.Unlock()
	x := make([]extent, len(j.segments))
	for i, s := range j.segments {
		x[i] = extent{s, s.span}
		x[i].bodies = nil // changes under mu
	}
	return x
}

// Entries yields what was durable when the iteration began, from seq on, the journal's own kinds included. A segment
// that is dropped meanwhile is left out. The iteration ends after an error.
func (j *Journal) Entries(from uint64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) { readAll(j.extents(), from, j.Now().UnixNano(), yield) }
}

func readAll(spans []extent, from uint64, now int64, yield func(Stored, error) bool) {
	for _, x := range spans {
		if x.last >= from && !x.read(from, now, yield) {
			return
		}
	}
}

func (x *extent) read(from uint64, now int64, yield func(Stored, error) bool) (more bool) {
	r := frames{s: x.s, limit: int64(x.end)}
	for off := int64(preambleSize); off < r.limit; {
		f, err := r.read(off)
		if errors.Is(err, errSegmentGone) {
			return true
		}
		if err != nil {
			yield(Stored{}, damaged(x.s, off, err))
			return false
		}
		off = int64(f.end())
		more = true
		f.each(func(e *rawEntry) bool {
			if e.seq >= from {
				more = yield(x.stored(&f, e, now), nil)
			}
			return more
		})
		if !more {
			return false
		}
	}
	return true
}

func (x *extent) stored(f *frame, e *rawEntry, now int64) Stored {
	st := stored(f, e, x.s.number)
	if e.hasBody && (e.until <= now || e.until <= x.stripped) {
		st.Body, st.Dropped = Location{}, true
	}
	return st
}
