package govern

import (
	"context"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// passTimeout bounds the silence of a host that is no tool; a language model may think for long.
const passTimeout = 10 * time.Minute

// pass sends a call that is no tool's: kill switch, destination rules and audit only.
func (p *passage) pass(ctx context.Context) *Reply {
	if p.g.Draining.Load() {
		return p.refuse("draining", "")
	}
	p.rec.Attempt = 1
	res := p.try(ctx, &Attempt{
		Method: p.call.Method, Target: p.call.Target, Header: p.call.Header, Body: p.call.Body, HasBody: p.call.HasBody, Timeout: passTimeout,
	})
	switch {
	case res.err != nil:
		return p.answer(&res, p.loss(res.phase))
	case res.answer.Status >= 400:
		return p.answer(&res, verdict{outcome: dedup.Failed})
	}
	return p.answer(&res, verdict{outcome: dedup.Done})
}

// loss says what it means that no usable answer came. Of a call that is no tool's only the method tells what it may
// have done.
func (p *passage) loss(phase Phase) verdict {
	switch {
	case p.tool != nil:
		return judgeLoss(p.tool, phase)
	case phase < FirstByte:
		return verdict{outcome: dedup.NotSent}
	case writes(p.call.Method):
		return verdict{outcome: dedup.Unknown}
	}
	return verdict{outcome: dedup.Failed}
}

func (p *passage) timeout() time.Duration {
	if p.tool == nil {
		return passTimeout
	}
	return p.tool.Timeout
}
