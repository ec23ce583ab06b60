package journal

import (
	"errors"
	"fmt"
	"iter"
	"time"
)

// Reader reads a journal without taking it: a stopped one, or one that another process writes to. It shows the journal
// as it was when Read returned. One goroutine may use it.
type Reader struct {
	id    identity
	spans []extent
	torn  int64 // bytes behind the last frame shown that are not zero
	live  bool
}

// ErrNoHead says that a journal has no head at a sequence number: no commit ended with that entry, or it is older than
// what the journal still holds.
var ErrNoHead = errors.New("the journal has no head there")

// Read opens the journal in dir for reading. fs is nil for the operating system's. What nothing acknowledged yet is
// left out while a process has the journal, and shown when none does, because recovery would take it too.
func Read(dir string, fs FS) (r *Reader, err error) {
	if fs == nil {
		fs = OS()
	}
	for try := 0; ; try++ {
		live := fs.Locked(dir)
		r, err = read(dir, fs, live)
		moving := live || fs.Locked(dir)
		if err == nil || !moving || try == 10 || !errors.Is(err, ErrCorrupt) && !isMissing(err) {
			return r, err
		}
		time.Sleep(10 * time.Millisecond) // its writer went on between two of our looks
	}
}

func read(dir string, fs FS, live bool) (*Reader, error) {
	id, err := readIdentity(fs, dir)
	if err != nil && !isMissing(err) {
		return nil, fmt.Errorf("journal: %s: %w", dir, err)
	}
	named := err == nil
	l, err := readLayout(fs, dir, false)
	if err != nil {
		return nil, fmt.Errorf("journal: read %s: %w", dir, err)
	}
	r := &Reader{id: id, live: live}
	switch {
	case len(l.live) == 0 && named:
		return nil, errNoSegments(dir)
	case len(l.live) == 0:
		return nil, fmt.Errorf("journal: there is none in %s", dir)
	case !named:
		r.id.ID = l.id
	case id.ID != l.id:
		l.close()
		return nil, fmt.Errorf("%w: %s does not belong to the segments beside it", ErrCorrupt, identityName)
	}
	if err := r.measure(l.live); err != nil {
		l.close()
		return nil, err
	}
	return r, nil
}

// measure finds how much of each segment is shown, and what its seals say it holds.
func (r *Reader) measure(live []*segment) error {
	newest := live[len(live)-1]
	t, err := findTail(newest)
	if err != nil {
		return err
	}
	newest.end = t.end
	if r.live && t.flags&flagUnsynced == 0 && !t.clean {
		newest.end = t.acked
	}
	tail := frames{s: newest, limit: newest.allocated.Load()}
	if empty, err := tail.zeros(int64(t.end)); err == nil && !empty {
		r.torn = tail.limit - int64(t.end)
	}
	for i, s := range live {
		x := extent{s, s.span}
		x.last, x.firstTime, x.lastTime = ^uint64(0), s.seal.time, 1<<63-1
		if i+1 < len(live) {
			x.last, x.lastTime = live[i+1].seal.last, live[i+1].seal.time
		}
		r.spans = append(r.spans, x)
	}
	return nil
}

// Close lets go of the files.
func (r *Reader) Close() {
	for _, x := range r.spans {
		x.s.close()
	}
}

// ID is the journal's name, hex.
func (r *Reader) ID() string { return r.id.String() }

// Entries yields what the reader shows, from seq on, the journal's own kinds included. It ends after an error.
func (r *Reader) Entries(from uint64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) { readAll(r.spans, from, time.Now().UnixNano(), yield) }
}

// Since is a sequence number below which there is no entry of time at or later: where a query may begin. It is as
// coarse as segments are.
func (r *Reader) Since(at time.Time) uint64 { return since(r.spans, at) }

// ChainAt is the chain value after the entry seq, if a head could have named it. Otherwise it fails with ErrNoHead.
func (r *Reader) ChainAt(seq uint64) ([32]byte, error) { return chainAt(r.spans, seq) }

// Since is a sequence number below which there is no entry of time at or later: where a query may begin. It is as
// coarse as segments are.
func (j *Journal) Since(at time.Time) uint64 { return since(j.extents(), at) }

// ChainAt is the chain value after the entry seq, if a head could have named it. Otherwise it fails with ErrNoHead.
func (j *Journal) ChainAt(seq uint64) ([32]byte, error) { return chainAt(j.extents(), seq) }

func since(spans []extent, at time.Time) (seq uint64) {
	n := at.UnixNano()
	for i, x := range spans {
		if x.lastTime >= n || i == len(spans)-1 {
			return x.s.seal.last + 1
		}
	}
	return 1
}

func chainAt(spans []extent, seq uint64) (chain [32]byte, err error) {
	for i, x := range spans {
		if i == 0 && seq < x.s.seal.last {
			return chain, fmt.Errorf("%w: entries up to %d have been dropped", ErrNoHead, x.s.seal.last)
		}
		if seq == x.s.seal.last {
			return x.s.seal.chain, nil
		}
		if x.last < seq {
			continue
		}
		r := frames{s: x.s, limit: int64(x.end)}
		for off := int64(preambleSize); off < r.limit; {
			f, err := r.read(off)
			if err != nil {
				return chain, damaged(x.s, off, err)
			}
			if f.count > 0 && f.lastSeq() == seq {
				return f.chain, nil
			}
			off = int64(f.end())
		}
	}
	return chain, fmt.Errorf("%w: no commit ends with entry %d", ErrNoHead, seq)
}

// damaged names the place of a frame that should be there.
func damaged(s *segment, off int64, err error) error {
	if errors.Is(err, errNoFrame) {
		return corruptAt(s, off, "a frame that was acknowledged is damaged")
	}
	return err
}
