package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// sample is one measurement.
type sample struct {
	perSecond float64
	cpu       float64 // seconds of the process under test per 100,000 calls
	calls     int64   // all that were answered, those of the warm-up too
	shed      int64   // all that were refused with 503
}

// results are the samples by contender and number of callers, one a round.
type results struct {
	order   []contender
	levels  []int // of callers at the same time
	samples map[string]map[int][]sample
}

// interleave measures everyone at every number of callers, again in each round, so that what the machine does
// meanwhile meets all alike. The order within a round turns.
func interleave(ctx context.Context, s settings, field []contender, levels []int, progress func(done, all int)) (*results, error) {
	r := &results{order: field, levels: levels, samples: map[string]map[int][]sample{}}
	for _, c := range field {
		r.samples[c.name] = map[int][]sample{}
	}
	all, done := s.rounds*len(levels)*len(field), 0
	for round := range s.rounds {
		for _, callers := range levels {
			for i := range field {
				c := field[(i+round)%len(field)]
				progress(done, all)
				done++
				got, err := measure(ctx, s, c, callers, uint64(done)<<40)
				if err != nil {
					return nil, fmt.Errorf("%s with %d callers: %w", c.name, callers, err)
				}
				r.samples[c.name][callers] = append(r.samples[c.name][callers], got)
			}
		}
	}
	progress(all, all)
	return r, nil
}

// measure lets the callers warm up, then counts calls and CPU time between two instants.
func measure(ctx context.Context, s settings, c contender, callers int, first uint64) (got sample, err error) {
	l, err := startLoad(c, callers, first)
	if err != nil {
		return sample{}, err
	}
	defer func() {
		err = errors.Join(err, l.stop())
		got.calls, got.shed = l.calls(), l.refused()
	}()
	if err := wait(ctx, s.warm); err != nil {
		return sample{}, err
	}
	began, calls, cpu, err := instant(c, l)
	if err != nil {
		return sample{}, err
	}
	if err := wait(ctx, s.measure); err != nil {
		return sample{}, err
	}
	ended, callsEnd, cpuEnd, err := instant(c, l)
	if err != nil {
		return sample{}, err
	}
	n := float64(callsEnd - calls)
	if n == 0 {
		return sample{}, errors.New("not one call was answered")
	}
	return sample{perSecond: n / ended.Sub(began).Seconds(), cpu: (cpuEnd - cpu).Seconds() / n * 100_000}, nil
}

func instant(c contender, l *load) (now time.Time, calls int64, cpu time.Duration, err error) {
	if c.proc != nil {
		if cpu, err = c.proc.cpu(); err != nil {
			return
		}
	}
	return time.Now(), l.calls(), cpu, nil
}

func throughput(s sample) float64 { return s.perSecond }
func cpuTime(s sample) float64    { return s.cpu }

// median is of one figure of a contender.
func (r *results) median(name string, callers int, of func(sample) float64) float64 {
	var all []float64
	for _, s := range r.samples[name][callers] {
		all = append(all, of(s))
	}
	return median(all)
}

// calls is how many calls of a contender were answered in the whole run.
func (r *results) calls(name string) (n int64) {
	for _, samples := range r.samples[name] {
		for _, s := range samples {
			n += s.calls
		}
	}
	return n
}

// shed is how many calls of a contender were refused with 503 in the whole run.
func (r *results) shed(name string) (n int64) {
	for _, samples := range r.samples[name] {
		for _, s := range samples {
			n += s.shed
		}
	}
	return n
}

// ratios are one figure of a contender over another's of the same round, ascending; none when either did not run.
func (r *results) ratios(name, over string, callers int, of func(sample) float64) []float64 {
	var all []float64
	a, b := r.samples[name][callers], r.samples[over][callers]
	for i := range min(len(a), len(b)) {
		all = append(all, of(a[i])/of(b[i]))
	}
	slices.Sort(all)
	return all
}

// median is the middle one, or the mean of the two in the middle; 0 of none.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	i := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[i]
	}
	return (sorted[i-1] + sorted[i]) / 2
}

// progressTo shows how far the run is, on a terminal only.
func progressTo(out interface {
	io.Writer
	Fd() uintptr
}) func(done, all int) {
	if !isTerminal(out.Fd()) {
		return func(int, int) {}
	}
	return func(done, all int) {
		if fmt.Fprintf(out, "\rmeasuring %d of %d ", done, all); done == all {
			fmt.Fprint(out, "\r\x1b[K")
		}
	}
}
