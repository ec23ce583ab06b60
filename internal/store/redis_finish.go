package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Finish ends a claim: see dedup.Store. The journal takes the outcome while Redis is asked. Where Redis is away the
// outcome is kept here and asserted until it stands there: dedup.ErrDeferred.
func (r *Redis) Finish(ctx context.Context, e *dedup.End) error {
	if e.Fence == 0 {
		e = r.waivedEnd(e)
	}
	c := r.own.find(e.Agent, e.Fence, e.Nonce)
	if c == nil {
		return r.finishOther(ctx, e)
	}
	commit, repeated, err := r.own.ends(c, e, r.nowIn(r.shardOf(e.Agent)), journal.Entry{Kind: audit.KindRecord, Fact: e.Record, Must: true})
	if repeated {
		return err
	}
	if c.lost && !c.record.state.Held { // a copy of the claim would find the key free
		r.background(func() { r.releaseLate(c) })
	}
	written := err
	err = r.settleOwn(ctx, c, e)
	if r.own.finished(c) {
		err = dedup.ErrOvertaken
	}
	if written == nil && !e.Light {
		if written = commit.Wait(ctx); written != nil {
			written = fmt.Errorf("%w: %w", dedup.ErrDeferred, written)
		}
	}
	return errors.Join(err, written)
}

// settleOwn brings an own outcome to Redis and to those who wait for it here.
func (r *Redis) settleOwn(ctx context.Context, c *ownCall, e *dedup.End) error {
	if r.own.isWaived(c) { // Redis has not heard of it, and may still hold a claim of it that was given up
		r.own.delay(c)
		r.own.tellWaiters(c, c.endingOf(e), false)
		r.reassert()
		return fmt.Errorf("%w: the claim itself is not in Redis yet", dedup.ErrDeferred)
	}
	v, err := r.finish(ctx, e)
	word := v.word
	var rec *record
	if err == nil && (word == "ended" || word == "again") {
		rec, err = v.record(0)
	}
	if err == nil && word == "absent" { // Redis has lost the claim: ours is the only word
		word, err = r.assert(ctx, c)
	}
	ending := c.endingOf(e)
	switch {
	case err != nil:
		r.own.delay(c)
		r.own.tellWaiters(c, ending, false)
		return fmt.Errorf("%w: %w", dedup.ErrDeferred, err)
	case word == "overtaken", word == "moved":
		r.own.mu.Lock()
		c.overtaken = true
		r.own.mu.Unlock()
		r.own.tellWaiters(c, dedup.Ending{Outcome: dedup.Unknown, At: ending.At}, true)
		return dedup.ErrOvertaken
	case rec != nil:
		r.own.replace(c, rec)
		if e.Answer != nil && word == "ended" {
			r.answers.add(rec, r.keepable(e.Answer))
		}
	}
	r.own.tellWaiters(c, ending, false)
	return nil
}

// endingOf is what those who wait for the call here learn.
func (c *ownCall) endingOf(e *dedup.End) dedup.Ending {
	s := &c.record.state
	end := dedup.Ending{Outcome: s.Outcome, At: s.Ended, Answer: e.Answer, Refusal: e.Refusal}
	if end.Outcome == dedup.Unknown {
		end.Answer = nil // it settles nothing
	}
	return end
}

// finishOther ends a claim that this process does not know, or no longer.
func (r *Redis) finishOther(ctx context.Context, e *dedup.End) error {
	v, err := r.finish(ctx, e)
	if err != nil {
		return fmt.Errorf("record the outcome of fence %d: %w", e.Fence, err)
	}
	if v.word == "again" {
		return nil
	}
	if e.Record != nil {
		err = r.local.Append(e.Record, !e.Light)
	}
	if v.word != "ended" {
		err = errors.Join(dedup.ErrOvertaken, err)
	}
	return err
}

// finish runs the script, and once more where its reply was lost: a repeated end changes nothing.
func (r *Redis) finish(ctx context.Context, e *dedup.End) (v verdict, err error) {
	echo, start := strconv.FormatUint(e.Nonce, 10), time.Now()
	a := r.keepable(e.Answer)
	args := []any{strconv.FormatUint(e.Fence, 10), echo, int(e.Outcome), e.Keep.Microseconds(), answerText(a), url.QueryEscape(e.Refusal), r.answerTTL().Milliseconds()}
	args = withContent(args, a)
	for range 3 {
		if v, err = r.ask(ctx, r.shardOf(e.Agent), finishScript, echo, args...); !errors.Is(err, errLost) || time.Since(start) > redisTimeout {
			break
		}
	}
	return v, err
}

// withContent appends the body of an answer, if it is kept.
func withContent(args []any, a *dedup.Answer) []any {
	if a != nil && a.Kept {
		return append(args, a.Body)
	}
	return args
}

// sharedBody is the largest body that is kept in Redis.
const sharedBody = 64 << 10

// keepable is the answer without a body that Redis must not be filled with.
func (r *Redis) keepable(a *dedup.Answer) *dedup.Answer {
	if a == nil || !a.Kept || len(a.Body) <= sharedBody && r.client.judgement().Memory < keepBodiesBelow {
		return a
	}
	without := *a
	without.Kept, without.Body = false, nil
	return &without
}

// answerTTL is how long bodies are kept for replays.
func (r *Redis) answerTTL() time.Duration {
	if r.opt.Redis.AnswerTTL > 0 {
		return r.opt.Redis.AnswerTTL
	}
	return time.Hour
}
