package journal

import (
	"bytes"
	"fmt"
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
