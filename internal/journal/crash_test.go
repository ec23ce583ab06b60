package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// story is what callers of a journal were told, so that a later one can be held to it.
type story struct {
	mu    sync.Mutex
	next  int
	told  map[string]fate // fact to what its caller was told last
	batch map[string]string
}

type fate int

const (
	asked   fate = iota // no answer yet: it may be there or not
	durable             // it must be there
	refused             // it must not be there
	kept                // deferred: it may be there or not yet
)

func newStory() *story { return &story{told: map[string]fate{}, batch: map[string]string{}} }

func (s *story) copy() *story {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newStory()
	c.next = s.next
	for k, v := range s.told {
		c.told[k] = v
	}
	for k, v := range s.batch {
		c.batch[k] = v
	}
	return c
}

func (s *story) tell(facts []string, f fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fact := range facts {
		s.told[fact] = f
	}
}

// begin invents n facts of one batch.
func (s *story) begin(n, size int) (facts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		fact := fmt.Sprintf("%06d%*s", s.next, size, "")
		s.next++
		s.told[fact] = asked
		facts = append(facts, fact)
	}
	for _, f := range facts {
		s.batch[f] = facts[0]
	}
	return facts
}

var farOff = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

func entriesOf(facts []string, must bool) (entries []Entry) {
	for i, f := range facts {
		e := Entry{Kind: 32, Fact: []byte(f), Must: must}
		if i%2 == 0 {
			e.Body, e.BodyUntil = []byte("body of "+f), farOff
		}
		entries = append(entries, e)
	}
	return entries
}

// write appends a batch and notes what it was told.
func (s *story) write(j *Journal, n, size int, must bool) {
	facts := s.begin(n, size)
	c, err := j.Append(entriesOf(facts, must)...)
	if err != nil {
		s.tell(facts, refused)
		return
	}
	s.hear(c, facts)
}

func (s *story) hear(c *Commit, facts []string) {
	err := c.Wait(context.Background())
	switch {
	case err == nil:
		s.tell(facts, durable)
	case errors.Is(err, ErrDeferred):
		s.tell(facts, kept)
	default:
		s.tell(facts, refused)
	}
}

// check opens a journal and holds it to the story. lenient lets refused facts come back.
func (s *story) check(fs *faultFS, lenient bool) (err error) {
	opt := Options{Dir: "d", FS: fs, Segment: 4096}
	var got []Stored
	var facts []string
	j, err := Open(opt, func(e Stored) error {
		got = append(got, e)
		facts = append(facts, string(e.Fact))
		return nil
	})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer j.Close(context.Background())
	if err := s.holds(facts, lenient); err != nil {
		return err
	}
	for i, e := range got {
		if i > 0 && (e.Seq <= got[i-1].Seq || e.Time.Before(got[i-1].Time)) {
			return fmt.Errorf("entry %d does not follow %d", e.Seq, got[i-1].Seq)
		}
		if e.Body != (Location{}) {
			body, err := j.Body(e.Body)
			if err != nil || string(body) != "body of "+facts[i] {
				return fmt.Errorf("body of entry %d: %q, %w", e.Seq, body, err)
			}
		}
	}
	return s.goesOn(j, fs, facts)
}

// holds compares what is there with what was told.
func (s *story) holds(facts []string, lenient bool) error {
	if !slices.IsSorted(facts) {
		return fmt.Errorf("out of order: %q", facts)
	}
	there := map[string]bool{}
	for _, f := range facts {
		if there[f] {
			return fmt.Errorf("%q is there twice", f)
		}
		there[f] = true
		told, known := s.told[f]
		if !known || told == refused && !lenient {
			return fmt.Errorf("%q is there: known %v, told %v", f, known, told)
		}
	}
	for f, told := range s.told {
		if told == durable && !there[f] {
			return fmt.Errorf("%q was acknowledged and is not there", f)
		}
		if there[f] != there[s.batch[f]] {
			return fmt.Errorf("%q is there without the rest of its batch", f)
		}
	}
	return nil
}

// goesOn checks that the journal that was opened takes entries, closes, verifies, and has the same facts again.
func (s *story) goesOn(j *Journal, fs *faultFS, facts []string) error {
	c, err := j.Append(Entry{Kind: 32, Fact: []byte("one more")})
	if err != nil {
		return err
	}
	if err := c.Wait(context.Background()); err != nil {
		return err
	}
	if err := j.Close(context.Background()); err != nil {
		return err
	}
	r, err := Read("d", fs)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer r.Close()
	if _, err := r.Verify(); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	var again []string
	for e, err := range r.Entries(0) {
		if err != nil {
			return err
		}
		if e.Kind >= firstForeign {
			again = append(again, string(e.Fact))
		}
	}
	if !slices.Equal(again, append(facts, "one more")) {
		return fmt.Errorf("%d facts after recovery, then %d with one more", len(facts), len(again))
	}
	return nil
}

// moment is the state of the disk before one change, with what callers had been told by then.
type moment struct {
	op    string
	fs    *faultFS
	story *story
}

// record runs a journal's life and returns its disk before every change it made, and at the end.
func record(t *testing.T, life func(*faultFS, *story)) (moments []moment) {
	t.Helper()
	fs, s := newFaultFS(), newStory()
	fs.before = func(op, name string) {
		moments = append(moments, moment{op + " " + name, fs.clone(), s.copy()})
	}
	life(fs, s)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.before = nil
	return append(moments, moment{"end", fs.clone(), s.copy()})
}

// aLife writes batches of many sizes over several segments, with a clean stop and a restart, and ends without one.
func aLife(t *testing.T, process bool, segment int64) func(fs *faultFS, s *story) {
	return func(fs *faultFS, s *story) {
		opt := Options{Dir: "d", FS: fs, Segment: segment, Process: process, Logf: t.Logf}
		for range 2 {
			j, err := Open(opt, func(Stored) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			for i, size := range []int{1, 700, 30, 1500, 5, 900, 400, 600, 1} {
				s.write(j, 1+i%3, size, i%2 == 0)
			}
			shut(t, j)
		}
		j, err := Open(opt, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		s.write(j, 2, 300, false)
		s.write(j, 2, 2600, false)
		t.Cleanup(func() { j.Close(context.Background()) })
	}
}

// TestCrash loses power at every change that a journal makes, in every way this fake knows.
func TestCrash(t *testing.T) {
	moments := record(t, aLife(t, false, 4096))
	garbage := moments[len(moments)/2].fs.names[segmentName(1)].cache
	r := rand.New(rand.NewPCG(1, 2))
	tried := 0
	for i, m := range moments {
		try := func(how string, fs *faultFS) {
			t.Helper()
			tried++
			if err := m.story.check(fs, false); err != nil {
				t.Fatalf("crash %d, before %s, %s: %v", i, m.op, how, err)
			}
		}
		try("process killed", m.fs.killed())
		for names := range len(m.fs.pending) + 1 {
			try("nothing unsynced", m.fs.powerLost(names, none))
			try("everything unsynced", m.fs.powerLost(names, all))
			for range 6 {
				try("torn", m.fs.powerLost(names, randomly(r, garbage)))
			}
		}
	}
	t.Logf("%d changes, %d crashes", len(moments), tried)
}

// TestCrashWithoutSync has durability process: a killed process loses nothing, and a loss of power at most the end.
func TestCrashWithoutSync(t *testing.T) {
	moments := record(t, aLife(t, true, 4096))
	r := rand.New(rand.NewPCG(3, 4))
	for i, m := range moments {
		if err := m.story.check(m.fs.killed(), false); err != nil {
			t.Fatalf("crash %d, before %s, killed: %v", i, m.op, err)
		}
		for range 6 {
			fs := m.fs.powerLost(r.IntN(len(m.fs.pending)+1), randomly(r, []byte{7, 0, 200}))
			j, err := Open(Options{Dir: "d", FS: fs, Segment: 4096}, func(Stored) error { return nil })
			if err != nil {
				t.Fatalf("crash %d, before %s: %v", i, m.op, err)
			}
			shut(t, j)
		}
	}
}

// TestTornEverywhere cuts the last write at every byte, and zeroes, keeps or fills every subset of its first sectors.
func TestTornEverywhere(t *testing.T) {
	var torn moment
	var length int
	var at int64
	moments := record(t, aLife(t, false, 16384))
	for i := len(moments) - 1; i > 0; i-- { // the last time a frame was written and not yet synced
		m := moments[i]
		for _, n := range m.fs.names {
			if len(n.pending) == 1 && len(n.pending[0].data) > length && n.pending[0].at > preambleSize {
				torn, length, at = m, len(n.pending[0].data), n.pending[0].at
			}
		}
	}
	t.Logf("tearing %d bytes, before %s", length, torn.op)
	if length == 0 {
		t.Fatal("no write to tear")
	}
	names := len(torn.fs.pending)
	for n := range length {
		if testing.Short() && n%7 != 0 {
			continue
		}
		if err := torn.story.check(torn.fs.powerLost(names, prefix(n)), false); err != nil {
			t.Fatalf("cut at %d of %d: %v", n, length, err)
		}
	}
	sectors := (at%sector + int64(length) + sector - 1) / sector
	for code := range 1 << (2 * 5) {
		if testing.Short() && code%7 != 0 {
			continue
		}
		// The first three sectors and the last two; the others are written.
		k, i := code, int64(-1)
		pick := func() int {
			if i++; i >= 3 && i < sectors-2 {
				return 3
			}
			p := k % 4
			k /= 4
			return p
		}
		fs := torn.fs.powerLost(names, sectorwise(pick, torn.fs.names[segmentName(1)].cache))
		if err := torn.story.check(fs, false); err != nil {
			t.Fatalf("sectors %d: %v", code, err)
		}
	}
}

// TestCrashDuringRecovery loses power again at every change that recovery makes, after losing it before.
func TestCrashDuringRecovery(t *testing.T) {
	moments := record(t, aLife(t, false, 4096))
	r := rand.New(rand.NewPCG(5, 6))
	tried := 0
	for i := 0; i < len(moments); i += 3 {
		m := moments[i]
		fs := m.fs.powerLost(r.IntN(len(m.fs.pending)+1), randomly(r, []byte{1, 2, 3}))
		var again []*faultFS
		fs.before = func(string, string) { again = append(again, fs.clone()) }
		j, err := Open(Options{Dir: "d", FS: fs, Segment: 4096}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		shut(t, j)
		for k, fs := range again {
			for _, lose := range []loss{none, all, randomly(r, []byte{9}), randomly(r, []byte{0, 9})} {
				tried++
				if err := m.story.check(fs.powerLost(r.IntN(len(fs.pending)+1), lose), false); err != nil {
					t.Fatalf("crash %d, before %s, then again at change %d: %v", i, m.op, k, err)
				}
			}
			if err := m.story.check(fs.killed(), false); err != nil {
				t.Fatalf("crash %d, before %s, then killed at change %d: %v", i, m.op, k, err)
			}
		}
	}
	t.Logf("%d crashes", tried)
}
