package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"
)

// What is wanted of the footprint.
const (
	wantStart  = 60 * time.Millisecond
	wantMemory = 25e6
	wantSize   = 20e6
)

// filledCalls is how many calls the existing store has seen before it is opened again.
const filledCalls = 10_000

// footprint is what the program costs before it does anything.
type footprint struct {
	fresh, existing time.Duration // start of the process to its first answer, medians
	calls           int64         // that the existing store holds
	starts          int           // per median
	idle            [2]int64      // bytes resident a second after the first answer: fresh, existing store
	size            int64         // bytes of the program
}

// measureFootprint starts sidecars on fresh stores and on one that has seen calls.
func measureFootprint(ctx context.Context, s settings, dir, toolAddress string) (*footprint, error) {
	info, err := os.Stat(s.binary)
	if err != nil {
		return nil, fmt.Errorf("%w; make build makes it", err)
	}
	f := &footprint{size: info.Size(), starts: s.starts}
	var times []float64
	for i := range s.starts {
		oo, err := newSidecar(s.binary, filepath.Join(dir, fmt.Sprintf("fresh-%d", i)), toolAddress)
		if err != nil {
			return nil, err
		}
		took, err := startAndStop(ctx, oo, 0, i == 0, &f.idle[0])
		if err != nil {
			return nil, err
		}
		times = append(times, float64(took))
	}
	f.fresh = time.Duration(median(times))

	oo, err := newSidecar(s.binary, filepath.Join(dir, "existing"), toolAddress)
	if err != nil {
		return nil, err
	}
	if f.calls, err = fill(ctx, oo); err != nil {
		return nil, err
	}
	times = times[:0]
	for i := range s.starts {
		took, err := startAndStop(ctx, oo, uint64(i+1), i == 0, &f.idle[1])
		if err != nil {
			return nil, err
		}
		times = append(times, float64(took))
	}
	f.existing = time.Duration(median(times))
	return f, nil
}

// startAndStop times one cold start, and looks at the idle memory once.
func startAndStop(ctx context.Context, oo *sidecar, number uint64, look bool, idle *int64) (time.Duration, error) {
	took, err := oo.start(ctx, number)
	if err != nil {
		return 0, err
	}
	defer oo.stop()
	if look {
		if err := wait(ctx, time.Second); err != nil {
			return 0, err
		}
		if *idle, err = oo.residentBytes(); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// fill makes a store that has seen calls, and tells how many.
func fill(ctx context.Context, oo *sidecar) (int64, error) {
	if _, err := oo.start(ctx, 0); err != nil {
		return 0, err
	}
	defer oo.stop()
	l, err := startLoad(contender{name: nameFirst, address: oo.address, path: "/tools/bench", must: executed, differ: true}, 64, 1<<40)
	if err != nil {
		return 0, err
	}
	end := time.Now().Add(10 * time.Second)
	for l.calls() < filledCalls && time.Now().Before(end) && err == nil {
		err = wait(ctx, 5*time.Millisecond)
	}
	n := l.calls()
	if stopped := l.stop(); err == nil {
		err = stopped
	}
	return n, err
}

// met tells whether start-up and size are what is wanted.
func (f *footprint) met() bool {
	return f.fresh < wantStart && f.existing < wantStart && float64(f.size) < wantSize
}

func (f *footprint) print(out io.Writer) {
	t := newTable(out, "footprint", "", "seen", "wanted", "")
	start := func(what string, took time.Duration) {
		t.row(what, fmt.Sprintf("%.1f ms", float64(took)/1e6), "< 60 ms", verdict(took < wantStart))
	}
	memory := func(what string, bytes int64) {
		t.row(what, fmt.Sprintf("%.1f MB", float64(bytes)/1e6), "< 25 MB", verdict(float64(bytes) < wantMemory))
	}
	start(fmt.Sprintf("cold start to the first governed answer, fresh store (median of %d)", f.starts), f.fresh)
	start(fmt.Sprintf("the same, store with %d calls", f.calls), f.existing)
	memory("resident, idle a second after it, fresh store", f.idle[0])
	memory(fmt.Sprintf("the same, store with %d calls", f.calls), f.idle[1])
	t.row("size of the stripped binary", fmt.Sprintf("%.1f MB", float64(f.size)/1e6), "< 20 MB", verdict(float64(f.size) < wantSize))
	t.flush()
}

// printRestart stops the sidecar of the run and starts it again on the journal that it left. Nothing is wanted of
// this figure: it shows what a start costs by what the journal holds.
func printRestart(ctx context.Context, out io.Writer, oo *sidecar, calls int64) error {
	oo.stop()
	took, err := oo.start(ctx, math.MaxUint64)
	if err != nil {
		return err
	}
	resident, err := oo.residentBytes()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "restart after the run, journal of %d calls: %d ms to the first governed answer, then %.1f MB resident\n",
		calls, took.Milliseconds(), float64(resident)/1e6)
	return nil
}
