package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Follower keeps what the control plane says in force: it asks, has it applied whole or not at all, and keeps it on disk
// for when the control plane is away.
type Follower struct {
	cfg    Config
	dir    string
	client *client
	opt    Options

	mu        sync.Mutex
	current   *Snapshot // in force; nil before the first one. Guarded by mu
	highest   uint64    // version that was ever seen, in force or not; 0: of no oo-sidecar. Guarded by mu
	confirmed time.Time // when the control plane last said so; guarded by mu
	err       error     // of the last question; guarded by mu
	touched   time.Time // when the file was last confirmed; guarded by mu
}

// Options are what a Follower needs of the program around it.
type Options struct {
	Dir    string                // where the snapshot is kept; made with mode 0700
	Agents func() []string       // whose switches are asked for one by one where the control plane has no snapshot
	Apply  func(*Snapshot) error // has it hold for the next requests, whole or not at all
	Alarm  func()                // an older version was offered and refused
	Fresh  func(time.Time)       // what holds was current then
	Log    *slog.Logger
}

// ErrNever says that the control plane has not been read yet.
var ErrNever = errors.New("the control plane has not been read yet")

// Follow makes a follower, with the kept snapshot in force. Run has it ask.
func Follow(cfg Config, opt Options) (*Follower, error) {
	c, err := newClient(cfg.BaseURL, cfg.APIKey)
	if err != nil {
		return nil, err
	}
	f := &Follower{cfg: cfg, dir: opt.Dir, client: c, opt: opt, err: ErrNever}
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	s, at, err := readKept(opt.Dir, cfg.BaseURL)
	switch {
	case err != nil:
		opt.Log.Error("the kept snapshot of the control plane cannot be read", "error", err.Error())
	case s != nil:
		f.highest = s.Version
		if err := opt.Apply(s); err != nil {
			opt.Log.Error("the kept snapshot of the control plane does not hold here", "error", err.Error())
			break
		}
		f.current, f.confirmed = s, at
		opt.Fresh(at)
	}
	return f, nil
}

// Run asks until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		pushed, err := f.ask(ctx)
		f.note(ctx, err)
		pause := f.cfg.Poll
		if err == nil && !pushed && f.Native() && time.Since(start) >= f.wait()/2 {
			continue
		}
		if err == nil && pushed { // changes that come in a row are taken together
			pause = gather
		}
		if err != nil { // many sidecars do not come back at once
			pause = pause/2 + rand.N(pause/2+1)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// wait is how long an oo-sidecar is asked to wait for news.
func (f *Follower) wait() time.Duration { return max(time.Second, min(longPoll, f.cfg.MaxStale/2)) }

// gather is how long after a pushed change the next one is asked for.
const gather = 10 * time.Millisecond

// ask reads the control plane once. pushed: there may be more at once.
func (f *Follower) ask(ctx context.Context) (pushed bool, err error) {
	known := f.Snapshot()
	after := uint64(0)
	wait := f.wait()
	if known == nil || !known.Native {
		wait = 0
	} else {
		after = known.Version
	}
	asked := time.Now()
	next, err := f.client.native(ctx, after, wait)
	if missing(err) && f.seen() == 0 {
		next, err = f.client.hosted(ctx, f.opt.Agents())
	}
	switch {
	case err != nil:
		return false, err
	case next == nil, known != nil && next.Native && next.Version == known.Version:
		f.confirm(time.Now())
		return false, nil
	}
	if next.Native {
		asked = time.Now()
	}
	return next.Native, f.take(next, asked)
}

// seen is the highest version that was ever offered and taken.
func (f *Follower) seen() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.highest
}

// take has a snapshot hold, unless it is older than the one that does.
func (f *Follower) take(next *Snapshot, at time.Time) error {
	if seen := f.seen(); next.Version < seen {
		f.opt.Alarm()
		return fmt.Errorf("the control plane offers version %d of its policies, which is older than version %d here; it is refused until it offers a newer one (if its store was lost for good, remove %s and restart)", next.Version, seen, filepath.Join(f.dir, snapshotFile))
	}
	if err := f.opt.Apply(next); err != nil {
		return fmt.Errorf("what the control plane says does not hold here, and what it said before stays: %w", err)
	}
	f.mu.Lock()
	f.current, f.highest = next, next.Version
	f.mu.Unlock()
	if err := writeKept(f.dir, f.cfg.BaseURL, next); err != nil {
		f.opt.Log.Error("the snapshot of the control plane cannot be kept", "error", err.Error())
	}
	f.confirm(at)
	return nil
}

// confirm notes that what holds is current.
func (f *Follower) confirm(at time.Time) {
	f.mu.Lock()
	f.confirmed = at
	touch := at.Sub(f.touched) > time.Second
	if touch {
		f.touched = at
	}
	f.mu.Unlock()
	f.opt.Fresh(at)
	if touch {
		_ = confirmKept(f.dir, at) // after a restart it is only older
	}
}

// note keeps what came of a question, and tells of changes.
func (f *Follower) note(ctx context.Context, err error) {
	f.mu.Lock()
	before := f.err
	f.err = err
	f.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil && before != nil:
		f.opt.Log.Info("the control plane is being followed", "native", f.Native())
	case err != nil && (before == nil || before.Error() != err.Error()):
		f.opt.Log.Error("the control plane is not being followed", "error", err.Error())
	}
}

// Snapshot is what holds; nil when nothing does yet.
func (f *Follower) Snapshot() *Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// Native says whether the control plane is an oo-sidecar, as far as is known.
func (f *Follower) Native() bool {
	s := f.Snapshot()
	return s != nil && s.Native
}

// Age is how long ago what holds was last known to be current, and false when nothing ever was.
func (f *Follower) Age() (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.confirmed), f.current != nil
}

// Stale says whether what holds is too old for calls with effects.
func (f *Follower) Stale() bool {
	age, ever := f.Age()
	return !ever || age > f.cfg.MaxStale
}

// Err says why calls with effects are refused; nil when they are not.
func (f *Follower) Err() error {
	f.mu.Lock()
	why := f.err
	f.mu.Unlock()
	age, ever := f.Age()
	switch {
	case !ever:
		return fmt.Errorf("no policies yet: %w", why)
	case age <= f.cfg.MaxStale:
		return nil
	case why == nil:
		return fmt.Errorf("policies are %s old, and control.max_stale is %s", age.Round(time.Second), f.cfg.MaxStale)
	}
	return fmt.Errorf("policies are %s old, and control.max_stale is %s: %w", age.Round(time.Second), f.cfg.MaxStale, why)
}

// Last is what came of the last question.
func (f *Follower) Last() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
