package journal

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func open(t testing.TB, opt Options) (*Journal, []Stored) {
	t.Helper()
	var got []Stored
	j, err := Open(opt, func(s Stored) error {
		s.Fact = append([]byte(nil), s.Fact...)
		got = append(got, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return j, got
}

func add(t testing.TB, j *Journal, entries ...Entry) *Commit {
	t.Helper()
	c, err := j.Append(entries...)
	if err == nil {
		err = c.Wait(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func shut(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestReopenGivesBackWhatWasWritten(t *testing.T) {
	opt := Options{Dir: t.TempDir(), Segment: 64 << 10, Logf: t.Logf}
	until := time.Now().Add(time.Hour)
	total := 0
	for round := range 5 {
		j, got := open(t, opt)
		if len(got) != total {
			t.Fatalf("round %d: %d entries, want %d", round, len(got), total)
		}
		for i, s := range got {
			if want := fmt.Sprint("fact ", i); string(s.Fact) != want || s.Seq != uint64(i+1) {
				t.Fatalf("entry %d: %d %q", i, s.Seq, s.Fact)
			}
			if body, err := j.Body(s.Body); err != nil || string(body) != fmt.Sprint("body ", i) {
				t.Fatalf("body %d: %q, %v", i, body, err)
			}
		}
		for range 300 {
			c := add(t, j, Entry{Kind: 32, Fact: fmt.Append(nil, "fact ", total), Body: fmt.Append(nil, "body ", total), BodyUntil: until})
			if body, err := j.Body(c.Body(0)); err != nil || string(body) != fmt.Sprint("body ", total) {
				t.Fatalf("body %d: %q, %v", total, body, err)
			}
			total++
		}
		n := 0
		for s, err := range j.Entries(10) {
			if err != nil {
				t.Fatal(err)
			}
			if s.Seq != uint64(10+n) {
				t.Fatalf("seq %d at %d", s.Seq, n)
			}
			n++
		}
		if n != total-9 {
			t.Fatalf("%d entries from 10, want %d", n, total-9)
		}
		shut(t, j)
	}
}
