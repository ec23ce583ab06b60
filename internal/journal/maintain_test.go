package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// wound is a clock that a test winds.
type wound struct{ ns atomic.Int64 }

func windUp() *wound {
	w := &wound{}
	w.ns.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return w
}

func (w *wound) now() time.Time      { return time.Unix(0, w.ns.Load()) }
func (w *wound) add(d time.Duration) { w.ns.Add(int64(d)) }

const aged = 40

// bodyOf is long enough that giving every second one up is worth a rewrite.
func bodyOf(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "body %d ", i), 80) }

// age writes facts of which every second one's body expires in an hour.
func age(t *testing.T, j *Journal, w *wound) {
	t.Helper()
	for i := range aged {
		until := w.now().Add(time.Hour)
		if i%2 == 1 {
			until = farOff
		}
		add(t, j, Entry{Kind: 32, Fact: fmt.Append(nil, i), Body: bodyOf(i), BodyUntil: until})
	}
}

// carrier is a store that has one piece of live state.
func carrier(calls *int) func(uint64, func(Entry)) error {
	return func(before uint64, emit func(Entry)) error {
		*calls++
		emit(Entry{Kind: 33, Fact: fmt.Append(nil, before)})
		return nil
	}
}

func TestBodiesExpire(t *testing.T) {
	w := windUp()
	opt := Options{Dir: t.TempDir(), Segment: 8192, Now: w.now, Logf: t.Logf}
	j, _ := open(t, opt)
	age(t, j, w)
	before := j.Status()
	where := map[int]Location{}
	for e := range j.Entries(0) {
		where[int(e.Seq)-1] = e.Body
	}
	head := before.Head
	w.add(2 * time.Hour)
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	after := j.Status()
	// None is dropped; one may begin, when the keeper has just made a better spare.
	if after.Bytes > before.Bytes*8/10 || after.Segments < before.Segments {
		t.Fatalf("%d bytes in %d segments before, %d in %d after", before.Bytes, before.Segments, after.Bytes, after.Segments)
	}
	check := func(j *Journal) {
		t.Helper()
		gone := 0
		for i, l := range where {
			body, err := j.Body(l)
			switch {
			case err == nil && bytes.Equal(body, bodyOf(i)):
			case i%2 == 0 && errors.Is(err, ErrBodyGone):
				gone++
			default:
				t.Fatalf("body %d: %q, %v", i, body, err)
			}
		}
		if gone < aged/2-10 {
			t.Fatalf("%d bodies have gone", gone)
		}
		if chain, err := j.ChainAt(head.Seq); err != nil || chain != head.Chain {
			t.Fatalf("head: %v", err)
		}
	}
	check(j)
	bytesNow := after.Bytes
	if err := j.Maintain(context.Background()); err != nil || j.Status().Bytes > bytesNow+1000 {
		t.Fatalf("once more: %d bytes, %v", j.Status().Bytes, err)
	}
	shut(t, j)
	j, got := open(t, opt)
	check(j)
	for i, s := range got {
		if s.Dropped != (i%2 == 0) || s.Dropped != (s.Body == Location{}) {
			t.Fatalf("entry %d: %+v", i, s)
		}
	}
	if n := j.Status().Bytes; n > bytesNow+1000 {
		t.Fatalf("%d bytes after reopening", n)
	}
	w.ns.Store(farOff.Add(time.Hour).UnixNano())
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	r, err := Read(opt.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep, err := r.Verify()
	if err != nil || rep.Gone < aged-12 {
		t.Fatalf("%+v, %v", rep, err)
	}
}

// TestBodyGivesWay: near max_bytes bodies go before their time, facts do not.
func TestBodyGivesWay(t *testing.T) {
	w := windUp()
	j, _ := open(t, Options{Dir: t.TempDir(), Segment: 64 << 10, MaxBytes: 2 << 20, Now: w.now})
	defer shut(t, j)
	var refused error
	n := 0
	for ; refused == nil; n++ {
		c, err := j.Append(Entry{Kind: 32, Fact: fmt.Append(nil, n), Body: make([]byte, 10<<10), BodyUntil: farOff})
		if refused = err; err == nil {
			if err := c.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(refused, ErrUnavailable) {
		t.Fatal(refused)
	}
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	add(t, j, Entry{Kind: 32, Fact: []byte("again")})
	facts, gone := 0, 0
	for e, err := range j.Entries(0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == 32 {
			facts++
			if e.Dropped {
				gone++
			}
		}
	}
	if facts != n || gone == 0 {
		t.Fatalf("%d facts of %d, %d bodies given up", facts, n, gone)
	}
}

func TestSegmentsExpire(t *testing.T) {
	w := windUp()
	carried := 0
	opt := Options{Dir: t.TempDir(), Segment: 4096, Now: w.now, Retention: 24 * time.Hour, Carry: carrier(&carried), Logf: t.Logf}
	j, _ := open(t, opt)
	age(t, j, w)
	if err := j.Maintain(context.Background()); err != nil || carried != 0 || j.Status().Oldest != 1 {
		t.Fatalf("%d carried, oldest %d: %v", carried, j.Status().Oldest, err)
	}
	segments := j.Status().Segments
	w.add(25 * time.Hour)
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	st := j.Status()
	if carried < segments-1 || st.Oldest < aged/2 {
		t.Fatalf("%d carried of %d segments, %+v", carried, segments, st)
	}
	if _, err := j.Body(Location{Segment: 1, Offset: 1000, Length: 5}); !errors.Is(err, ErrBodyGone) {
		t.Fatalf("body of a segment that was dropped: %v", err)
	}
	shut(t, j)
	j, got := open(t, opt)
	if got[0].Seq != st.Oldest || got[len(got)-1].Kind != 33 {
		t.Fatalf("first %+v, last %+v", got[0], got[len(got)-1])
	}
	shut(t, j)
	r, err := Read(opt.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep, err := r.Verify()
	if err != nil || rep.Dropped != int64(st.Oldest-1) {
		t.Fatalf("%+v, %v", rep, err)
	}
	if _, err := r.ChainAt(1); !errors.Is(err, ErrNoHead) || !strings.Contains(err.Error(), "dropped") {
		t.Fatalf("head at 1: %v", err)
	}
}

func TestNoCarryNoDrop(t *testing.T) {
	w := windUp()
	fail := errors.New("not now")
	for _, carry := range []func(uint64, func(Entry)) error{nil, func(uint64, func(Entry)) error { return fail }} {
		j, _ := open(t, Options{Dir: t.TempDir(), Segment: 4096, Now: w.now, Retention: time.Hour, Carry: carry})
		age(t, j, w)
		w.add(25 * time.Hour)
		if err := j.Maintain(context.Background()); carry == nil && err != nil || carry != nil && !errors.Is(err, fail) {
			t.Fatal(err)
		}
		if j.Status().Oldest != 1 {
			t.Fatal("a segment was dropped")
		}
		shut(t, j)
	}
}

// TestCrashDuringMaintenance loses power at every change while bodies and segments go.
func TestCrashDuringMaintenance(t *testing.T) {
	w := windUp()
	fs := newFaultFS()
	carried := 0
	opt := Options{Dir: "d", FS: fs, Segment: 8192, Now: w.now, Retention: 24 * time.Hour, Carry: carrier(&carried)}
	j, err := Open(opt, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	age(t, j, w)
	var moments []moment
	fs.mu.Lock()
	fs.before = func(op, name string) { moments = append(moments, moment{op + " " + name, fs.clone(), nil}) }
	fs.mu.Unlock()
	for _, d := range []time.Duration{2 * time.Hour, 48 * time.Hour} {
		w.add(d)
		if err := j.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	fs.mu.Lock()
	fs.before = nil
	fs.mu.Unlock()
	shut(t, j)
	r := rand.New(rand.NewPCG(9, 10))
	for i, m := range moments {
		images := []*faultFS{m.fs.killed()}
		for names := range len(m.fs.pending) + 1 {
			for _, lose := range []loss{none, all, randomly(r, []byte{9}), randomly(r, []byte{0, 9})} {
				images = append(images, m.fs.powerLost(names, lose))
			}
		}
		for _, fs := range images {
			if err := maintained(fs, w); err != nil {
				t.Fatalf("crash %d of %d, before %s: %v", i, len(moments), m.op, err)
			}
		}
	}
	if carried == 0 || len(moments) < 30 {
		t.Fatalf("%d carried, %d changes", carried, len(moments))
	}
}

// maintained checks a journal whose maintenance was cut short.
func maintained(fs *faultFS, w *wound) error {
	early := windUp() // no body has expired: what the fold is told comes from the files
	missing, bodies, covered := uint64(0), map[int]Location{}, uint64(0)
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192, Now: early.now}, func(e Stored) error {
		var n uint64
		fmt.Sscan(string(e.Fact), &n)
		if e.Kind == 33 {
			covered = max(covered, n)
			return nil
		}
		if len(bodies) == 0 {
			missing = e.Seq - 1
		}
		if e.Dropped && e.Seq%2 == 0 {
			return fmt.Errorf("body of %d is gone", e.Seq)
		}
		bodies[int(n)] = e.Body
		return nil
	})
	if err != nil {
		return err
	}
	defer j.Close(context.Background())
	if len(bodies) == 0 { // the facts' last segment gave way to one that was written over, and went
		missing = aged
	}
	if missing > 0 && covered <= missing {
		return fmt.Errorf("%d facts are missing, state below %d was carried", missing, covered)
	}
	if len(bodies)+int(missing) != aged {
		return fmt.Errorf("%d facts, %d missing", len(bodies), missing)
	}
	for i, l := range bodies {
		body, err := j.Body(l)
		gone := i%2 == 0 || uint64(i) < j.Status().Oldest // Open has ended the removal of a segment
		if err == nil && bytes.Equal(body, bodyOf(i)) || gone && errors.Is(err, ErrBodyGone) {
			continue
		}
		return fmt.Errorf("body %d: %w", i, err)
	}
	if err := j.Close(context.Background()); err != nil {
		return err
	}
	_, err = verify(fs)
	return err
}

// TestEveryBitOfACompactSegment flips the bits of a segment that has lost bodies.
func TestEveryBitOfACompactSegment(t *testing.T) {
	w := windUp()
	fs := newFaultFS()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 4096, Now: w.now}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	age(t, j, w)
	w.add(2 * time.Hour)
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	if _, err := verify(fs); err != nil {
		t.Fatal(err)
	}
	n := fs.names[segmentName(2)]
	if string(n.cache[len(n.cache)-footerSize:][:8]) != string(footerMagic) {
		t.Fatal("segment 2 is not compact")
	}
	for at := range n.cache {
		n.cache[at] ^= 1 << (at % 8)
		if _, err := verify(fs); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d of byte %d of %d: %v", at%8, at, len(n.cache), err)
		}
		n.cache[at] ^= 1 << (at % 8)
	}
}

// A segment of one frame stays what it is when the body in it has gone.
func TestBodyOfTheOnlyFrameExpires(t *testing.T) {
	w := windUp()
	opt := Options{Dir: t.TempDir(), Segment: 4096, Now: w.now}
	j, _ := open(t, opt)
	body := bytes.Repeat([]byte("body"), 1000)
	for range 4 {
		add(t, j, Entry{Kind: 32, Fact: []byte("fact"), Body: body, BodyUntil: w.now().Add(time.Hour)})
	}
	before := j.Status().Bytes
	w.add(2 * time.Hour)
	if err := j.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := j.Status().Bytes; after > before/2 {
		t.Fatalf("%d bytes of %d are left", after, before)
	}
	shut(t, j)
	j, got := open(t, opt)
	defer shut(t, j)
	if len(got) != 4 {
		t.Fatalf("%d facts, want 4", len(got))
	}
}
