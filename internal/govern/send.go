package govern

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// result is what one attempt came to: an answer read whole, an answer still to be passed on, or an error.
type result struct {
	answer *Answer // nil with err
	body   []byte  // whole, unless the answer is to be passed on
	pass   bool    // passed on as it comes
	phase  Phase
	err    error
}

// send tries the tool, as often as its effect permits, and answers.
func (p *passage) send(ctx context.Context) *Reply {
	for n := 0; ; n++ {
		if p.g.Disabled(p.r.Agent) {
			return p.stop()
		}
		a, err := p.attempt(n)
		if err != nil {
			return p.unsendable(err)
		}
		res := p.try(ctx, a)
		taken := p.begun.Taken || p.sent
		v := p.judge(res, taken)
		p.sent = p.sent || res.phase >= FirstByte
		if v.again && n < p.tool.MaxRetries && p.pause(ctx, n) && p.renew(ctx) {
			res.drop()
			continue
		}
		p.rec.Attempt = max(p.begun.Attempt, 1) + n
		if v.outcome == dedup.NotSent && p.sent {
			v = judgeLoss(p.tool, FirstByte)
		}
		return p.answer(ctx, res, v)
	}
}

// judge says what the attempt means for the call.
func (p *passage) judge(res result, taken bool) verdict {
	if res.err == nil && (res.pass || res.answer != nil) {
		v := judgeAnswer(p.tool, res.answer.Status, taken)
		v.again = v.again && !res.pass
		return v
	}
	if taken {
		v := judgeLoss(p.tool, FirstByte)
		v.again = v.again || res.phase < FirstByte
		return v
	}
	return judgeLoss(p.tool, res.phase)
}

// stop ends a call that the kill switch met between claim and send.
func (p *passage) stop() *Reply {
	if p.sent || p.begun.Taken {
		p.finish(judgeLoss(p.tool, FirstByte), nil, "")
		return p.unknown()
	}
	return p.giveBack("agent_disabled", "The kill switch was thrown before anything was sent.")
}

// unsendable ends a call that cannot be put on the wire.
func (p *passage) unsendable(err error) *Reply {
	if _, ok := errors.AsType[*sendability](err); ok {
		return p.giveBack("arguments_unparseable", err.Error())
	}
	p.g.Log(slog.LevelError, "a call could not be prepared", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
	return p.giveBack("internal", "")
}

// giveBack releases the claim durably, then refuses: nothing was sent.
func (p *passage) giveBack(code, detail string) *Reply {
	reply := p.refuse(code, detail)
	p.finish(verdict{outcome: dedup.NotSent}, nil, code)
	return reply
}

// try makes one attempt and reads its answer whole where that is how it will be given.
func (p *passage) try(ctx context.Context, a *Attempt) (res result) {
	start := time.Now()
	defer func() { p.upstream += time.Since(start) }()
	res.answer, res.phase, res.err = p.g.Sender.Send(ctx, a)
	if res.err != nil {
		return res
	}
	if res.answer.Events || res.answer.Length < 0 || res.answer.Length > int64(p.g.Limits.AnswerBytes) {
		res.pass = true
		return res
	}
	res.body = make([]byte, res.answer.Length)
	res.answer.Deadline(start.Add(a.Timeout))
	if _, err := io.ReadFull(res.answer.Body, res.body); err != nil {
		res.answer.Body.Close()
		return result{phase: FirstByteRead, err: err}
	}
	res.answer.Body.Close()
	res.phase = Complete
	return res
}

func (r *result) drop() {
	if r.answer != nil {
		r.answer.Body.Close()
	}
}

// pause waits before another attempt: full jitter over 100 ms, doubled each time, 2 s at most.
func (p *passage) pause(ctx context.Context, n int) bool {
	d := rand.N(min(100*time.Millisecond<<n, 2*time.Second)) + 10*time.Millisecond
	t := time.NewTimer(d)
	defer t.Stop()
	defer func() { p.waited += d }()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// renew takes a higher fence for another attempt of a call that may have run. The claim stays this request's.
func (p *passage) renew(ctx context.Context) bool {
	if !p.sent || !p.open || p.tool.Effect != tool.Idempotent || !p.keys.Applies {
		return true
	}
	c := p.ask()
	c.Renews = p.begun.Fence
	b, err := p.g.Store.Begin(ctx, c)
	if err != nil || b.Status != dedup.Mine {
		return false
	}
	p.begun.Fence, p.rec.Fence, p.nonce = b.Fence, b.Fence, c.Nonce
	return true
}

// answer gives the last attempt's result to the agent, after its outcome is durable.
func (p *passage) answer(ctx context.Context, res result, v verdict) *Reply {
	p.rec.Decision, p.rec.PolicyReason, p.rec.Outcome = string(Executed), "ok", v.outcome.String()
	switch {
	case res.err != nil:
		return p.lost(res, v)
	case res.pass:
		return p.passOn(res, v)
	}
	p.rec.UpstreamStatus = res.answer.Status
	kept := p.keep(res.answer, res.body, &v)
	p.finish(v, kept, "")
	return &Reply{
		Status: res.answer.Status, Header: append(res.answer.Header, p.headers()...), Body: res.body,
		Decision: Executed, Reason: "ok", Outcome: p.rec.Outcome, Key: short(p.rec.Key), Delivered: p.delivered(),
	}
}

// lost answers an attempt that brought no answer.
func (p *passage) lost(res result, v verdict) *Reply {
	code := lossCode(res.err)
	if p.begun.Taken && res.phase < FirstByte {
		p.finish(v, nil, "")
		return p.unknown()
	}
	if res.phase >= FirstByte || p.sent {
		code = "upstream_outcome_unknown"
	}
	if code == "destination_denied" {
		return p.giveBack(code, p.lossDetail(res.err))
	}
	reply := p.refuseAs(Executed, code, p.lossDetail(res.err))
	p.finish(v, nil, code)
	return reply
}

func lossCode(err error) string {
	for _, kind := range []error{ErrUntrusted, ErrDestination, ErrUnreachable} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "upstream_unreachable"
}

func (p *passage) lossDetail(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "No whole answer came within " + p.tool.Timeout.String() + "."
	}
	return err.Error()
}

// keep makes the answer what duplicates will get. An answer that sets a cookie of an unregistered call is for those
// who wait already, and for nobody later.
func (p *passage) keep(a *Answer, body []byte, v *verdict) *dedup.Answer {
	if !p.keys.Applies {
		return nil
	}
	kept := &dedup.Answer{Status: a.Status, Body: body, Size: int64(len(body)), SHA256: sha256.Sum256(body), Kept: true}
	for _, h := range a.Header {
		if keepable(h.Name, p.tool.Dedup.KeepHeaders) {
			kept.Header = append(kept.Header, h)
		}
		if p.tool.Unregistered && strings.EqualFold(h.Name, "Set-Cookie") && v.outcome != dedup.Unknown {
			v.keep = 0
		}
	}
	return kept
}

// finish ends the claim: outcome, settlement, answer and record in one step. It is called once for each claim.
func (p *passage) finish(v verdict, a *dedup.Answer, refusal string) {
	p.stamp()
	if v.outcome != dedup.Done && v.outcome != dedup.Unknown {
		p.rec.SpendUSD = "0"
	}
	if !p.open {
		return
	}
	p.open, p.settled = false, true
	err := p.g.Store.Finish(context.Background(), &dedup.End{
		Keys: p.ends(), Fence: p.begun.Fence, Nonce: p.nonce, Outcome: v.outcome, Keep: v.keep,
		Answer: a, Refusal: refusal, Record: p.rec.Append(nil), Light: p.tool.Effect == tool.Read,
	})
	p.leave()
	p.count()
	switch {
	case errors.Is(err, dedup.ErrOvertaken):
		p.g.Meter.DoubleExecution()
		p.g.Log(slog.LevelError, "possible double execution: another holder ran this call while this one was paused", "tool", p.name, "key", p.rec.Key, "fence", p.begun.Fence, "request_id", p.r.ID)
	case err != nil:
		p.g.Meter.StoreError("finish")
		p.g.Log(slog.LevelError, "an outcome is not durable yet; it will be the first thing written", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
	}
}

func (p *passage) ends() []dedup.Identity {
	if !p.keys.Applies {
		return nil
	}
	return p.keys.Identities
}
