package store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// The journal's kinds for calls that are claimed elsewhere, in Redis: what this sidecar itself did.
const (
	kindIntent  journal.Kind = 52 // a claim is about to be asked for; it may have been won from here on
	kindLost    journal.Kind = 53 // it was not won, or has been given up
	kindOwnEnd  journal.Kind = 54 // an outcome; the body is the answer
	kindLate    journal.Kind = 55 // that outcome is not in Redis yet
	kindReached journal.Kind = 56 // now it is
)

// What stays asserted for how long after its end: replicas lag by less, and so does a disk that is synced every second.
const (
	recentFor   = 30 * time.Second
	recentCalls = 20_000
	recentBytes = 32 << 20
)

// ownCall is a call that this sidecar claimed in Redis, or is about to. Guarded by ownCalls.mu, but for what does not
// change after it was made and for ending, which is written before done is closed.
type ownCall struct {
	nonce  uint64
	record *record // what the claim asked for; once won, what Redis granted; once ended, how. Never changed, replaced
	intent []byte  // the audit record to complete
	light  bool
	seq    uint64 // of the newest fact about it

	won, ended, overtaken, gaveUp bool

	at      time.Time     // when it ended
	answer  *dedup.Answer // ended: what duplicates get
	body    journal.Location
	waiters int
	done    chan struct{}
	ending  dedup.Ending
	goesOn  *ownCall // under a higher fence; written before done is closed
	ask     bool     // Redis knows how it ended, and not this process; written before done is closed
}

func (c *ownCall) requestID() string { return c.record.requestID }

// cost is what a recent call takes of memory, about.
func (c *ownCall) cost() int {
	n := 1024 + len(c.intent)
	if c.answer != nil {
		n += len(c.answer.Body)
	}
	return n
}

// ownCalls is what this sidecar did with Redis: a fold over its journal.
type ownCalls struct {
	append func(...journal.Entry) (*journal.Commit, error)
	note   func(...journal.Entry) error

	count atomic.Int64 // of open: how many outcomes the journal must still take. It asks while mu is held

	mu     sync.Mutex
	open   map[uint64]*ownCall // asked for or won, by nonce; guarded by mu
	fences map[uint64]*ownCall // won, by fence: open and recent ones; guarded by mu
	recent []*ownCall          // ended, oldest first; guarded by mu
	bytes  int                 // of recent; guarded by mu
	late   map[uint64]*ownCall // ended here and not yet in Redis, by nonce; guarded by mu
	heirs  map[uint64]*ownCall // open when the last process died, by nonce; guarded by mu
	closed bool                // guarded by mu
}

func newOwnCalls() *ownCalls {
	return &ownCalls{open: map[uint64]*ownCall{}, fences: map[uint64]*ownCall{}, late: map[uint64]*ownCall{}, heirs: map[uint64]*ownCall{}}
}

// intend appends that a claim is about to be asked for.
func (o *ownCalls) intend(c *dedup.Claim, now time.Time) (*ownCall, *journal.Commit, error) {
	mine := &ownCall{nonce: c.Nonce, light: c.Light, done: make(chan struct{}), record: &record{keys: slices.Clone(c.Keys)}}
	if c.Record != nil {
		mine.intent = c.Record()
		mine.record.requestID = requestID(mine.intent)
	}
	s := &mine.record.state
	*s = dedup.State{
		Held: true, Nonce: c.Nonce, Attempt: 1, Effect: c.Effect, Claimed: now, Sent: now, Timeout: c.Timeout, UnknownFor: c.UnknownFor,
		Reserved: dedup.Reservation{Tenant: c.Tenant, Agent: c.Agent, Tool: c.Tool, Cost: money(c.Cost), Minute: minuteOf(now), Day: dayOf(now)},
	}
	if len(c.Keys) > 0 {
		s.Origin = c.Keys[0].Key
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, nil, errClosed
	}
	commit, err := o.append(mine.fact(kindIntent, nil))
	if err != nil {
		return nil, nil, err
	}
	mine.seq = commit.First
	o.put(mine)
	return mine, commit, nil
}

// put and drop keep count of the open calls. Call them with mu held.
func (o *ownCalls) put(c *ownCall) {
	o.open[c.nonce] = c
	o.count.Store(int64(len(o.open)))
}

func (o *ownCalls) drop(nonce uint64) {
	delete(o.open, nonce)
	o.count.Store(int64(len(o.open)))
}

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

// lose forgets a claim that was not won. A crash before this is written asks Redis once more.
func (o *ownCalls) lose(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[c.nonce] == c {
		o.drop(c.nonce)
	}
	delete(o.heirs, c.nonce)
	_ = o.note(journal.Entry{Kind: kindLost, Fact: nonceFact(c.nonce, false)})
}

// giveUp says of a claim that may have been won that nothing will be sent under it.
func (o *ownCalls) giveUp(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.gaveUp = true
	_ = o.note(journal.Entry{Kind: kindLost, Fact: nonceFact(c.nonce, true)})
}

// granted is the record of a claim that was won; it may go on with an own claim under the fence before.
func (o *ownCalls) granted(c *ownCall, rec *record, before uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.record, c.won = rec, true
	o.fences[rec.state.Fence] = c
	old := o.fences[before]
	if before == 0 || old == nil || old.ended {
		return
	}
	o.drop(old.nonce)
	delete(o.fences, before)
	_ = o.note(journal.Entry{Kind: kindLost, Fact: nonceFact(old.nonce, false)})
	old.goesOn, old.ended = c, true
	old.end(dedup.Ending{})
}

// end makes the outcome known to whoever waits here, once. Call it with mu held.
func (c *ownCall) end(e dedup.Ending) {
	select {
	case <-c.done:
	default:
		c.ending = e
		close(c.done)
	}
}

// find is the own call of that fence and nonce; nil when there is none.
func (o *ownCalls) find(fence, nonce uint64) *ownCall {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.fences[fence]; c != nil && c.nonce == nonce {
		return c
	}
	return nil
}

// ends appends an own outcome with what goes with it, and remembers it. repeated says that it was known.
func (o *ownCalls) ends(c *ownCall, e *dedup.End, now time.Time, with journal.Entry) (commit *journal.Commit, repeated bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next, _, err := dedup.Finish(c.record.state, e, now)
	if err != nil || !c.record.state.Open() {
		return nil, true, err
	}
	ended := *c.record
	ended.state, ended.answer, ended.refusal = next, e.Answer, e.Refusal
	if next.Outcome == dedup.Unknown {
		ended.answer = nil
	}
	c.record, c.answer = &ended, ended.answer
	entries := []journal.Entry{c.fact(kindOwnEnd, c.answer), with}
	if with.Fact == nil {
		entries = entries[:1]
	}
	if commit, err = o.append(entries...); err != nil {
		return nil, false, err
	}
	c.seq = commit.First
	o.bury(c, time.Now())
	return commit, false, nil
}

// bury moves a call to those that have ended lately. Call it with mu held.
func (o *ownCalls) bury(c *ownCall, now time.Time) {
	o.drop(c.nonce)
	if !c.ended {
		o.recent = append(o.recent, c)
		o.bytes += c.cost()
	}
	c.ended, c.at = true, now
	for len(o.recent) > 0 {
		old := o.recent[0]
		if now.Sub(old.at) < recentFor && len(o.recent) <= recentCalls && o.bytes <= recentBytes {
			break
		}
		o.recent[0] = nil
		o.recent = o.recent[1:]
		o.bytes -= old.cost()
		if o.late[old.nonce] == nil && o.fences[old.record.state.Fence] == old {
			delete(o.fences, old.record.state.Fence)
		}
	}
}

// replace takes what Redis says of an own call. Of its answer Redis says the head only.
func (o *ownCalls) replace(c *ownCall, rec *record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := *rec
	if c.answer != nil {
		mine.answer = c.answer
	}
	c.record = &mine
}

// delay says that an outcome has not reached Redis.
func (o *ownCalls) delay(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.late[c.nonce] == nil {
		o.late[c.nonce] = c
		_, _ = o.append(journal.Entry{Kind: kindLate, Fact: nonceFact(c.nonce, true), Must: true})
	}
}

// reached says that it has.
func (o *ownCalls) reached(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.late[c.nonce] == c {
		delete(o.late, c.nonce)
		_ = o.note(journal.Entry{Kind: kindReached, Fact: nonceFact(c.nonce, true)})
	}
}

// pending says whether something waits for Redis.
func (o *ownCalls) pending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.late)+len(o.heirs) > 0
}

// running are the calls that were won and have no outcome.
func (o *ownCalls) running() (list []*ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.open {
		if c.won && !c.gaveUp {
			list = append(list, c)
		}
	}
	return list
}

// asserted are the calls that Redis must know: open, ended lately, and late.
func (o *ownCalls) asserted() (list []*ownCall) {
	list = o.running()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.recent {
		if o.late[c.nonce] == nil {
			list = append(list, c)
		}
	}
	return list
}

// waiting are the outcomes that Redis has not, and the calls that the last process left.
func (o *ownCalls) waiting() (late, heirs []*ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.late {
		late = append(late, c)
	}
	for _, c := range o.heirs {
		heirs = append(heirs, c)
	}
	return late, heirs
}

func (o *ownCalls) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// join adds a waiter to an own call that runs; nil when it is none.
func (o *ownCalls) join(fence uint64, most int) (*ownCall, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.fences[fence]
	if c == nil || c.ended {
		return nil, nil
	}
	if c.waiters >= most {
		return nil, dedup.ErrTooManyWaiters
	}
	c.waiters++
	return c, nil
}

func (o *ownCalls) part(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.waiters--
}

// tellWaiters lets those who wait here go. ask: they look in Redis for how it ended.
func (o *ownCalls) tellWaiters(c *ownCall, e dedup.Ending, ask bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.ending == (dedup.Ending{}) {
		c.ask = ask
	}
	c.end(e)
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
	for _, c := range o.late {
		o.fences[c.record.state.Fence] = c
		p, err := body(c.body)
		if err != nil {
			continue
		}
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
	r.own.inherit(r.local.j.Body)
	late, heirs := r.own.waiting()
	r.assertAll(ctx, late)
	r.settleHeirs(ctx, heirs)
	if n := len(heirs); n > 0 {
		r.local.log.Warn("calls were running when the last process ended; their outcome is unknown", "calls", n)
	}
}
