package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// decision is what a step makes of a key's state.
type decision struct {
	next  lease.State
	write bool
	must  bool // an end: known to this process even when the disk fails
	err   error
}

// Acquire claims the lease of n: see lease.Store.
func (e *Embedded) Acquire(ctx context.Context, n lease.Name, c lease.Claim) (lease.View, lease.Verdict, error) {
	var verdict lease.Verdict
	var lost bool
	view, err := e.step(ctx, n, func(s lease.State, now time.Time) (d decision) {
		lost = s.Live(now) && s.Expired(now)
		d.next, verdict = lease.Acquire(s, c, now)
		d.write = verdict == lease.Acquired
		if d.write {
			d.err = e.leases.room(now, e.opt.Config.MaxKeys)
		}
		return d
	})
	view.Lost = lost && verdict == lease.Acquired
	return view, verdict, err
}

// Apply takes a step of the holder of n's lease: see lease.Store.
func (e *Embedded) Apply(ctx context.Context, n lease.Name, st lease.Step) (lease.View, error) {
	return e.step(ctx, n, func(s lease.State, now time.Time) decision {
		next, changed, err := lease.Apply(s, st, now)
		return decision{next: next, write: changed, must: ends(st.Act), err: err}
	})
}

// ends says whether a step is the last one of its lease.
func ends(a lease.Act) bool { return a == lease.Complete || a == lease.Fail || a == lease.Cancel }

// looked is the step that changes nothing.
func looked(s lease.State, now time.Time) decision {
	if !s.Live(now) {
		return decision{err: lease.ErrAbsent}
	}
	return decision{next: s}
}

// Look returns the state of n: see lease.Store.
func (e *Embedded) Look(ctx context.Context, n lease.Name) (lease.View, error) {
	return e.step(ctx, n, looked)
}

// step decides about a key and makes what it decides durable.
func (e *Embedded) step(ctx context.Context, n lease.Name, decide func(lease.State, time.Time) decision) (lease.View, error) {
	id, t := leaseIDOf(n), e.leases
	for {
		t.mu.Lock()
		if moving := t.moving[id]; moving != nil {
			t.mu.Unlock()
			if err := settled(ctx, moving); err != nil {
				return lease.View{}, err
			}
			continue
		}
		state, seq := t.find(id)
		if ended, ok := t.ended[id]; ok {
			t.mu.Unlock()
			var err error
			if state, err = e.readEnded(ended); err != nil {
				return lease.View{}, unavailable(err)
			}
			t.mu.Lock()
		}
		if _, now := t.find(id); now != seq || t.moving[id] != nil {
			t.mu.Unlock()
			continue // it has changed while the disk was read
		}
		now := e.now()
		d := decide(state, now)
		if d.err == nil && d.write {
			d.err = e.write(id, n, &d) // gives mu up while the disk is busy
		}
		t.mu.Unlock()
		return lease.View{State: d.next, Now: now, Changed: d.write && d.err == nil}, d.err
	}
}

// find is what is known of a key without the disk, and its newest fact.
func (t *leases) find(id leaseID) (lease.State, uint64) {
	if o := t.open[id]; o != nil {
		return o.state, o.seq
	}
	return lease.State{}, t.ended[id].seq
}

// readEnded reads a finished lease back. Where its body had to go for space, that it is finished is still known.
func (e *Embedded) readEnded(ended endedLease) (lease.State, error) {
	body, err := e.j.Body(ended.at)
	if errors.Is(err, journal.ErrBodyGone) {
		return lease.State{
			Status: ended.status, Version: uint64(ended.version), First: time.Unix(0, ended.first).UTC(),
			Done: time.Unix(0, ended.done).UTC(), Until: time.Unix(0, ended.until).UTC(),
		}, nil
	}
	if err != nil {
		return lease.State{}, err
	}
	_, s, err := parseLease(body)
	return s, err
}

// write makes a decision durable and has it hold. Call it with mu held, and it is held again when it returns.
func (e *Embedded) write(id leaseID, n lease.Name, d *decision) error {
	t := e.leases
	commit, err := e.j.Append(leaseEntry(n, &d.next, d.must))
	if err != nil {
		return unavailable(err)
	}
	t.move(id)
	t.mu.Unlock()
	err = commit.Wait(context.Background())
	t.mu.Lock()
	defer t.moved(id)
	switch {
	case err == nil:
		t.install(id, n, &d.next, commit.First, commit.Body(0))
		return nil
	case d.must && errors.Is(err, journal.ErrDeferred):
		t.open[id] = &openLease{n, d.next, commit.First}
		delete(t.ended, id)
		go e.installLater(id, n, &d.next, commit)
		return fmt.Errorf("%w: %w", lease.ErrDeferred, err)
	}
	return unavailable(err)
}

func (e *Embedded) installLater(id leaseID, n lease.Name, s *lease.State, commit *journal.Commit) {
	if commit.Durable(context.Background()) != nil {
		return
	}
	t := e.leases
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[id]; o != nil && o.seq == commit.First {
		t.install(id, n, s, commit.First, commit.Body(0))
	}
}

func leaseEntry(n lease.Name, s *lease.State, must bool) journal.Entry {
	entry := journal.Entry{Kind: kindLease, Fact: appendLease(nil, n, s, false), Must: must}
	if finished(s.Status) {
		entry.Body, entry.BodyUntil = appendLease(nil, n, s, true), s.Until
	}
	return entry
}

func finished(s lease.Status) bool { return s == lease.Completed || s == lease.Failed }

// install has a durable state hold. Call it with mu held.
func (t *leases) install(id leaseID, n lease.Name, s *lease.State, seq uint64, at journal.Location) {
	if !finished(s.Status) {
		t.open[id] = &openLease{n, *s, seq}
		delete(t.ended, id)
		return
	}
	delete(t.open, id)
	t.ended[id] = endedLease{
		at: at, status: s.Status, version: uint32(s.Version), seq: seq,
		first: s.First.UnixNano(), done: s.Done.UnixNano(), until: s.Until.UnixNano(),
	}
}

// room says whether one more lease can be kept. Call it with mu held.
func (t *leases) room(now time.Time, most int64) error {
	open, ended := func(o *openLease) int64 { return o.state.Until.UnixNano() }, func(l endedLease) int64 { return l.until }
	sweep(t.open, now, 4, open)
	sweep(t.ended, now, 4, ended)
	if len(t.open) >= maxOpenLeases {
		sweep(t.open, now, len(t.open), open)
	}
	if int64(len(t.ended)) >= most {
		sweep(t.ended, now, len(t.ended), ended)
	}
	switch {
	case len(t.open) >= maxOpenLeases:
		return unavailable(fmt.Errorf("%d leases are open, as many as there may be", len(t.open)))
	case int64(len(t.ended)) >= most:
		return unavailable(fmt.Errorf("%d finished leases are remembered, as many as store.embedded.max_keys allows; raise it", len(t.ended)))
	}
	return nil
}

// Jobs are the jobs in progress: see lease.Store.
func (e *Embedded) Jobs() (jobs []lease.Work) {
	t := e.leases
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.open {
		if o.state.Status == lease.InProgress && o.state.Job != nil {
			jobs = append(jobs, lease.Work{Name: o.name, State: o.state})
		}
	}
	return jobs
}
