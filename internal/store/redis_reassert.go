package store

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// metAnother is told, before the first script there, that another server answers for a tag, or the same one in another
// life. Where that is the namespace's own, and the agents' calls stand elsewhere, it may have lost which shards there are.
func (r *Redis) metAnother(tag string) {
	s := r.tagged(tag)
	switch {
	case s == nil:
	case s == r.home && r.opt.Redis.apart():
		r.unlisted.Store(int64(time.Since(processStart)))
		for _, s := range r.allShards() {
			s.listed.Store(false)
			s.joined.Store(false)
		}
	default:
		r.failedOver(s)
	}
}

// lostAll is told that the namespace has forgotten what it held: so may every shard.
func (r *Redis) lostAll() {
	r.unlisted.Store(int64(time.Since(processStart)))
	r.holdAll()
	for _, s := range r.allShards() {
		s.listed.Store(false)
		r.failedOver(s)
	}
}

// failedOver has new claims in a shard wait while every sidecar says what it holds: what the server there acknowledged
// last may be gone.
func (r *Redis) failedOver(s *redisShard) {
	s.joined.Store(false)
	s.epochs.Add(1)
	r.holdClaims(s, r.opt.Redis.holds())
	r.reassert()
}

// holdClaims has new claims wait.
func (r *Redis) holdClaims(s *redisShard, hold time.Duration) {
	s.heldTill.Store(max(s.heldTill.Load(), int64(time.Since(processStart)+hold)))
}

// holdAll has new claims wait everywhere, also in shards that are first used meanwhile.
func (r *Redis) holdAll() {
	hold := r.opt.Redis.holds()
	r.shards.mu.Lock()
	r.shards.held = int64(time.Since(processStart) + hold)
	r.shards.mu.Unlock()
	for _, s := range r.allShards() {
		r.holdClaims(s, hold)
	}
}

// reassert has what this sidecar did said again.
func (r *Redis) reassert() {
	select {
	case r.doubt <- struct{}{}:
	default:
	}
}

func (r *Redis) reasserts() {
	for {
		select {
		case <-r.doubt:
		case <-r.ctx.Done():
			return
		}
		late, heirs := r.own.waiting()
		if !r.assertShards() {
			r.again()
			if !r.opt.Redis.apart() {
				continue
			}
		}
		r.assertAll(r.ctx, late)
		r.settleHeirs(r.ctx, heirs)
	}
}

// assertShards asserts what is own in each shard whose server may have lost it, and says whether it was everywhere.
func (r *Redis) assertShards() bool {
	var doubtful []*redisShard
	for _, s := range r.allShards() {
		if s.epochs.Load() != s.asserted.Load() {
			doubtful = append(doubtful, s)
		}
	}
	if len(doubtful) == 0 {
		return true
	}
	mine := map[*redisShard][]*ownCall{}
	for _, c := range r.own.asserted() {
		s := r.shardOf(c.agent())
		mine[s] = append(mine[s], c)
	}
	return each(doubtful, looksAtOnce, func(s *redisShard) error {
		life := s.epochs.Load()
		if err := r.beat(r.ctx, s); err != nil {
			return err
		}
		if !r.assertAll(r.ctx, mine[s]) || !r.releaseAgain(r.ctx, s) {
			return errNotExecuted
		}
		s.asserted.Store(life)
		return nil
	}) == nil
}

// again tries once more, a little later.
func (r *Redis) again() {
	pause(r.ctx, 50*time.Millisecond)
	r.reassert()
}

// assertAll asserts own calls, some at a time, and says whether all are.
func (r *Redis) assertAll(ctx context.Context, calls []*ownCall) bool {
	var wait sync.WaitGroup
	var mu sync.Mutex
	all := true
	limit := make(chan struct{}, 64)
	for _, c := range calls {
		limit <- struct{}{}
		wait.Go(func() {
			defer func() { <-limit }()
			word, err := r.assert(ctx, c)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				all = false
				return
			}
			r.took(c, word)
		})
	}
	wait.Wait()
	return all
}

// releaseAgain releases what was given up lately: the one that is asked now may know of the claim alone.
func (r *Redis) releaseAgain(ctx context.Context, s *redisShard) bool {
	for _, c := range r.own.undoneLately() {
		if r.shardOf(c.agent()) == s && r.settle(ctx, c, dedup.NotSent) != nil {
			return false
		}
	}
	return true
}

// assert brings one own call's record to Redis by compare-and-set, and says what came of it.
func (r *Redis) assert(ctx context.Context, c *ownCall) (string, error) {
	r.own.mu.Lock()
	rec := *c.record
	r.own.mu.Unlock()
	rec.holder = r.instance
	a := r.keepable(rec.answer)
	rec.answer = a
	args := withContent([]any{rec.encode(), r.answerTTL().Milliseconds()}, a)
	v, err := r.ask(ctx, r.shardOf(rec.state.Reserved.Agent), assertScript, strconv.FormatUint(rec.state.Nonce, 10), args...)
	return v.word, err
}

// took takes what came of an assertion. A call whose key is another's tells who ends it, or the operator where that has
// been.
func (r *Redis) took(c *ownCall, word string) {
	r.own.reached(c)
	r.own.mu.Lock()
	found := word == "overtaken" && c.ended && !c.overtaken && c.record.state.Outcome != dedup.NotSent
	if found {
		c.overtaken = true
	}
	double, rec := found && !c.finishing, c.record
	r.own.mu.Unlock()
	if double {
		r.doubleExecution(rec)
	}
}

// doubleExecution tells of a call that ended here while another holder has its key.
func (r *Redis) doubleExecution(rec *record) {
	s := &rec.state
	r.local.log.Error("possible double execution: another holder has the key of a call that ran here; Redis had lost it", "tool", s.Reserved.Tool, "fence", s.Fence, "request_id", rec.requestID)
	change := audit.Change{Time: r.nowIn(r.shardOf(s.Reserved.Agent)), Who: "oo-sidecar", What: "possible_double_execution", Entity: s.Reserved.Tool, Detail: detailOf(&call{state: *s, requestID: rec.requestID}, &dedup.Resolution{Fence: s.Fence, Outcome: s.Outcome})}
	if err := r.local.Change(&change); err != nil {
		r.local.log.Error("a possible double execution is not in the audit", "error", err.Error())
	}
	if f := r.double.Load(); f != nil {
		(*f)()
	}
}

// settleHeirs ends what the last process of this journal left open. Nothing can tell whether its bytes left.
func (r *Redis) settleHeirs(ctx context.Context, heirs []*ownCall) {
	for _, c := range heirs {
		outcome := dedup.Unknown
		if c.gaveUp {
			outcome = dedup.NotSent
		}
		v, err := r.settled(ctx, c, outcome)
		if err != nil {
			if r.opt.Redis.apart() {
				continue
			}
			return // the next beat comes back to it
		}
		r.inherited(ctx, c, &v)
	}
}

func (r *Redis) inherited(ctx context.Context, c *ownCall, v *verdict) {
	var rec *record
	switch {
	case v.word == "other", v.word == "absent" && (c.gaveUp || c.harmless()):
		r.own.lose(c)
		return
	case v.word == "absent": // Redis has lost it, or it was never won: nothing can tell
		lost := *c.record
		lost.state.Fence = uint64(v.now.UnixMicro())
		lost.state = lost.state.Granted(lost.state.Fence)
		lost.state, _ = dedup.Recover(lost.state, v.now)
		rec = &lost
	default:
		var err error
		if rec, err = v.record(0); err != nil {
			rec = c.record
		}
	}
	r.own.replace(c, rec)
	if v.word == "absent" {
		if _, err := r.assert(ctx, c); err != nil {
			return
		}
	}
	end := c.fact(kindOwnEnd, nil)
	entries := []journal.Entry{end, {Kind: audit.KindRecord, Fact: audit.Recover(c.intent, rec.state.Fence), Must: true}}
	if c.gaveUp || c.intent == nil {
		entries = entries[:1]
	}
	if _, err := r.local.j.Append(entries...); err != nil {
		r.local.log.Error("the outcome of a call that was running cannot be recorded", "error", err.Error())
		return
	}
	r.own.mu.Lock()
	delete(r.own.heirs, c.nonce)
	r.own.mu.Unlock()
}
