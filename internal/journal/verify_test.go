package journal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"
)

// closed makes a small journal of several segments that was stopped as it should be.
func closed(t *testing.T) (*faultFS, *story) {
	t.Helper()
	fs, s := newFaultFS(), newStory()
	for range 3 {
		j, err := Open(Options{Dir: "d", FS: fs, Segment: 2048}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for i, size := range []int{1, 200, 30, 400, 5} {
			s.write(j, 1+i%3, size, false)
		}
		shut(t, j)
	}
	return fs, s
}

func verify(fs *faultFS) (Report, error) {
	r, err := Read("d", fs)
	if err != nil {
		return Report{}, err
	}
	defer r.Close()
	return r.Verify()
}

// TestEveryBit flips each bit of each file. Verify sees it, but in the last frame, which nothing acknowledges: there
// every fact is still read, as it is when the process opens the journal again.
func TestEveryBit(t *testing.T) {
	fs, s := closed(t)
	whole, err := verify(fs)
	if err != nil {
		t.Fatal(err)
	}
	flips, torn := 0, 0
	for name, n := range fs.names {
		for at := range n.cache {
			for bit := range 8 {
				if testing.Short() && bit != at%8 {
					continue
				}
				n.cache[at] ^= 1 << bit
				rep, err := verify(fs)
				flips++
				switch {
				case err == nil && rep.Torn == headerSize && rep.Entries == whole.Entries && rep.Head == whole.Head:
					torn++
				case err == nil:
					t.Fatalf("%s: bit %d of byte %d of %d: %+v", name, bit, at, len(n.cache), rep)
				case !errors.Is(err, ErrCorrupt):
					t.Fatalf("%s: bit %d of byte %d: %v", name, bit, at, err)
				}
				if bit == at%8 && at%5 == 0 {
					if err := s.opens(fs.killed()); err != nil {
						t.Fatalf("%s: bit %d of byte %d: %v", name, bit, at, err)
					}
				}
				n.cache[at] ^= 1 << bit
			}
		}
	}
	if torn != headerSize*8 && !testing.Short() || torn == 0 {
		t.Fatalf("%d flips are taken for a torn write, want those of the last frame", torn)
	}
	t.Logf("%d flips", flips)
}

// opens checks that a journal refuses, or shows every fact and no body that is not what was written.
func (s *story) opens(fs *faultFS) error {
	var facts []string
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 2048}, func(e Stored) error { facts = append(facts, string(e.Fact)); return nil })
	if errors.Is(err, ErrCorrupt) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.Close(context.Background())
	for e, err := range j.Entries(0) {
		if err != nil {
			return err
		}
		if e.Body == (Location{}) {
			continue
		}
		if body, err := j.Body(e.Body); err == nil && string(body) != "body of "+string(e.Fact) || err != nil && !errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("body of %d: %q, %v", e.Seq, body, err)
		}
	}
	return s.holds(facts, false)
}

// TestEveryByteMissing cuts bytes out of the middle and swaps whole frames and files.
func TestEveryByteMissing(t *testing.T) {
	fs, _ := closed(t)
	whole, err := verify(fs)
	if err != nil {
		t.Fatal(err)
	}
	n := fs.names[segmentName(2)]
	was := n.cache
	for at := range was {
		n.cache = slices.Delete(slices.Clone(was), at, at+1)
		rep, err := verify(fs)
		if at >= len(was)-headerSize && err == nil && rep.Head == whole.Head && rep.Torn > 0 {
			continue // of the last frame, which nothing acknowledges
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d of %d missing: %v", at, len(was), err)
		}
	}
	n.cache = was
	one, two := fs.names[segmentName(1)], fs.names[segmentName(2)]
	for what, change := range map[string]func(){
		"first segment missing":  func() { delete(fs.names, segmentName(1)) },
		"second segment missing": func() { delete(fs.names, segmentName(2)) },
		"segments swapped":       func() { fs.names[segmentName(1)], fs.names[segmentName(2)] = two, one },
		"all segments missing": func() {
			for name := range fs.names {
				if segmentNumber(name) != 0 {
					delete(fs.names, name)
				}
			}
		},
	} {
		names := fs.clone().names
		change()
		if _, err := verify(fs); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil }); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s: open: %v", what, err)
		}
		fs.names = names
	}
}

// TestRewritten has someone who knows the format write another fact, with a checksum that holds.
func TestRewritten(t *testing.T) {
	fs, _ := closed(t)
	n := fs.names[segmentName(1)]
	s, _, ok, err := openSegment(fs, "d", 1, false)
	if err != nil || !ok {
		t.Fatal(err)
	}
	r := frames{s: s, limit: int64(len(n.cache))}
	f, err := r.read(preambleSize)
	for err == nil && f.count == 0 {
		f, err = r.read(int64(f.end()))
	}
	if err != nil {
		t.Fatal(err)
	}
	f.entries[entrySize+bodyExtra]++
	h := f.header
	out := n.cache[f.offset:f.end()]
	for forge := range 2 { // the fact alone, and the chain value beside it
		if forge == 1 {
			h.chain = (&chaining{}).after([32]byte{}, &f)
		}
		reframe(out, &h, &f, s.seed)
		copy(n.cache[f.at:], f.entries)
		if _, err := verify(fs); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "chain") && !strings.Contains(err.Error(), "next segment") {
			t.Fatalf("forged %d: %v", forge, err)
		}
	}
}

// reframe writes the header of a frame whose entries have been changed, with a checksum that holds.
func reframe(out []byte, h *header, f *frame, seed uint32) {
	putHeader(out, h)
	crc := crc32.Update(seed, castagnoli, out[:headerSize-4])
	if h.flags&flagSeal != 0 {
		crc = crc32.Update(crc, castagnoli, out[headerSize:frameRoom])
	}
	crc, _ = f.check(crc)
	le.PutUint32(out[headerSize-4:], crc)
}

func TestHeads(t *testing.T) {
	fs := newFaultFS()
	opt := Options{Dir: "d", FS: fs, Segment: 2048}
	var heads []Head
	for range 3 {
		j, err := Open(opt, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			add(t, j, entriesOf([]string{fmt.Sprint(i), strings.Repeat("x", 300)}, false)...)
			heads = append(heads, j.Status().Head)
		}
		shut(t, j)
		heads = append(heads, j.Status().Head)
	}
	r, err := Read("d", fs)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep, err := r.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if rep.Head != heads[len(heads)-1] || rep.Head.Seq != 30 || rep.Entries != 30 || rep.Bodies != 15 || rep.ID == "" || rep.Torn != 0 {
		t.Fatalf("report %+v", rep)
	}
	for i, h := range heads {
		if i > 0 && h.Seq < heads[i-1].Seq {
			t.Fatalf("head %d goes back", i)
		}
		if chain, err := r.ChainAt(h.Seq); err != nil || chain != h.Chain {
			t.Fatalf("head at %d: %v", h.Seq, err)
		}
	}
	for _, seq := range []uint64{1, 31} {
		if _, err := r.ChainAt(seq); !errors.Is(err, ErrNoHead) {
			t.Fatalf("head at %d: %v", seq, err)
		}
	}
}

// TestHeadSurvivesRecovery: a head that was given out names the same entries after a crash.
func TestHeadSurvivesRecovery(t *testing.T) {
	fs := newFaultFS()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	var heads []Head
	for range 10 {
		add(t, j, entriesOf([]string{"a", "b"}, false)...)
		st := j.Status()
		chain, err := j.ChainAt(st.Newest)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, Head{Seq: st.Newest, Chain: chain}, st.Head)
		fs.mu.Lock()
		dead := fs.powerLost(len(fs.pending), none)
		fs.mu.Unlock()
		k, err := Open(Options{Dir: "d", FS: dead, Segment: 8192}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range heads {
			if chain, err := k.ChainAt(h.Seq); err != nil || chain != h.Chain {
				t.Fatalf("head at %d after a crash: %v", h.Seq, err)
			}
		}
		shut(t, k)
	}
	shut(t, j)
}

// TestReadWhileRunning hides what nothing acknowledged for as long as a process has the journal.
func TestReadWhileRunning(t *testing.T) {
	fs := newFaultFS()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		add(t, j, Entry{Kind: 32, Fact: fmt.Append(nil, i)})
	}
	count := func(fs *faultFS) (n int) {
		r, err := Read("d", fs)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Verify(); err != nil {
			t.Fatal(err)
		}
		for _, err := range r.Entries(0) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if n := count(fs); n != 3 {
		t.Fatalf("%d entries while it runs, want 3", n)
	}
	fs.mu.Lock()
	dead := fs.killed()
	fs.mu.Unlock()
	if n := count(dead); n != 4 {
		t.Fatalf("%d entries after it was killed, want 4", n)
	}
	for j.Status().Head.Seq < 4 { // an idle committer acknowledges by itself
		time.Sleep(time.Millisecond)
	}
	if n := count(fs); n != 4 {
		t.Fatalf("%d entries after it was idle, want 4", n)
	}
	shut(t, j)
}

// TestReadBehindAWriter reads a journal over and over while another process writes, rotates and drops.
func TestReadBehindAWriter(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, Options{Dir: dir, Segment: 32 << 10, Retention: time.Nanosecond, Carry: func(uint64, func(Entry)) error { return nil }})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 600 {
			c, err := j.Append(entriesOf([]string{fmt.Sprint(i)}, false)...)
			if err == nil {
				err = c.Wait(context.Background())
			}
			if err == nil && i%150 == 149 {
				err = j.Maintain(context.Background())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for reads := 0; ; reads++ {
		select {
		case <-done:
			if reads == 0 || j.Status().Oldest == 1 {
				t.Fatalf("%d reads, %+v", reads, j.Status())
			}
			shut(t, j)
			return
		default:
		}
		r, err := Read(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Verify(); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
}
