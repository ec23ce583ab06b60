package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// layout is which files of a directory are the journal's facts, and how they hang together.
type layout struct {
	id    [16]byte
	live  []*segment // oldest first; each but the last has its sealed end in span.end
	waste []string   // paths of files that hold no facts: spares, segments whose first frame nothing relies on
	top   uint32     // highest number seen
}

// candidate is a segment file as it was found.
type candidate struct {
	s    *segment
	ok   bool // its first frame holds
	more bool // a valid frame follows the first
}

func (l *layout) close() {
	for _, s := range l.live {
		s.close()
	}
}

// readLayout opens the segments of dir and finds those that are linked, from the newest back by their seals.
func readLayout(fs FS, dir string, write bool) (l *layout, err error) {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	l = &layout{}
	found := map[uint32]*candidate{}
	defer func() {
		if err != nil {
			for _, c := range found {
				c.s.close()
			}
		}
	}()
	for _, name := range names {
		number := segmentNumber(name)
		if number == 0 {
			if leftover(name) {
				l.waste = append(l.waste, filepath.Join(dir, name))
			}
			continue
		}
		l.top = max(l.top, number)
		c, err := l.examine(fs, dir, number, write)
		if err != nil {
			return nil, err
		}
		found[number] = c
	}
	return l, l.link(found)
}

// leftover reports whether a file is one that this package was about to rename.
func leftover(name string) bool {
	base, isNew := strings.CutSuffix(name, ".new")
	return strings.HasSuffix(name, spareSuffix) || isNew && (base == identityName || segmentNumber(base) != 0)
}

// examine opens a segment and reads its first frame. A segment without one is not an error yet: power may have failed
// while it was begun. But nothing can stand behind a first frame that does not hold.
func (l *layout) examine(fs FS, dir string, number uint32, write bool) (*candidate, error) {
	s, id, ok, err := openSegment(fs, dir, number, write)
	if err != nil {
		return nil, err
	}
	c := &candidate{s: s}
	r := frames{s: s, limit: s.allocated.Load()}
	if !ok {
		empty, err := r.zeros(preambleSize)
		if err == nil && !empty {
			err = corruptAt(s, 0, "its head is damaged")
		}
		if err != nil {
			s.close()
			return nil, err
		}
		return c, nil
	}
	f, err := r.read(preambleSize)
	switch {
	case err == nil && f.flags&flagSeal != 0:
		s.seal = f.seal
		if l.id == [16]byte{} {
			l.id = id
		}
		if id != l.id {
			s.close()
			return nil, corruptAt(s, 0, "it belongs to another journal")
		}
		held := f.bodiesHold(s.stripped)
		_, err = r.read(int64(f.end()))
		c.more = err == nil
		if c.ok = held || c.more; !c.ok { // torn, and nothing relies on it
			err = r.unrelied(preambleSize)
		}
	case err == nil:
		err = corruptAt(s, preambleSize, "its first frame has no seal")
	case errors.Is(err, errNoFrame):
		_, err = r.torn(preambleSize) // a writer that was faster is seen the next time
	}
	if err != nil && !errors.Is(err, errNoFrame) {
		s.close()
		return nil, err
	}
	return c, nil
}

// link follows the seals back from the newest segment.
func (l *layout) link(found map[uint32]*candidate) error {
	numbers := make([]uint32, 0, len(found))
	for n := range found {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	var want, end uint32 // the segment that the newer one sealed, and where
	for _, n := range numbers {
		c := found[n]
		switch {
		case want == 0 && len(l.live) == 0 && c.ok, want == n:
			if !c.ok {
				return corruptAt(c.s, preambleSize, "its first frame is damaged")
			}
			c.s.end = end
			l.live = append(l.live, c.s)
			want, end = c.s.seal.segment, c.s.seal.end
			if want >= n {
				return corruptAt(c.s, preambleSize, "it follows segment %d", want)
			}
		case c.more:
			return corruptAt(c.s, preambleSize, "no newer segment follows it, but it is not the newest")
		default: // it was begun, and given up before anything relied on it
			c.s.close()
			l.waste = append(l.waste, c.s.path)
		}
	}
	slices.Reverse(l.live)
	return nil
}

// errNoSegments is for a directory that had a journal and has lost it.
func errNoSegments(dir string) error {
	return fmt.Errorf("%w: %s has the name of a journal but none of its segments; restore them from a backup, or remove %s "+
		"to start with an empty journal (what ran before is then forgotten)", ErrCorrupt, dir, identityName)
}
