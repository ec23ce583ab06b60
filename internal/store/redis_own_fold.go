package store

import (
	"context"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// fact is what the journal keeps of the call.
func (c *ownCall) fact(kind journal.Kind, a *dedup.Answer) journal.Entry {
	f := callFact{state: c.record.state, keys: c.record.keys, requestID: c.record.requestID, answer: a}
	entry := journal.Entry{Kind: kind}
	if kind == kindIntent {
		f.record = c.intent
	} else if entry.Must = true; a != nil && a.Kept {
		entry.Body, entry.BodyUntil = f.append(nil, true), f.state.Expires
	}
	entry.Fact = f.append(nil, false)
	return entry
}

func nonceFact(nonce uint64, flag bool) []byte {
	w := newWriter(nil)
	w.uint(nonce)
	w.bool(flag)
	return w
}

// fold applies one fact of the journal.
func (o *ownCalls) fold(st *journal.Stored) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch st.Kind {
	case kindIntent, kindOwnEnd:
		return o.foldCall(st)
	}
	r := newReader(st.Fact)
	nonce, flag := r.uint(), r.bool()
	if err := r.done(); err != nil {
		return err
	}
	switch c := o.open[nonce]; {
	case st.Kind == kindLost && flag:
		if c != nil {
			c.gaveUp = true
		}
	case st.Kind == kindLost:
		o.drop(nonce)
	case st.Kind == kindReached:
		delete(o.late, nonce)
	case st.Kind == kindLate:
		i := slices.IndexFunc(o.recent, func(c *ownCall) bool { return c.nonce == nonce })
		if i >= 0 {
			o.late[nonce] = o.recent[i]
		}
	}
	return nil
}

func (o *ownCalls) foldCall(st *journal.Stored) error {
	f, err := parseCall(st.Fact)
	if err != nil {
		return err
	}
	c := &ownCall{
		nonce: f.state.Nonce, intent: f.record, seq: st.Seq, done: make(chan struct{}), body: st.Body, answer: f.answer,
		record: &record{state: f.state, keys: f.keys, requestID: f.requestID, answer: f.answer},
	}
	if st.Kind == kindIntent {
		o.put(c)
		return nil
	}
	c.won = true
	c.end(dedup.Ending{Outcome: f.state.Outcome, At: f.state.Ended})
	o.bury(c, st.Time)
	return nil
}

// inherit makes what the last process left open this one's to settle. Its late outcomes get their answers back.
func (o *ownCalls) inherit(body func(journal.Location) ([]byte, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heirs, o.open = o.open, map[uint64]*ownCall{}
	o.count.Store(0)
	for _, c := range o.recent {
		o.late[c.nonce] = c // whether it reached Redis is not written where it did
	}
	room := recentBytes
	for _, c := range o.late {
		o.fences[o.grantOf(c)] = c
		p, err := body(c.body)
		if err != nil || len(p) > room {
			continue // it is asserted without its answer
		}
		room -= len(p)
		if f, err := parseCall(p); err == nil && f.answer != nil {
			rec := *c.record
			rec.answer, c.answer, c.record = f.answer, f.answer, &rec
		}
	}
}

// carry says again what stands only in entries below before.
func (o *ownCalls) carry(before uint64, emit func(journal.Entry)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, calls := range []map[uint64]*ownCall{o.open, o.heirs} {
		for _, c := range calls {
			if c.seq < before {
				entry := c.fact(kindIntent, nil)
				entry.Must = true
				emit(entry)
				c.seq = before
			}
		}
	}
	for _, c := range o.late {
		if c.seq < before {
			emit(c.fact(kindOwnEnd, c.answer))
			emit(journal.Entry{Kind: kindLate, Fact: nonceFact(c.nonce, true), Must: true})
			c.seq = before
		}
	}
}

// harmless says that a call left open changed nothing that is worth an operator's time.
func (c *ownCall) harmless() bool {
	return c.record.state.Effect == tool.Read || len(c.record.keys) == 0
}

// inherit settles what the last process of this journal left.
func (r *Redis) inherit(ctx context.Context) {
	late, heirs := r.own.waiting()
	r.assertAll(ctx, late)
	r.settleHeirs(ctx, heirs)
	if n := len(heirs); n > 0 {
		r.local.log.Warn("calls were running when the last process ended; their outcome is unknown, and `oo-sidecar unknown ls` lists them", "calls", n)
	}
}
