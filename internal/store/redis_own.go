package store

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
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
	lost   bool   // a copy of the claim may yet arrive
	seq    uint64 // of the newest fact about it

	won, ended, overtaken, gaveUp bool

	finishing bool // ended, and who ended it has not heard yet what became of it in Redis

	at      time.Time     // when it ended
	answer  *dedup.Answer // ended: what duplicates get
	body    journal.Location
	waiters int
	done    chan struct{}
	ending  dedup.Ending
	goesOn  *ownCall // under a higher fence; written before done is closed
	ask     bool     // Redis knows how it ended, and not this process; written before done is closed
}

// agent is whose call it is: it names its shard.
func (c *ownCall) agent() string { return c.record.state.Reserved.Agent }

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
	apart bool // fences are those of each agent; set before the first claim

	append func(...journal.Entry) (*journal.Commit, error)
	note   func(...journal.Entry) error

	count atomic.Int64 // of open: how many outcomes the journal must still take. It asks while mu is held

	mu     sync.Mutex
	open   map[uint64]*ownCall // asked for or won, by nonce; guarded by mu
	fences map[grant]*ownCall  // won: open and recent ones; guarded by mu
	recent []*ownCall          // ended, oldest first; guarded by mu
	bytes  int                 // of recent; guarded by mu
	undone []*ownCall          // given up and released lately, oldest first; guarded by mu
	late   map[uint64]*ownCall // ended here and not yet in Redis, by nonce; guarded by mu
	waived map[uint64]*ownCall // claimed here only, by nonce; guarded by mu
	heirs  map[uint64]*ownCall // open when the last process died, by nonce; guarded by mu
	closed bool                // guarded by mu
}

// grant tells a claim that was won from all others: each shard counts its own fences.
type grant struct {
	agent string // empty where all agents have one shard
	fence uint64
}

func (o *ownCalls) grant(agent string, fence uint64) grant {
	if !o.apart {
		agent = ""
	}
	return grant{agent, fence}
}

func (o *ownCalls) grantOf(c *ownCall) grant { return o.grant(c.agent(), c.record.state.Fence) }

func newOwnCalls() *ownCalls {
	return &ownCalls{open: map[uint64]*ownCall{}, fences: map[grant]*ownCall{}, late: map[uint64]*ownCall{}, waived: map[uint64]*ownCall{}, heirs: map[uint64]*ownCall{}}
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

// lose forgets a claim that was not won. A crash before this is written asks Redis once more.
func (o *ownCalls) lose(c *ownCall) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open[c.nonce] == c {
		o.drop(c.nonce)
	}
	delete(o.heirs, c.nonce)
	if c.gaveUp {
		c.at = time.Now()
		o.undone = append(o.undone, c)
	}
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
	o.fences[o.grantOf(c)] = c
	last := o.grant(c.agent(), before)
	old := o.fences[last]
	if before == 0 || old == nil || old.ended {
		return
	}
	o.drop(old.nonce)
	delete(o.fences, last)
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
func (o *ownCalls) find(agent string, fence, nonce uint64) *ownCall {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.fences[o.grant(agent, fence)]; c != nil && c.nonce == nonce {
		return c
	}
	return nil
}

// ends appends an own outcome with what goes with it, and remembers it; finished must follow. repeated says that it was
// known; it is dedup.ErrOvertaken where that was.
func (o *ownCalls) ends(c *ownCall, e *dedup.End, now time.Time, with journal.Entry) (commit *journal.Commit, repeated bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next, _, err := dedup.Finish(c.record.state, e, now)
	switch known := err != nil || !c.record.state.Open(); {
	case known && c.overtaken:
		return nil, true, dedup.ErrOvertaken
	case known:
		return nil, true, nil
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
	commit, err = o.append(entries...)
	if err == nil {
		c.seq = commit.First
	}
	o.bury(c, time.Now()) // also where the journal takes nothing: Redis is told nevertheless
	c.finishing = true
	return commit, false, err
}

// finished says that whoever ended the call has heard what became of it in Redis, and whether another holds its key.
func (o *ownCalls) finished(c *ownCall) (overtaken bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.finishing = false
	return c.overtaken
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
		if g := o.grantOf(old); o.late[old.nonce] == nil && o.fences[g] == old {
			delete(o.fences, g)
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
	delete(o.waived, c.nonce)
	if o.late[c.nonce] == c {
		delete(o.late, c.nonce)
		_ = o.note(journal.Entry{Kind: kindReached, Fact: nonceFact(c.nonce, true)})
	}
}

// undoneLately are the claims whose release a failover may have lost.
func (o *ownCalls) undoneLately() []*ownCall {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := slices.IndexFunc(o.undone, func(c *ownCall) bool { return time.Since(c.at) < recentFor })
	if first < 0 {
		first = len(o.undone)
	}
	o.undone = slices.Clone(o.undone[first:])
	return slices.Clone(o.undone)
}

// pending says whether something waits for Redis.
func (o *ownCalls) pending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.late)+len(o.heirs)+len(o.waived) > 0
}

// agents are those of whom something is open, late or left by the last process.
func (o *ownCalls) agents() map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := map[string]bool{}
	for _, calls := range []map[uint64]*ownCall{o.open, o.late, o.heirs} {
		for _, c := range calls {
			all[c.agent()] = true
		}
	}
	return all
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
		if o.waived[c.nonce] == nil {
			late = append(late, c)
		}
	}
	for _, c := range o.waived {
		if !o.shadowed(c) {
			late = append(late, c)
		}
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
func (o *ownCalls) join(g grant, most int) (*ownCall, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.fences[g]
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
