package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, Options{Dir: dir})
	_, err := Open(Options{Dir: dir}, func(Stored) error { return nil })
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: %v", err)
	}
	if !OS().Locked(dir) {
		t.Fatal("it does not look locked")
	}
	shut(t, j)
	if OS().Locked(dir) {
		t.Fatal("it still looks locked")
	}
	j, _ = open(t, Options{Dir: dir})
	shut(t, j)
}

func TestPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	j, _ := open(t, Options{Dir: dir, Segment: 4096})
	for range 20 {
		add(t, j, Entry{Kind: 32, Fact: make([]byte, 1000)})
	}
	defer shut(t, j)
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, Options{Dir: dir})
	first := j.Status()
	shut(t, j)
	j, _ = open(t, Options{Dir: dir})
	second := j.Status()
	shut(t, j)
	if !first.Created || second.Created || first.ID != second.ID || len(first.ID) != 32 {
		t.Fatalf("first %+v, second %+v", first, second)
	}
	name := filepath.Join(dir, identityName)
	if err := os.Remove(name); err != nil { // found again in the segments
		t.Fatal(err)
	}
	j, _ = open(t, Options{Dir: dir})
	if st := j.Status(); st.Created || st.ID != first.ID {
		t.Fatalf("without its file %+v", st)
	}
	shut(t, j)
	if _, err := os.Stat(name); err != nil {
		t.Fatal(err)
	}
	other, _ := open(t, Options{Dir: t.TempDir()})
	alien := newIdentity(time.Now())
	shut(t, other)
	if err := os.WriteFile(name, []byte(alien.encode()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}, nil); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("with another's name: %v", err)
	}
}

func TestFoldsError(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, Options{Dir: dir})
	add(t, j, Entry{Kind: 32, Fact: []byte("a")})
	shut(t, j)
	fail := errors.New("no")
	if _, err := Open(Options{Dir: dir}, func(Stored) error { return fail }); !errors.Is(err, fail) || !strings.Contains(err.Error(), "entry 1") {
		t.Fatal(err)
	}
	j, got := open(t, Options{Dir: dir}) // and it is not locked
	if len(got) != 1 {
		t.Fatalf("%d entries", len(got))
	}
	shut(t, j)
}

func TestAppendRefuses(t *testing.T) {
	j, _ := open(t, Options{Dir: t.TempDir()})
	for what, entries := range map[string][]Entry{
		"nothing": nil, "our own kind": {{Kind: KindDropped}}, "too much": {{Kind: 32, Fact: make([]byte, maxBatch)}},
	} {
		if _, err := j.Append(entries...); err == nil {
			t.Errorf("%s was appended", what)
		}
	}
	shut(t, j)
	if _, err := j.Append(Entry{Kind: 32, Must: true}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("append after close: %v", err)
	}
	if err := j.Close(context.Background()); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

// TestNothingIsKept: what Append is given may change when it has returned.
func TestNothingIsKept(t *testing.T) {
	j, _ := open(t, Options{Dir: t.TempDir()})
	defer shut(t, j)
	fact, body := []byte("fact"), []byte("body")
	c, err := j.Append(Entry{Kind: 32, Fact: fact, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	clear(fact)
	clear(body)
	if err := c.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	for e := range j.Entries(c.First) {
		if string(e.Fact) != "fact" {
			t.Fatalf("fact %q", e.Fact)
		}
	}
	if got, err := j.Body(c.Body(0)); err != nil || string(got) != "body" {
		t.Fatalf("body %q, %v", got, err)
	}
}

func TestLargeAndEmpty(t *testing.T) {
	opt := Options{Dir: t.TempDir(), Segment: 1 << 20}
	j, _ := open(t, opt)
	large := bytes.Repeat([]byte("large "), 1<<20)
	c := add(t, j, Entry{Kind: 32, Fact: []byte{}}, Entry{Kind: 255, Fact: large, Body: large}, Entry{Kind: 32, Body: []byte{}})
	check := func(j *Journal, l Location, want []byte) {
		t.Helper()
		if got, err := j.Body(l); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("body of %d bytes, want %d: %v", len(got), len(want), err)
		}
	}
	check(j, c.Body(1), large)
	check(j, c.Body(2), nil)
	if c.Body(0) != (Location{}) {
		t.Fatal("the first has a body")
	}
	shut(t, j)
	j, got := open(t, opt)
	defer shut(t, j)
	if len(got) != 3 || !bytes.Equal(got[1].Fact, large) || got[0].Body != (Location{}) {
		t.Fatalf("%d entries", len(got))
	}
	check(j, got[1].Body, large)
	check(j, got[2].Body, nil)
}

// TestManyCallers has callers append at once, while others read, and checks that each finds what it wrote in its order.
func TestManyCallers(t *testing.T) {
	opt := Options{Dir: t.TempDir(), Segment: 64 << 10}
	j, _ := open(t, opt)
	const callers, each = 16, 150
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				fact := fmt.Appendf(nil, "%d %d", c, i)
				k, err := j.Append(Entry{Kind: 32, Fact: fact, Body: fact, Must: i%3 == 0}, Entry{Kind: 33, Fact: fact})
				if err == nil {
					err = k.Wait(context.Background())
				}
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := j.Body(k.Body(0)); err != nil || !bytes.Equal(body, fact) {
					t.Errorf("body %q, %v", body, err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			for _, err := range j.Entries(0) {
				if err != nil {
					t.Error(err)
				}
			}
			j.Status()
			if err := j.Maintain(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	shut(t, j)
	_, got := open(t, opt)
	next := map[int]int{}
	for i := 0; i < len(got); i += 2 {
		var c, n int
		fmt.Sscan(string(got[i].Fact), &c, &n)
		if n != next[c] || !bytes.Equal(got[i].Fact, got[i+1].Fact) || got[i+1].Seq != got[i].Seq+1 {
			t.Fatalf("entry %d: %q and %q", i, got[i].Fact, got[i+1].Fact)
		}
		next[c]++
	}
	if len(got) != 2*callers*each {
		t.Fatalf("%d entries", len(got))
	}
}

// TestWaitEnds: a caller that goes away leaves its entries to become durable.
func TestWaitEnds(t *testing.T) {
	j, _ := open(t, Options{Dir: t.TempDir()})
	defer shut(t, j)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c, err := j.Append(Entry{Kind: 32, Fact: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := c.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	w := windUp()
	var mu sync.Mutex
	var said []string
	opt := Options{Dir: t.TempDir(), Now: w.now, Logf: func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if line := fmt.Sprintf(format, args...); strings.Contains(line, "clock") {
			said = append(said, line)
		}
	}}
	j, _ := open(t, opt)
	last := j.Now()
	for _, d := range []time.Duration{time.Second, -30 * time.Second, 10 * time.Second, -2 * time.Hour, 3 * time.Hour} {
		w.add(d)
		j.Status()
		add(t, j, Entry{Kind: 32})
		if now := j.Now(); now.Before(last) {
			t.Fatalf("now %v after %v", now, last)
		} else {
			last = now
		}
	}
	if jump := j.Status().Jump; jump.By.Round(time.Minute) != 3*time.Hour || len(said) != 2 {
		t.Fatalf("jump %+v, said %q", jump, said)
	}
	shut(t, j)
	w.add(-time.Hour) // while it was stopped
	j, got := open(t, opt)
	defer shut(t, j)
	for i, e := range got {
		if i > 0 && e.Time.Before(got[i-1].Time) || e.Time.Location() != time.UTC {
			t.Fatalf("entry %d of %v after %v", i, e.Time, got[i-1].Time)
		}
	}
	if now := j.Now(); now.Before(last) {
		t.Fatalf("now %v after %v", now, last)
	}
	if jump := j.Status().Jump; jump.By > -59*time.Minute || len(said) != 3 {
		t.Fatalf("jump %+v, said %q", jump, said)
	}
}

func TestSince(t *testing.T) {
	w := windUp()
	j, _ := open(t, Options{Dir: t.TempDir(), Segment: 4096, Now: w.now})
	defer shut(t, j)
	for range 60 {
		w.add(time.Minute)
		add(t, j, Entry{Kind: 32, Fact: make([]byte, 500)})
	}
	start := w.now().Add(-20 * time.Minute)
	from := j.Since(start)
	if from < 25 || from > 41 {
		t.Fatalf("a query from entry 41 on begins at %d", from)
	}
	for e := range j.Entries(0) {
		if e.Seq < from && !e.Time.Before(start) {
			t.Fatalf("entry %d of %v would be missed", e.Seq, e.Time)
		}
	}
}

func TestPathIsAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: name}, nil); err == nil || !strings.Contains(err.Error(), name) {
		t.Fatal(err)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Fatal("a journal was read where there is none")
	}
}
