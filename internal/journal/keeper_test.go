package journal

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// A busy journal writes its next segment once over and changes to it before the current one is full.
func TestBusyJournalChangesToASpareThatIsWritten(t *testing.T) {
	for _, process := range []bool{false, true} {
		opt := Options{Dir: t.TempDir(), Segment: 1 << 20, Process: process}
		j, _ := open(t, opt)
		fact, total := bytes.Repeat([]byte("x"), 4<<10), 0
		for ; int64(total*len(fact)) < j.worthFilling(); total++ {
			add(t, j, Entry{Kind: 32, Fact: fmt.Appendf(nil, "%d %s", total, fact)})
		}
		if !process {
			awaitSpare(t, j)
		}
		add(t, j, Entry{Kind: 32, Fact: fmt.Appendf(nil, "%d %s", total, fact)})
		total++
		j.mu.Lock()
		n, first := len(j.segments), int64(j.segments[0].end)
		j.mu.Unlock()
		if want := map[bool]int{false: 2, true: 1}[process]; n != want || first > opt.Segment/2 {
			t.Errorf("process %t: %d segments, want %d; the first ends at %d", process, n, want, first)
		}
		if process == j.seg.written {
			t.Error("the segment in use was not written over")
		}
		shut(t, j)
		j, got := open(t, opt)
		for i, s := range got {
			if !bytes.HasPrefix(s.Fact, fmt.Appendf(nil, "%d ", i)) || s.Seq != uint64(i+1) {
				t.Fatalf("process %t: fact %d is %.10q", process, i, s.Fact)
			}
		}
		if len(got) != total {
			t.Errorf("process %t: %d entries, want %d", process, len(got), total)
		}
		shut(t, j)
	}
}

func awaitSpare(t *testing.T, j *Journal) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		j.mu.Lock()
		done := j.spare != nil && j.spare.written
		j.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the spare was not written over")
		}
	}
}

// racingFS runs the keeper's part while the committer renames a spare.
type racingFS struct {
	FS
	keeper func()
}

func (r *racingFS) Rename(from, to string) error {
	if r.keeper != nil && segmentNumber(filepath.Base(to)) != 0 {
		r.keeper()
	}
	return r.FS.Rename(from, to)
}

// The keeper never touches the file that the committer is about to name: its facts would stand in a file that has gone.
func TestKeeperLeavesTheSpareThatIsBeingRenamed(t *testing.T) {
	fs := &racingFS{FS: osFS{}}
	opt := Options{Dir: t.TempDir(), Segment: 1 << 20, FS: fs}
	j, _ := open(t, opt)
	fact := bytes.Repeat([]byte("x"), 100<<10)
	add(t, j, Entry{Kind: 32, Fact: fact})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		j.mu.Lock()
		ready := j.spare != nil
		j.mu.Unlock()
		if ready {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no spare")
		}
	}
	raced := 0
	fs.keeper = func() { raced++; j.ready() }
	const total = 40 // some segments of ten
	for range total - 1 {
		add(t, j, Entry{Kind: 32, Fact: fact})
	}
	shut(t, j)
	fs.keeper = nil
	j, got := open(t, opt)
	defer shut(t, j)
	if raced == 0 || len(got) != total {
		t.Errorf("%d of %d entries are there after %d races", len(got), total, raced)
	}
}
