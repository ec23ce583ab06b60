package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
)

// life is a journal that random things happen to, and what its callers were told.
type life struct {
	t  *testing.T
	r  *rand.Rand
	fs *faultFS
	s  *story
	j  *Journal
}

func (l *life) open() {
	l.t.Helper()
	var facts []string
	j, err := Open(Options{Dir: "d", FS: l.fs, Segment: 4096}, func(e Stored) error {
		facts = append(facts, string(e.Fact))
		return nil
	})
	if err == nil {
		err = l.s.holds(facts, false)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.j = j
	for f := range l.s.told { // what is there stays, and what is not never comes back
		l.s.told[f] = refused
		if slices.Contains(facts, f) {
			l.s.told[f] = durable
		}
	}
}

// crash goes on with what image makes of the disk.
func (l *life) crash(image func(*faultFS) *faultFS) {
	l.fs.mu.Lock()
	next := image(l.fs)
	l.fs.mu.Unlock()
	_ = l.j.Close(context.Background()) // of a disk that nobody looks at any more
	l.fs = next
	l.open()
}

func (l *life) step() {
	switch l.r.IntN(12) {
	case 0:
		l.crash((*faultFS).killed)
	case 1:
		l.crash(func(fs *faultFS) *faultFS {
			return fs.powerLost(l.r.IntN(len(fs.pending)+1), randomly(l.r, []byte{0, 1, 255}))
		})
	case 2:
		shut(l.t, l.j)
		l.open()
	case 3:
		l.failSoon()
	case 4:
		if err := l.j.Maintain(context.Background()); err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrNotDurable) && !errors.Is(err, syscall.EIO) {
			l.t.Fatal(err)
		}
	case 5:
		if err := l.s.holds(shown(l.t, l.j), false); err != nil {
			l.t.Fatal(err)
		}
	default:
		l.s.write(l.j, 1+l.r.IntN(4), l.r.IntN(1500), l.r.IntN(2) == 0)
	}
}

// failSoon fails one of the next changes, writes until it has failed, and until the journal is well again.
func (l *life) failSoon() {
	in, failed := l.r.IntN(6), false
	l.fs.mu.Lock()
	l.fs.anyway = l.r.IntN(2) == 0
	l.fs.fail = func(string, string) error {
		if in--; in == -1 {
			failed = true
			return syscall.EIO
		}
		return nil
	}
	l.fs.mu.Unlock()
	for done := false; !done; {
		l.s.write(l.j, 1, l.r.IntN(1500), l.r.IntN(2) == 0)
		l.fs.mu.Lock()
		done = failed
		l.fs.mu.Unlock()
	}
	l.s.mend(l.t, l.j)
	l.fs.mu.Lock()
	l.fs.fail = nil
	l.fs.mu.Unlock()
}

// TestRandomLives lets anything follow anything.
func TestRandomLives(t *testing.T) {
	lives := 150
	if testing.Short() {
		lives = 20
	}
	for seed := range uint64(lives) {
		l := life{t: t, r: rand.New(rand.NewPCG(seed, 11)), fs: newFaultFS(), s: newStory()}
		l.open()
		for range 60 {
			l.step()
		}
		shut(t, l.j)
		if err := l.s.check(l.fs, false); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
