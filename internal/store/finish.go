package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Finish ends a claim: see dedup.Store.
func (e *Embedded) Finish(ctx context.Context, end *dedup.End) error {
	o, first, err := e.finish(end)
	switch {
	case err != nil:
		return e.overtaken(ctx, end, err)
	case first != nil: // the same end twice at once: the first one's word is this one's
		<-first.done
		return nil
	}
	return e.witness(ctx, o)
}

// outcome is an appended end on its way to the disk.
type outcome struct {
	call    *call
	fact    callFact
	commit  *journal.Commit
	answer  *dedup.Answer // what waiters get, also when nothing is kept
	refusal string
	light   bool
}

// finish decides an end and appends it with the audit record, in one step.
func (e *Embedded) finish(end *dedup.End) (*outcome, *call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.calls[end.Fence]
	if c == nil || c.state.Nonce != end.Nonce {
		return nil, nil, dedup.ErrOvertaken
	}
	if c.ended {
		return nil, c, nil
	}
	next, back, err := dedup.Finish(c.state, end, e.now())
	if err != nil {
		return nil, nil, err
	}
	f := e.factOf(c, next, back, e.keepable(end.Answer))
	o := &outcome{call: c, fact: f, answer: end.Answer, refusal: end.Refusal, light: end.Light}
	return o, nil, e.appendEnd(o, journal.Entry{Kind: audit.KindRecord, Fact: end.Record, Must: true})
}

// factOf is what an end says.
func (e *Embedded) factOf(c *call, next dedup.State, back dedup.Refund, a *dedup.Answer) callFact {
	f := callFact{state: next, keys: c.keys, requestID: c.requestID, back: back, lost: e.lost(c)}
	if stays(&next) {
		f.answer = a
	}
	return f
}

// lost are those of the call's keys, by bit, that belong to a newer call: an unknown one that blocked for its window only.
func (e *Embedded) lost(c *call) (bits uint64) {
	for i, id := range c.keys {
		if !e.owns(c, id.Key) {
			bits |= 1 << i
		}
	}
	return bits
}

// stays says whether duplicates will ask for the state's body.
func stays(s *dedup.State) bool {
	return s.Held && s.Outcome != dedup.Unknown && s.Outcome != dedup.Running || !s.Held && s.Generation != 0
}

// keepable drops the body of a large answer when the disk has little room: outcomes come first.
func (e *Embedded) keepable(a *dedup.Answer) *dedup.Answer {
	if a == nil || len(a.Body) <= largeAnswer || e.j.Status().Err == nil {
		return a
	}
	without := *a
	without.Kept, without.Body = false, nil
	return &without
}

// appendEnd appends an outcome with the entry that goes with it, and marks the call. Call it with mu held.
func (e *Embedded) appendEnd(o *outcome, with journal.Entry) error {
	f := &o.fact
	e.buf = f.append(e.buf, false)
	entry := journal.Entry{Kind: kindEnd, Fact: e.buf, Must: true}
	if stays(&f.state) && len(f.keys) > 0 {
		e.bodyBuf = f.append(e.bodyBuf, true)
		entry.Body, entry.BodyUntil = e.bodyBuf, f.state.Expires
	}
	entries := []journal.Entry{entry, with}
	if with.Fact == nil {
		entries = entries[:1]
	}
	commit, err := e.j.Append(entries...)
	if cap(e.bodyBuf) > largeAnswer {
		e.bodyBuf = nil
	}
	if err != nil {
		return err
	}
	o.commit, o.call.ended, o.call.seq = commit, true, commit.First
	if o.light && entry.Body == nil { // nothing of it will be asked for
		e.settle(o.call, f, commit.First, journal.Location{})
		o.call.end(e.ending(o))
		o.call = nil
	}
	return nil
}

func (e *Embedded) ending(o *outcome) dedup.Ending {
	end := dedup.Ending{Outcome: o.fact.state.Outcome, At: o.fact.state.Ended, Answer: o.answer, Refusal: o.refusal}
	if end.Outcome == dedup.Unknown {
		end.Answer = nil // it settles nothing
	}
	return end
}

// witness waits until an outcome is durable and shows it.
func (e *Embedded) witness(ctx context.Context, o *outcome) error {
	if o.call == nil {
		return nil
	}
	if o.light {
		go e.durable(o)
		return nil
	}
	err := o.commit.Wait(ctx)
	if err == nil {
		e.show(o)
		return nil
	}
	if !errors.Is(err, journal.ErrDeferred) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", dedup.ErrDeferred, err)
	}
	e.deferred(o)
	go e.durable(o)
	return fmt.Errorf("%w: %w", dedup.ErrDeferred, err)
}

// show makes a durable outcome what duplicates see.
func (e *Embedded) show(o *outcome) {
	at := o.commit.Body(0)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settle(o.call, &o.fact, o.commit.First, at)
	if at != (journal.Location{}) {
		e.cache.add(at, newEnded(&o.fact))
	}
	o.call.end(e.ending(o))
}

// deferred makes an outcome known to this process while the disk takes nothing.
func (e *Embedded) deferred(o *outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, f := o.call, &o.fact
	if c.state.Outcome == dedup.Running {
		e.running.Add(-1)
	} else {
		e.unknown--
	}
	if f.state.Outcome == dedup.Unknown && f.state.Held {
		e.unknown++
	}
	e.spent.refund(&f.state.Reserved, f.back)
	f.back = dedup.Refund{}
	c.state, c.answer = f.state, f.answer
	c.end(e.ending(o))
}

// durable shows an outcome whenever the disk has it.
func (e *Embedded) durable(o *outcome) {
	if err := o.commit.Durable(context.Background()); err != nil {
		e.log.Error("an outcome could not be written; after a restart the call is unknown", "error", err)
		return
	}
	e.show(o)
}

// settle applies an outcome to what is known: in this process's life and in the fold alike. Call it with mu held.
func (e *Embedded) settle(c *call, f *callFact, seq uint64, at journal.Location) {
	e.spent.refund(&f.state.Reserved, f.back)
	if c != nil {
		e.drop(c, f)
	}
	next := &f.state
	switch {
	case len(f.keys) == 0:
	case next.Held && next.Outcome == dedup.Unknown:
		e.keepUnknown(c, f, seq)
	default:
		e.bury(c, f, at)
	}
}

// drop takes a call out of those that are open. Its keys stay until what follows is in their place.
func (e *Embedded) drop(c *call, f *callFact) {
	if e.calls[f.state.Fence] != c {
		return
	}
	delete(e.calls, f.state.Fence)
	switch c.state.Outcome {
	case dedup.Running:
		e.running.Add(-1)
	case dedup.Unknown:
		e.unknown--
	}
}

// keepUnknown makes an unknown call stand in the way, without what only a running one needs.
func (e *Embedded) keepUnknown(c *call, f *callFact, seq uint64) {
	u := &call{state: f.state, keys: f.keys, requestID: f.requestID, seq: seq, done: make(chan struct{})}
	u.end(dedup.Ending{Outcome: dedup.Unknown, At: f.state.Ended})
	e.calls[f.state.Fence] = u
	e.unknown++
	for i, id := range f.keys {
		if e.owns(c, id.Key) && f.lost>>i&1 == 0 {
			e.live[id.Key] = u
		}
	}
}

// bury moves an ended call's keys to the index, or forgets them.
func (e *Embedded) bury(c *call, f *callFact, at journal.Location) {
	now := f.state.Ended
	for i, id := range f.keys {
		if !e.owns(c, id.Key) || f.lost>>i&1 != 0 {
			continue
		}
		delete(e.live, id.Key)
		if stays(&f.state) {
			e.index.put(id.Key, place{at: at, expires: f.state.Expires, tombstone: !f.state.Held}, now)
		} else {
			e.index.remove(id.Key)
		}
	}
}

// owns says whether a key is still that of the call, and not of a newer one. c is nil for a call whose claim is not in
// the journal.
func (e *Embedded) owns(c *call, k dedup.Key) bool { return e.live[k] == c }

// overtaken keeps the audit record of an end that changed nothing.
func (e *Embedded) overtaken(ctx context.Context, end *dedup.End, err error) error {
	if !errors.Is(err, dedup.ErrOvertaken) {
		return fmt.Errorf("record the outcome of fence %d: %w", end.Fence, err)
	}
	if e.repeated(end) {
		return nil
	}
	if end.Record != nil {
		commit, aerr := e.j.Append(journal.Entry{Kind: audit.KindRecord, Fact: end.Record, Must: true})
		if aerr == nil && !end.Light {
			aerr = commit.Wait(ctx)
		}
		err = errors.Join(err, aerr)
	}
	return err
}

// repeated says whether the call has ended already by this holder's own word, or with an operator's that agrees to know.
func (e *Embedded) repeated(end *dedup.End) bool {
	if len(end.Keys) == 0 {
		return false
	}
	h, err := e.look(end.Keys[0].Key)
	return err == nil && h.ended != nil && h.ended.state.Fence == end.Fence && h.ended.state.Nonce == end.Nonce
}

// look finds what stands under one key, reading the disk if it must.
func (e *Embedded) look(k dedup.Key) (hit, error) {
	for read := (bodies{}); ; {
		e.mu.Lock()
		l := lookup{e: e, read: read}
		h := l.hit(k)
		e.mu.Unlock()
		if len(l.missing) == 0 {
			return h, nil
		}
		if err := e.read(l.missing, read); err != nil {
			return hit{}, err
		}
	}
}
