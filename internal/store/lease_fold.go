package store

import (
	"context"
	"errors"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// foldLeases applies a fact of a lock or a lease.
func (e *Embedded) foldLeases(st *journal.Stored) error {
	t := e.leases
	t.mu.Lock()
	defer t.mu.Unlock()
	switch st.Kind {
	case kindLock:
		id, l, err := parseLock(st.Fact)
		if err == nil {
			t.locks[id] = heldLock{l.First.UnixNano(), l.Expires.UnixNano(), st.Seq}
		}
		return err
	case kindEndedLease:
		id, s, err := parseEndedLease(st.Fact)
		if err == nil {
			t.install(id, lease.Name{}, &s, st.Seq, journal.Location{})
		}
		return err
	}
	n, s, err := parseLease(st.Fact)
	if err == nil {
		t.install(leaseIDOf(n), n, &s, st.Seq, st.Body)
	}
	return err
}

// carryLeases says locks and leases again that stand only in entries below before, because those are about to be
// dropped.
func (e *Embedded) carryLeases(before uint64, emit func(journal.Entry)) error {
	t := e.leases
	t.mu.Lock()
	locks, open, ended := below(t.locks, before), below(t.open, before), below(t.ended, before)
	t.mu.Unlock()
	for _, id := range locks {
		e.carryLock(id, before, emit)
	}
	for _, id := range open {
		e.carryOpenLease(id, before, emit)
	}
	return e.carryEndedLeases(ended, before)
}

func (h heldLock) fact() uint64   { return h.seq }
func (o *openLease) fact() uint64 { return o.seq }
func (l endedLease) fact() uint64 { return l.seq }

func below[V interface{ fact() uint64 }](m map[leaseID]V, before uint64) (ids []leaseID) {
	for id, v := range m {
		if v.fact() < before {
			ids = append(ids, id)
		}
	}
	return ids
}

// still waits until no step of the key is on its way. It returns with mu held.
func (t *leases) still(id leaseID) {
	for {
		t.mu.Lock()
		moving := t.moving[id]
		if moving == nil {
			return
		}
		t.mu.Unlock()
		<-moving
	}
}

func (e *Embedded) carryLock(id leaseID, before uint64, emit func(journal.Entry)) {
	t := e.leases
	t.still(id)
	defer t.mu.Unlock()
	h, ok := t.locks[id]
	if !ok || h.seq >= before || h.expires <= e.now().UnixNano() {
		return
	}
	emit(journal.Entry{Kind: kindLock, Fact: appendLock(nil, id, h.lock()), Must: true})
	h.seq = before
	t.locks[id] = h
}

func (e *Embedded) carryOpenLease(id leaseID, before uint64, emit func(journal.Entry)) {
	t := e.leases
	t.still(id)
	defer t.mu.Unlock()
	o := t.open[id]
	if o == nil || o.seq >= before || !o.state.Live(e.now()) {
		return
	}
	emit(leaseEntry(o.name, &o.state, true))
	t.open[id] = &openLease{o.name, o.state, before}
}

// carryEndedLeases says finished leases again with their results, and then knows where those went.
func (e *Embedded) carryEndedLeases(ids []leaseID, before uint64) error {
	commits := map[leaseID]*journal.Commit{}
	for _, id := range ids {
		commit, err := e.carryEndedLease(id, before)
		if err != nil {
			return err
		}
		if commit != nil {
			commits[id] = commit
		}
	}
	t := e.leases
	for id, commit := range commits {
		if err := commit.Wait(context.Background()); err != nil {
			return err
		}
		t.mu.Lock()
		if l, ok := t.ended[id]; ok && l.seq == commit.First {
			l.at = commit.Body(0)
			t.ended[id] = l
		}
		t.mu.Unlock()
	}
	return nil
}

func (e *Embedded) carryEndedLease(id leaseID, before uint64) (*journal.Commit, error) {
	t := e.leases
	t.mu.Lock()
	l, ok := t.ended[id]
	t.mu.Unlock()
	if !ok || l.seq >= before || l.until <= e.now().UnixNano() {
		return nil, nil
	}
	entry, err := e.endedEntry(id, l)
	if err != nil {
		return nil, err
	}
	t.still(id)
	defer t.mu.Unlock()
	if now, ok := t.ended[id]; !ok || now.seq != l.seq {
		return nil, nil // said again meanwhile
	}
	commit, err := e.j.Append(entry)
	if err != nil {
		return nil, err
	}
	l.seq = commit.First
	t.ended[id] = l
	return commit, nil
}

// endedEntry is a finished lease as it is said again: with its body or, where that has gone, with what is known.
func (e *Embedded) endedEntry(id leaseID, l endedLease) (journal.Entry, error) {
	body, err := e.j.Body(l.at)
	if err == nil {
		n, s, err := parseLease(body)
		return leaseEntry(n, &s, true), err
	}
	if !errors.Is(err, journal.ErrBodyGone) {
		return journal.Entry{}, err
	}
	s, err := e.readEnded(endedLease{status: l.status, version: l.version, first: l.first, done: l.done, until: l.until})
	return journal.Entry{Kind: kindEndedLease, Fact: appendEndedLease(id, &s), Must: true}, err
}

// appendEndedLease is the fact of a finished lease whose key has gone with its body.
func appendEndedLease(id leaseID, s *lease.State) []byte {
	w := newWriter(nil)
	w.leaseID(id)
	return append(w, appendLease(nil, lease.Name{}, s, false)...)
}

func parseEndedLease(p []byte) (id leaseID, s lease.State, err error) {
	r := newReader(p)
	if id = r.leaseID(); r.err != nil {
		return id, s, r.err
	}
	_, s, err = parseLease(r.p)
	return id, s, err
}
