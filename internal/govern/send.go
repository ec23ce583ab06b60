package govern

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
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
	if p.g.Disabled(p.r.Agent) {
		return p.stopped()
	}
	if !p.holds() {
		return p.giveBack("store_unavailable", "The lease of this call would have ended before the call.")
	}
	for n := 0; ; n++ {
		a, err := p.attempt(n)
		if err != nil {
			p.g.Log(slog.LevelError, "a call could not be prepared", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
			return p.fail()
		}
		p.rec.Attempt = max(p.begun.Attempt, 1) + n
		before := p.begun.Taken || p.sent
		res := p.try(ctx, a)
		v := p.judge(&res, before)
		if !v.again || n >= p.tool.MaxRetries || !p.pause(ctx, n) || p.g.Disabled(p.r.Agent) || !p.renew(ctx) || !p.holds() {
			return p.answer(&res, v)
		}
		res.drop()
	}
}

// holds says whether the claim lasts for one more attempt.
func (p *passage) holds() bool {
	return p.g.Holds == nil || !p.open || p.g.Holds(p.begun.Fence, p.tool.Timeout) == nil
}

// judge says what the attempt means for the call. before: an earlier attempt may have run.
func (p *passage) judge(res *result, before bool) verdict {
	if res.err == nil {
		return judgeAnswer(p.tool, res.answer.Status, before && p.tool.Effect != tool.Read)
	}
	phase := res.phase
	if before {
		phase = max(phase, FirstByte)
	}
	v := judgeLoss(p.tool, phase)
	v.again = v.again && !errors.Is(res.err, ErrUntrusted) && !errors.Is(res.err, ErrDestination)
	return v
}

// stopped ends a call that the kill switch met between claim and send.
func (p *passage) stopped() *Reply {
	return p.giveBack("agent_disabled", "The kill switch was thrown before anything was sent.")
}

// giveBack releases the claim, if there is one, durably, then refuses: nothing was sent.
func (p *passage) giveBack(code, detail string) *Reply {
	reply := p.refuse(code, detail)
	p.finish(verdict{outcome: dedup.NotSent}, nil, code)
	return reply
}

// try makes one attempt and reads its answer whole where that is how it will be given.
func (p *passage) try(ctx context.Context, a *Attempt) (res result) {
	start := time.Now()
	defer func() { p.upstream += time.Since(start) }()
	before := p.sent
	p.sent = true // until Send says otherwise: should it panic, nobody knows
	res.answer, res.phase, res.err = p.g.Sender.Send(ctx, a)
	p.sent = before || res.err == nil || res.phase >= FirstByte
	if res.err != nil {
		return res
	}
	p.withhold(res.answer.Header)
	if length := res.answer.Length; a.Tool == nil || res.answer.Events || length < 0 || length > int64(p.g.Limits.AnswerBytes) {
		res.pass = true
		return res
	}
	defer res.answer.Body.Close()
	res.body = make([]byte, res.answer.Length)
	res.answer.Deadline(start.Add(a.Timeout))
	if _, err := io.ReadFull(res.answer.Body, res.body); err != nil {
		return result{phase: FirstByteRead, err: err}
	}
	return res
}

// drop gives up an answer that nobody will see.
func (r *result) drop() {
	if r.pass {
		r.answer.Body.Close()
	}
}

// pause waits before another attempt: full jitter over 100 ms, doubled each time, 2 s at most.
func (p *passage) pause(ctx context.Context, n int) bool {
	start := time.Now()
	defer func() { p.waited += time.Since(start) }()
	t := time.NewTimer(rand.N(min(100*time.Millisecond<<n, 2*time.Second)) + 10*time.Millisecond)
	defer t.Stop()
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
