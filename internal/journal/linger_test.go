package journal

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestNotedEntriesLinger: what nobody waits for is written within 10 ms in one frame, at once with what is waited for,
// and by Close.
func TestNotedEntriesLinger(t *testing.T) {
	note := func(t *testing.T, j *Journal, fact string) {
		if err := j.Note(Entry{Kind: 32, Fact: []byte(fact)}); err != nil {
			t.Fatal(err)
		}
	}
	newest := func(j *Journal, after time.Duration) uint64 {
		time.Sleep(after)
		synctest.Wait()
		return j.Status().Newest
	}
	synctest.Test(t, func(t *testing.T) {
		opt := Options{Dir: "/d", FS: newFaultFS()}
		j, _ := open(t, opt)
		start := j.Status().Newest
		for round := range uint64(3) { // the timer is set again, and a frame that waits for its acknowledgement changes nothing
			note(t, j, "a")
			note(t, j, "b")
			if n := newest(j, lingerFor/2); n != start+3*round {
				t.Errorf("round %d: %d entries were written at once", round, n-start)
			}
			note(t, j, "c")
			if n := newest(j, lingerFor/2); n != start+3*round+3 {
				t.Errorf("round %d: %d entries are written in the end", round, n-start)
			}
		}
		start = j.Status().Newest
		note(t, j, "d")
		add(t, j, Entry{Kind: 32, Fact: []byte("waited for")})
		if n := j.Status().Newest; n != start+2 {
			t.Errorf("%d entries were written with one that was waited for", n-start)
		}
		newest(j, time.Second) // idle, the last frame acknowledged
		note(t, j, "e")
		shut(t, j)
		j, got := open(t, opt)
		defer shut(t, j)
		if last := got[len(got)-1]; string(last.Fact) != "e" || len(got) != 12 {
			t.Errorf("%d entries came back, the last is %q", len(got), last.Fact)
		}
		if !slices.IsSortedFunc(got, func(a, b Stored) int { return int(a.Seq) - int(b.Seq) }) {
			t.Error("they are out of order")
		}
	})
}
