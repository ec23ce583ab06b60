package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shown are the facts that a running journal shows.
func shown(t *testing.T, j *Journal) (facts []string) {
	t.Helper()
	for e, err := range j.Entries(0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind >= firstForeign {
			facts = append(facts, string(e.Fact))
		}
	}
	return facts
}

// mend waits until a Must entry is durable: by then the journal takes everything again.
func (s *story) mend(t *testing.T, j *Journal) {
	t.Helper()
	facts := s.begin(1, 10)
	c, err := j.Append(entriesOf(facts, true)...)
	if err == nil {
		err = c.Durable(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, told := range s.told {
		if told == kept {
			s.told[f] = durable // it stands before the one just written
		}
	}
	for _, f := range facts {
		s.told[f] = durable
	}
}

// TestOneFailure lets each change that a running journal makes fail once, and every one after it succeed.
// A failed sync has lost what was written, or has written it anyway.
func TestOneFailure(t *testing.T) {
	for _, anyway := range []bool{false, true} {
		t.Run(fmt.Sprint("written anyway ", anyway), func(t *testing.T) { oneFailure(t, anyway) })
	}
}

func oneFailure(t *testing.T, anyway bool) {
	r := rand.New(rand.NewPCG(7, 8))
	refusals, crashes := 0, 0
	for n, failed := 0, true; failed; n++ {
		fs, s := newFaultFS(), newStory()
		fs.anyway = anyway
		j, err := Open(Options{Dir: "d", FS: fs, Segment: 4096}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		var moments []moment
		fs.mu.Lock()
		changes := 0
		failed = false
		fs.before = func(op, name string) {
			if changes++; changes > n && changes < n+12 {
				moments = append(moments, moment{op + " " + name, fs.clone(), s.copy()})
			}
		}
		fs.fail = func(op, name string) error {
			if changes == n+1 {
				failed = true
				return syscall.EIO
			}
			return nil
		}
		fs.mu.Unlock()
		for i, size := range []int{1, 500, 800, 3, 900, 40, 700} {
			s.write(j, 1+i%3, size, i%2 == 1)
		}
		s.mend(t, j)
		if err := s.holds(shown(t, j), false); err != nil {
			t.Fatalf("change %d failed: %v", n, err)
		}
		for _, told := range s.told {
			if told == refused {
				refusals++
			}
		}
		fs.mu.Lock()
		fs.before = nil
		moments = append(moments, moment{"end", fs.clone(), s.copy()})
		fs.mu.Unlock()
		_ = j.Close(context.Background()) // may be what fails
		for _, m := range moments {
			for _, lose := range []loss{none, all, randomly(r, []byte{9})} {
				crashes++
				if err := m.story.check(m.fs.powerLost(r.IntN(len(m.fs.pending)+1), lose), false); err != nil {
					t.Fatalf("change %d failed, power lost before %s: %v", n, m.op, err)
				}
			}
			if err := m.story.check(m.fs.killed(), false); err != nil {
				t.Fatalf("change %d failed, killed before %s: %v", n, m.op, err)
			}
		}
	}
	if refusals == 0 {
		t.Fatal("nothing was ever refused")
	}
	t.Logf("%d crashes after a failure", crashes)
}

// TestKilledAfterFailedSync has the page cache show what the disk lost: it must be written again before it is fact.
func TestKilledAfterFailedSync(t *testing.T) {
	fs, s := newFaultFS(), newStory()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	s.write(j, 2, 10, false)
	var dead *faultFS
	fs.mu.Lock()
	failing := false
	fs.fail = func(op, name string) error {
		failing = failing || op == "sync" && !strings.HasSuffix(name, spareSuffix)
		if failing {
			return syscall.EIO
		}
		return nil
	}
	fs.before = func(op, name string) {
		if failing && dead == nil { // the first thing after the failed sync
			dead = fs.clone()
		}
	}
	fs.mu.Unlock()
	s.write(j, 2, 10, false)
	if dead == nil {
		t.Fatal("no sync failed")
	}
	_ = j.Close(context.Background())

	var facts []string
	fs = dead
	j, err = Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(e Stored) error { facts = append(facts, string(e.Fact)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(facts) != 4 {
		t.Fatalf("%d facts through the page cache, want 4", len(facts))
	}
	for _, f := range facts {
		s.told[f] = durable // the fold has seen them
	}
	fs.mu.Lock()
	lost := fs.powerLost(0, none)
	fs.mu.Unlock()
	_ = j.Close(context.Background())
	if err := s.check(lost, false); err != nil {
		t.Fatal(err)
	}
}

// TestDiskAway has a disk that takes nothing for a while: what must be kept is kept, in order, and what was refused
// never comes back, even when the process is killed in between.
func TestDiskAway(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS, 0} {
		onlySync := errno == 0 // what is written shows, but is not on the disk
		if onlySync {
			errno = syscall.EIO
		}
		fs, s := newFaultFS(), newStory()
		j, err := Open(Options{Dir: "the-dir", FS: fs, Segment: 4096}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		s.write(j, 2, 10, false)
		fs.mu.Lock()
		fs.fail = func(op, _ string) error {
			if onlySync && op != "sync" {
				return nil
			}
			return errno
		}
		fs.mu.Unlock()

		batch := s.begin(2, 10)
		c, err := j.Append(entriesOf(batch, false)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(context.Background()); !errors.Is(err, ErrNotDurable) || !errors.Is(err, errno) {
			t.Fatalf("%v: wait: %v", errno, err)
		}
		s.tell(batch, refused)
		for range 3 {
			s.write(j, 2, 10, true)
		}
		_, err = j.Append(Entry{Kind: 32, Fact: []byte("no")})
		want := map[syscall.Errno]string{syscall.EIO: "disk below the-dir fails", syscall.ENOSPC: "no space left on the-dir", syscall.EROFS: "read-only file system at the-dir"}[errno]
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v: append: %v", errno, err)
		}
		if st := j.Status(); !errors.Is(st.Err, ErrUnavailable) || st.Deferred != 6 {
			t.Fatalf("%v: status %+v", errno, st)
		}
		if n := len(shown(t, j)); n != 2 {
			t.Fatalf("%v: %d facts shown while the disk is away, want 2", errno, n)
		}
		fs.mu.Lock()
		dead := fs.killed()
		fs.mu.Unlock()
		if err := s.copy().check(dead, false); err != nil {
			t.Fatalf("%v: killed while the disk is away: %v", errno, err)
		}

		fs.mu.Lock()
		fs.fail = nil
		fs.mu.Unlock()
		s.mend(t, j)
		s.write(j, 2, 10, false)
		if st := j.Status(); st.Err != nil || st.Deferred != 0 {
			t.Fatalf("%v: status after it came back %+v", errno, st)
		}
		j.mu.Lock()
		if j.queued != 0 {
			t.Fatalf("%v: %d bytes are taken for queued", errno, j.queued)
		}
		j.mu.Unlock()
		shut(t, j)
		if err := s.check(fs.powerLost(0, none), false); err != nil {
			t.Fatalf("%v: %v", errno, err)
		}
	}
}

// TestFailureTakesTheQueueAlong: what was decided on a state that includes a failed frame fails with it.
func TestFailureTakesTheQueueAlong(t *testing.T) {
	fs := newFaultFS()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	add(t, j, Entry{Kind: 32, Fact: []byte("before")})
	fs.mu.Lock()
	inSync, goOn, once := make(chan struct{}), make(chan struct{}), true
	fs.fail = func(op, name string) error {
		if op != "sync" || strings.HasSuffix(name, spareSuffix) || !once {
			return nil
		}
		once = false
		close(inSync)
		<-goOn
		return syscall.EIO
	}
	fs.mu.Unlock()
	j.mu.Lock()
	j.room = room{at: time.Now().Add(time.Hour), left: 1 << 40} // this fake answers no question while it hangs
	j.mu.Unlock()
	first, err1 := j.Append(Entry{Kind: 32, Fact: []byte("fails")})
	<-inSync
	plain, err2 := j.Append(Entry{Kind: 32, Fact: []byte("is behind it")})
	must, err3 := j.Append(Entry{Kind: 33, Fact: []byte("is kept"), Body: []byte("body"), BodyUntil: farOff, Must: true}, Entry{Kind: 32, Fact: []byte("with it")})
	close(goOn)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, c := range []*Commit{first, plain} {
		if err := c.Wait(ctx); !errors.Is(err, ErrNotDurable) {
			t.Fatalf("wait: %v", err)
		}
	}
	if err := must.Durable(ctx); err != nil {
		t.Fatal(err)
	}
	if body, err := j.Body(must.Body(0)); err != nil || string(body) != "body" {
		t.Fatalf("body %q, %v", body, err)
	}
	if got := shown(t, j); !slices.Equal(got, []string{"before", "is kept", "with it"}) {
		t.Fatalf("facts %q", got)
	}
	for e := range j.Entries(must.First) {
		if e.Seq != must.First {
			t.Fatalf("the kept batch begins with %d, not %d", e.Seq, must.First)
		}
		break
	}
	shut(t, j)
}

// TestFullDisk refuses while there is still room for what runs, and goes on when there is more.
func TestFullDisk(t *testing.T) {
	fs, s := newFaultFS(), newStory()
	fs.capacity = 2 << 20
	reserve := int64(100 << 10)
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192, Reserve: func() int64 { return reserve }}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	var full error
	for full == nil {
		facts := s.begin(1, 30<<10)
		c, err := j.Append(entriesOf(facts, false)...)
		if full = err; err == nil {
			s.hear(c, facts)
		} else {
			s.tell(facts, refused)
		}
	}
	if !errors.Is(full, ErrUnavailable) || !strings.Contains(full.Error(), "no space left on d") {
		t.Fatal(full)
	}
	if free, _ := fs.Free("d"); free < reserve+spaceMargin/2 {
		t.Fatalf("%d bytes were left", free)
	}
	s.write(j, 1, 1000, true)
	for _, told := range s.told {
		if told == kept {
			t.Fatal("an outcome was not written although there was room")
		}
	}
	fs.mu.Lock()
	fs.capacity = 4 << 20
	fs.mu.Unlock()
	j.mu.Lock()
	j.room = room{}
	j.mu.Unlock()
	s.write(j, 1, 1000, false)
	shut(t, j)
	if err := s.check(fs, false); err != nil {
		t.Fatal(err)
	}
}

func TestMaxBytes(t *testing.T) {
	j, _ := open(t, Options{Dir: t.TempDir(), MaxBytes: 2 << 20, Reserve: func() int64 { return 1000 }})
	defer shut(t, j)
	for range 1 << 12 {
		c, err := j.Append(Entry{Kind: 32, Fact: make([]byte, 10<<10)})
		if err != nil {
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "max_bytes") || j.Status().Bytes > 1<<20 {
				t.Fatalf("%d bytes: %v", j.Status().Bytes, err)
			}
			add(t, j, Entry{Kind: 32, Fact: make([]byte, 10<<10), Must: true})
			return
		}
		if err := c.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("it grew without bound")
}

// TestOpenReadOnly: a disk that takes nothing is no reason not to know what happened.
func TestOpenReadOnly(t *testing.T) {
	moments := record(t, aLife(t, false, 4096))
	for _, m := range moments[len(moments)-4:] {
		fs := m.fs.killed()
		fs.readOnly = true
		var facts []string
		bodies := map[string]Location{}
		j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(e Stored) error {
			facts = append(facts, string(e.Fact))
			if e.Body != (Location{}) {
				bodies[string(e.Fact)] = e.Body
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		read := func() {
			t.Helper()
			for f, l := range bodies {
				if body, err := j.Body(l); err != nil || string(body) != "body of "+f {
					t.Fatalf("body of %q: %q, %v", f, body, err)
				}
			}
		}
		read()
		if err := m.story.holds(facts, false); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append(Entry{Kind: 32}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("append: %v", err)
		}
		fs.mu.Lock()
		fs.readOnly = false
		fs.mu.Unlock()
		c, err := j.Append(Entry{Kind: 32, Fact: []byte("~"), Must: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Durable(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, j); !slices.Equal(got, append(facts, "~")) {
			t.Fatalf("%d facts folded, then %d", len(facts), len(got))
		}
		read()
		shut(t, j)
	}
}

// TestAppendDuringRepair appends what must be kept while a new segment is being begun, which then fails or works.
func TestAppendDuringRepair(t *testing.T) {
	for _, works := range []bool{false, true} {
		fs := newFaultFS()
		j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		fs.mu.Lock()
		step := 0
		inRepair, goOn := make(chan struct{}), make(chan struct{})
		fs.fail = func(op, name string) error {
			switch {
			case step == 0 && op == "sync" && !strings.HasSuffix(name, spareSuffix):
				step++
				return syscall.EIO
			case step == 1 && op == "syncdir":
				step++
				close(inRepair)
				<-goOn
				if !works {
					return syscall.EIO
				}
			}
			return nil
		}
		fs.mu.Unlock()
		first, err1 := j.Append(Entry{Kind: 32, Fact: []byte("first"), Must: true})
		<-inRepair
		second, err2 := j.Append(Entry{Kind: 32, Fact: []byte("second"), Must: true})
		close(goOn)
		if err := errors.Join(err1, err2, first.Durable(context.Background()), second.Durable(context.Background())); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, j); !slices.Equal(got, []string{"first", "second"}) {
			t.Fatalf("works %v: facts %q", works, got)
		}
		shut(t, j)
	}
}

// TestFailedRotation fails the first frame of a new segment on a disk that then does not even remove the file.
func TestFailedRotation(t *testing.T) {
	fs, s := newFaultFS(), newStory()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 4096}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	s.write(j, 1, 1200, false)
	fs.mu.Lock()
	failing := false
	fs.fail = func(op, name string) error {
		second := fs.names[segmentName(2)]
		failing = failing || op == "sync" && second != nil && bytes.Contains(second.cache, frameMagic)
		if failing && op != "write" {
			return syscall.EIO
		}
		return nil
	}
	fs.mu.Unlock()
	s.write(j, 1, 1200, false) // does not fit
	fs.mu.Lock()
	if !failing {
		t.Fatal("the second batch began no segment")
	}
	dead := fs.killed()
	fs.mu.Unlock()
	if err := s.copy().check(dead, false); err != nil {
		t.Fatal(err)
	}
	_ = j.Close(context.Background())
}

// TestFullForOneCall: where a claim of some hundred bytes is refused, Status does not call the journal well.
func TestFullForOneCall(t *testing.T) {
	const reserve = 100 << 10
	j, err := Open(Options{Dir: "d", FS: newFaultFS(), Segment: 8192, Reserve: func() int64 { return reserve }}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, j)
	for _, spare := range []int64{0, 300} {
		j.mu.Lock()
		j.room = room{at: time.Now().Add(time.Hour), left: reserve + spaceMargin + spare} // as it was measured
		j.mu.Unlock()
		if _, err := j.Append(Entry{Kind: 32, Fact: make([]byte, 400)}); !errors.Is(err, ErrUnavailable) {
			t.Fatal("the journal is not full enough for this test: ", err)
		}
		if err := j.Status().Err; !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%d bytes over the reserve: calls are refused and the journal says it is well: %v", spare, err)
		}
	}
}

// TestNoRoomForAJournal: where there is none yet, nothing goes on by itself, and the error does not say so.
func TestNoRoomForAJournal(t *testing.T) {
	fs := newFaultFS()
	fs.fail = func(op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	_, err := Open(Options{Dir: "the-dir", FS: fs, Segment: 4096}, func(Stored) error { return nil })
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "then start again") || strings.Contains(err.Error(), "by itself") {
		t.Fatal(err)
	}
}
