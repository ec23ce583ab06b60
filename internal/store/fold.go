package store

import (
	"context"
	"fmt"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// fold applies one fact of the journal, with what the store applies to itself when it appends one.
func (e *Embedded) fold(st journal.Stored) error {
	var err error
	switch st.Kind {
	case kindClaim:
		err = e.foldClaim(&st)
	case kindEnd:
		err = e.foldEnd(&st)
	case kindCarried:
		err = e.foldCarried(&st)
	case kindDeliver:
		err = e.foldDeliver(&st)
	case kindSwitch:
		var s Switch
		if s, err = parseSwitch(st.Fact); err == nil {
			e.throw(s)
		}
	case kindEntry:
		err = e.foldEntry(&st)
	case kindActivity:
		err = e.book.Fold(st.Fact)
	case kindLock, kindLease, kindEndedLease:
		err = e.foldLeases(&st)
	case kindIntent, kindLost, kindOwnEnd, kindLate, kindReached:
		err = e.own.fold(&st)
	}
	if err != nil {
		return fmt.Errorf("entry %d of kind %d: %w", st.Seq, st.Kind, err)
	}
	return nil
}

func (e *Embedded) foldClaim(st *journal.Stored) error {
	f, err := parseCallBy(st.Fact, e.names)
	if err != nil {
		return err
	}
	c := &call{state: f.state, keys: f.keys, requestID: f.requestID, record: f.record, done: make(chan struct{})}
	if f.taken != 0 {
		c.taken = e.calls[f.taken]
	}
	e.install(c, st.Seq)
	c.taken, c.displaced = nil, nil
	return nil
}

func (e *Embedded) foldEnd(st *journal.Stored) error {
	f, err := parseCallBy(st.Fact, e.names)
	if err != nil {
		return err
	}
	e.settle(e.calls[f.state.Fence], &f, st.Seq, st.Body)
	return nil
}

// foldCarried puts a running call where it was. Its charge, if it still counts, is in the claim, which is younger than
// what is ever dropped.
func (e *Embedded) foldCarried(st *journal.Stored) error {
	f, err := parseCallBy(st.Fact, e.names)
	if err != nil {
		return err
	}
	if c := e.calls[f.state.Fence]; c != nil {
		c.seq = st.Seq
		return nil
	}
	c := &call{state: f.state, keys: f.keys, requestID: f.requestID, record: f.record, seq: st.Seq, done: make(chan struct{})}
	e.calls[f.state.Fence] = c
	e.running.Add(1)
	for _, id := range c.keys {
		e.live[id.Key] = c
	}
	return nil
}

func (e *Embedded) foldDeliver(st *journal.Stored) error {
	f, err := parseDeliver(st.Fact)
	if err != nil {
		return err
	}
	for _, id := range f.keys {
		if p, ok := e.index.get(id.Key); ok {
			e.shorten(&f, p.at)
			break
		}
	}
	return nil
}

// carry says again what stands only in entries below before, because those are about to be dropped. Everything here is
// a fact that may not be lost, so that a full disk can be relieved.
func (e *Embedded) carry(before uint64, emit func(journal.Entry)) error {
	<-e.opened
	moved, err := e.carryEnded(before)
	if err != nil {
		return fmt.Errorf("carry live state forward: %w", err)
	}
	e.mu.Lock()
	e.carryOpen(before, emit)
	for _, s := range *e.switches.Load() {
		emit(journal.Entry{Kind: kindSwitch, Fact: s.append(nil), Must: true})
	}
	for id, v := range e.entries {
		emit(journal.Entry{Kind: kindEntry, Fact: v.append(nil, id), Must: true})
	}
	e.mu.Unlock()
	if err := e.relocate(moved); err != nil {
		return err
	}
	e.book.Carry(func(fact []byte) { emit(journal.Entry{Kind: kindActivity, Fact: fact, Must: true}) })
	e.own.carry(before, emit)
	return e.carryLeases(before, emit)
}

// carryOpen says running and unknown calls again. What is on its way to the disk is younger.
func (e *Embedded) carryOpen(before uint64, emit func(journal.Entry)) {
	for _, c := range e.calls {
		if c.seq >= before || c.pending || c.ended {
			continue
		}
		f := callFact{state: c.state, keys: c.keys, requestID: c.requestID, record: c.record, lost: e.lost(c)}
		kind := kindCarried
		if c.state.Outcome == dedup.Unknown {
			kind = kindEnd
		}
		emit(journal.Entry{Kind: kind, Fact: f.append(nil, false), Must: true})
		c.seq = before
	}
}

// move is an ended call that is said again, and from where to where its body went.
type move struct {
	keys   []dedup.Identity
	from   journal.Location
	commit *journal.Commit
}

// carryEnded says again, with their bodies where those are left, the ended calls below before that still count.
func (e *Embedded) carryEnded(before uint64) ([]move, error) {
	var moved []move
	for st, err := range e.j.Entries(0) {
		if err != nil {
			return nil, err
		}
		if st.Seq >= before {
			break
		}
		if st.Kind != kindEnd {
			continue
		}
		f, err := parseCall(st.Fact)
		if err != nil {
			return nil, err
		}
		if f.back = (dedup.Refund{}); !stays(&f.state) || len(f.keys) == 0 {
			continue
		}
		m, err := e.carryOne(&f, st.Body)
		if err != nil {
			return nil, err
		}
		if m != nil {
			moved = append(moved, *m)
		}
	}
	return moved, nil
}

// carryOne says an ended call again if its keys still stand for it.
func (e *Embedded) carryOne(f *callFact, at journal.Location) (*move, error) {
	body := e.bodyFor(f, at)
	e.mu.Lock()
	defer e.mu.Unlock()
	m := &move{}
	for i, id := range f.keys {
		p, ok := e.index.get(id.Key)
		if !ok || f.lost>>i&1 != 0 || e.live[id.Key] != nil || p.tombstone == f.state.Held || p.at != at && p.at != (journal.Location{}) {
			continue
		}
		m.from, f.state.Expires = p.at, earlier(f.state.Expires, p.expires)
		m.keys = append(m.keys, id)
	}
	if len(m.keys) == 0 || !f.state.Expires.After(e.now()) {
		return nil, nil
	}
	f.keys, f.lost = m.keys, 0
	entry := journal.Entry{Kind: kindEnd, Fact: f.append(nil, false), Must: true}
	entry.Body, entry.BodyUntil = body, f.state.Expires
	var err error
	m.commit, err = e.j.Append(entry)
	return m, err
}

// bodyFor is the body that an ended call is carried with: its own, or, where that has gone, one without the answer's.
func (e *Embedded) bodyFor(f *callFact, at journal.Location) []byte {
	if body, err := e.j.Body(at); err == nil {
		return body
	}
	return f.append(nil, true)
}

// relocate tells the index where bodies went.
func (e *Embedded) relocate(moved []move) error {
	for _, m := range moved {
		if err := m.commit.Wait(context.Background()); err != nil {
			return err
		}
		e.mu.Lock()
		for _, id := range m.keys {
			if p, ok := e.index.get(id.Key); ok && e.live[id.Key] == nil && p.at == m.from {
				p.at = m.commit.Body(0)
				e.index.put(id.Key, p, e.now())
			}
		}
		e.mu.Unlock()
	}
	return nil
}
