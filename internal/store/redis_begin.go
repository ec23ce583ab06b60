package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// delayFor is how long after it was sent a claim may still win, by the server's clock.
const delayFor = 2 * time.Second

// Begin claims a call: see dedup.Store. A claim that the switch stops is dedup.ErrDisabled.
func (r *Redis) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	if b, ok := r.remembered(c); ok {
		return b, nil
	}
	b, err := r.beginShared(ctx, c)
	if err != nil && c.FailOpen && c.Effect != tool.Read && len(c.Keys) > 0 && errors.Is(err, dedup.ErrUnavailable) {
		return r.waive(ctx, c, err)
	}
	return b, err
}

// beginShared claims a call in Redis.
func (r *Redis) beginShared(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	in := r.shardOf(c.Agent)
	for lives := 0; ; {
		if err := r.enter(ctx, in); err != nil {
			return dedup.Begun{}, err
		}
		if err := r.hold(ctx, in, c); err != nil {
			return dedup.Begun{}, err
		}
		life, name := in.epochs.Load(), in.life.Load()
		b, err := r.begin(ctx, in, c)
		if lives++; errors.Is(err, errForgot) && lives < 4 {
			if err := r.notice(ctx, in, name); err != nil {
				return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
			}
			continue
		}
		if err != nil || b.Status != dedup.Mine || life == in.epochs.Load() || c.Effect == tool.Read {
			return b, err
		}
		// Won from a server that has just become the one, before the others could tell it what they hold.
		mine := r.own.find(c.Agent, b.Fence, c.Nonce)
		if err := r.Finish(ctx, &dedup.End{Keys: c.Keys, Agent: c.Agent, Fence: b.Fence, Nonce: c.Nonce, Outcome: dedup.NotSent, Refusal: "store_unavailable"}); err != nil {
			return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
		}
		if mine == nil || mine.lost { // what releases its copies would release another claim of its nonce, too
			return dedup.Begun{}, fmt.Errorf("%w: Redis has just come back, and a copy of the claim may be on its way", dedup.ErrUnavailable)
		}
	}
}

// enter joins a shard for a claim there.
func (r *Redis) enter(ctx context.Context, in *redisShard) error {
	if !in.apart {
		return nil
	}
	err := errors.Join(r.client.errOf(in.tag), r.present())
	if err == nil {
		err = r.join(ctx, in)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return nil
}

// notice finds out that a shard has forgotten what it held, unless that is known by now.
func (r *Redis) notice(ctx context.Context, in *redisShard, name *string) error {
	if !in.apart {
		return r.readAfter(ctx, name)
	}
	if in.life.Load() == name {
		in.joined.Store(false)
	}
	return r.join(ctx, in)
}

// errForgot: the server has forgotten what it held since it was last read.
var errForgot = errors.New("Redis has forgotten what it held")

// hold waits while others tell a new server what they hold.
func (r *Redis) hold(ctx context.Context, in *redisShard, c *dedup.Claim) error {
	wait := time.Duration(in.heldTill.Load()) - time.Since(processStart)
	if c.Effect == tool.Read || wait <= 0 && in.asserted.Load() == in.epochs.Load() {
		return nil
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return fmt.Errorf("%w: Redis has just come back, and what was claimed before is still being asserted: %w", dedup.ErrUnavailable, ctx.Err())
	case <-r.ctx.Done():
		return errClosed
	}
	if in.asserted.Load() != in.epochs.Load() {
		return fmt.Errorf("%w: Redis has come back, and not all that this sidecar holds could be asserted there yet", dedup.ErrUnavailable)
	}
	return nil
}

// begin writes the intent and asks Redis at the same time.
func (r *Redis) begin(ctx context.Context, in *redisShard, c *dedup.Claim) (dedup.Begun, error) {
	if err := errors.Join(r.client.errOf(in.tag), r.present(), in.readable(), r.pressed()); err != nil { // nothing is written for what is refused at once
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	mine, commit, err := r.own.intend(c, r.nowIn(in))
	if err != nil {
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	v, rec, lost, err := r.claim(ctx, in, c, mine.requestID())
	switch {
	case err == nil && v.word == "mine":
		mine.lost = lost
	case lost: // whatever was answered to a later asking: the first one may be on its way
		r.giveUp(mine)
	default:
		r.own.lose(mine)
	}
	switch {
	case err != nil:
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	case v.word != "mine":
		return r.standing(in, c, &v)
	}
	if err := r.stand(ctx, c, commit); err != nil {
		r.giveUp(mine)
		return dedup.Begun{}, err
	}
	r.own.granted(mine, rec, c.Renews)
	b := mineOf(&rec.state, integer(v.at(1)) == 1, v.now)
	b.Shadow = rec.shadow
	return b, nil
}

// stand waits until the intent is durable.
func (r *Redis) stand(ctx context.Context, c *dedup.Claim, commit *journal.Commit) error {
	if c.Light {
		return nil
	}
	if err := commit.Wait(ctx); err != nil {
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return nil
}

// claim runs the script, and again with the same nonce where its reply was lost or its clock was another. lost: it may
// have won without saying so, or may yet.
func (r *Redis) claim(ctx context.Context, in *redisShard, c *dedup.Claim, requestID string) (v verdict, rec *record, lost bool, err error) {
	echo, start := strconv.FormatUint(c.Nonce, 10), time.Now()
	for try := range 3 {
		v, err = r.askDurable(ctx, in, beginScript, echo, r.claimArgs(in, c, requestID)...)
		lost = lost || err != nil && !errors.Is(err, errNotExecuted)
		if err == nil && v.word == "late" {
			err = fmt.Errorf("%w: the claim came %v late", errNotExecuted, delayFor)
			continue
		}
		if errors.Is(err, errLost) && try < 2 && time.Since(start) < redisTimeout && ctx.Err() == nil {
			continue
		}
		break
	}
	if err == nil && v.word == "mine" {
		rec, err = v.record(0)
		if err == nil && (rec.state.Nonce != c.Nonce || rec.state.Fence == 0) {
			err = errReply
		}
		lost = lost || err != nil
	}
	return v, rec, lost, err
}

func (r *Redis) claimArgs(in *redisShard, c *dedup.Claim, requestID string) []any {
	args := make([]any, 0, 24+2*len(c.Keys)+len(c.Guards))
	args = append(args, in.clock.now()+delayFor.Microseconds(), strconv.FormatUint(c.Nonce, 10),
		url.QueryEscape(c.Tenant), url.QueryEscape(c.Agent), url.QueryEscape(c.Tool), int(c.Effect), c.Timeout.Microseconds(), c.Resend.Microseconds(),
		strconv.FormatUint(c.Renews, 10), c.UnknownFor.Microseconds(), int64(money(c.Cost)),
		limitText(c.Limits.ActionsPerHour), limitText(c.Limits.CallsPerDay), limitText(c.Limits.SpendPerDay), truth(c.Shadow),
		url.QueryEscape(requestID), r.opt.Config.MaxUnknown, c.Agent, *in.life.Load(), len(c.Keys))
	for _, id := range c.Keys {
		args = append(args, keyText(id.Key), keyText(id.Print))
	}
	for _, k := range c.Guards {
		args = append(args, keyText(k))
	}
	return args
}

// limitText is a limit as scripts read it: nothing when there is none.
func limitText[N ~int64](n *N) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(min(int64(*n), mostCount), 10)
}

// standing says what is in a claim's way.
func (r *Redis) standing(in *redisShard, c *dedup.Claim, v *verdict) (dedup.Begun, error) {
	switch v.word {
	case "over":
		return dedup.Begun{Status: dedup.Over, Over: dedup.Limit(v.text(0)), RetryAfter: time.Duration(integer(v.at(1))) * time.Microsecond, Now: v.now}, nil
	case "off":
		return dedup.Begun{}, dedup.ErrDisabled
	case "lost":
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, errForgot)
	case "damaged":
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, r.met(in, v.text(0)))
	case "full":
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, in.crowded())
	}
	status, known := map[string]dedup.Status{"inflight": dedup.InFlight, "blocked": dedup.Blocked, "replay": dedup.Replay, "reused": dedup.Reused}[v.word]
	if !known {
		return dedup.Begun{}, fmt.Errorf("%w: %w: %q", dedup.ErrUnavailable, errReply, v.word)
	}
	rec, err := v.record(2)
	if err != nil {
		return dedup.Begun{}, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	guard, at := integer(v.at(0)) == 1, integer(v.at(1))
	var k dedup.Key
	switch {
	case guard && at < int64(len(c.Guards)):
		k = c.Guards[at]
	case !guard && at < int64(len(c.Keys)):
		k = c.Keys[at].Key
	}
	b := begunOf(status, rec, k, v.now)
	b.Guard = guard
	if status == dedup.Replay {
		b.Answer = rec.withBody(v.at(3))
		r.answers.add(rec, b.Answer)
	}
	return b, nil
}

// begunOf is what stands under a key, as a claim that met it is told.
func begunOf(status dedup.Status, rec *record, k dedup.Key, now time.Time) dedup.Begun {
	s := &rec.state
	b := dedup.Begun{
		Status: status, Key: k, Fence: s.Fence, Generation: s.Generation, Attempt: s.Attempt, Outcome: s.Outcome, At: s.Ended, RequestID: rec.requestID, Now: now,
	}
	if s.Outcome == dedup.Running {
		b.At = s.Sent
	}
	return b
}

// giveUp releases a claim that may or may not have been won, at once and once more when a delayed one cannot win any
// longer. It goes on until Redis has said what became of it.
func (r *Redis) giveUp(mine *ownCall) {
	r.own.giveUp(mine)
	r.background(func() {
		_ = r.settle(r.ctx, mine, dedup.NotSent)
		r.releaseLate(mine)
	})
}

// releaseLate releases a claim of that nonce that arrived after its call was over, once none can arrive any more.
func (r *Redis) releaseLate(mine *ownCall) {
	pause(r.ctx, delayFor+2*redisTimeout)
	for wait := 50 * time.Millisecond; r.ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
		if r.settle(r.ctx, mine, dedup.NotSent) == nil {
			r.own.lose(mine)
			return
		}
		pause(r.ctx, wait)
	}
}

// settle ends a claim that is known by its nonce.
func (r *Redis) settle(ctx context.Context, c *ownCall, o dedup.Outcome) error {
	_, err := r.settled(ctx, c, o)
	return err
}

func (r *Redis) settled(ctx context.Context, c *ownCall, o dedup.Outcome) (verdict, error) {
	echo := strconv.FormatUint(c.nonce, 10)
	args := []any{echo, int(o)}
	r.own.mu.Lock() // a finish may take over what Redis says of the call meanwhile
	keys := c.record.keys
	r.own.mu.Unlock()
	for _, id := range keys {
		args = append(args, keyText(id.Key))
	}
	return r.ask(ctx, r.shardOf(c.agent()), settleScript, echo, args...)
}
