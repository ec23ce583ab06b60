package journal

import "fmt"

// Report is what Verify found in a journal that holds.
type Report struct {
	ID       string // hex
	Segments int
	First    uint64 // sequence numbers; 0 when there are none
	Last     uint64
	Entries  int64 // the journal's own included
	Dropped  int64 // entries dropped with their segments, as the journal itself tells
	Bodies   int64 // bodies that are here and hold
	Gone     int64 // bodies that have been given up
	Head     Head
	Torn     int64 // bytes behind the last frame that nothing acknowledges: a write that a crash cut short
}

// Verify reads everything and checks each frame, the order of entries, the chain across frames, segments and what was
// dropped, and every body that should be there. An error wraps ErrCorrupt and names file, offset and what is wrong.
// Entries cut off at the end leave no trace in the journal itself: compare ChainAt with a head that was kept elsewhere.
func (r *Reader) Verify() (Report, error) {
	v := verifier{missing: map[*segment]missing{}}
	v.sums = &chaining{}
	v.body = v.check
	rep := Report{ID: r.ID(), Segments: len(r.spans), Torn: r.torn}
	for i, x := range r.spans {
		x.s.end = x.end
		var err error
		if i+1 < len(r.spans) {
			err = v.sealed(x.s, r.spans[i+1].s.seal)
		} else {
			err = v.until(x.s)
		}
		if err != nil {
			return rep, err
		}
		if rep.First == 0 {
			rep.First = x.s.first
		}
		rep.Entries += x.s.count
	}
	if err := v.rooted(r.spans[0].s); err != nil {
		return rep, err
	}
	if err := v.excused(); err != nil {
		return rep, err
	}
	if n := len(v.drops); n > 0 {
		rep.Dropped = int64(v.drops[n-1].count)
	}
	rep.Bodies, rep.Gone = v.present, v.gone
	rep.Head = Head{Seq: v.last, Chain: v.chain}
	rep.Last = v.last
	return rep, nil
}

// verifier is a walker that also looks at bodies.
type verifier struct {
	walker
	present, gone int64
	missing       map[*segment]missing
}

// missing are bodies of a segment that are not what their digests say.
type missing struct {
	at    int64 // of the one that could go last
	until int64
}

func (v *verifier) check(s *segment, f *frame, e *rawEntry) {
	if holds(e.body, e.digest) {
		v.present++
		return
	}
	v.gone++
	m, have := v.missing[s]
	if !have || e.until > m.until {
		v.missing[s] = missing{at: int64(f.at) + int64(e.bodyAt), until: e.until}
	}
}

// excused says whether the journal tells of every body that is missing that it was given up.
func (v *verifier) excused() error {
	for s, m := range v.missing {
		before, told := v.strips[s.number]
		if !told || m.until > before {
			return corruptAt(s, m.at, "a body is not what its digest says")
		}
	}
	return nil
}

// verify checks what a plain read takes on trust: the chain and the bodies of a frame.
func (w *walker) verify(s *segment, f *frame) error {
	if w.sums == nil {
		return nil
	}
	if w.sums.after(w.chain, f) != f.chain {
		return corruptAt(s, int64(f.offset), "the chain is broken: entries are missing or changed")
	}
	f.each(func(e *rawEntry) bool {
		if e.hasBody {
			w.body(s, f, e)
		}
		return true
	})
	return nil
}

// String is one line for a person.
func (r Report) String() string {
	return fmt.Sprintf("journal %s: %d entries (%d to %d) in %d segments hold, %d were dropped", r.ID, r.Entries, r.First, r.Last, r.Segments, r.Dropped)
}
