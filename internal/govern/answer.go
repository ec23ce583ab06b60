package govern

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// answer gives the last attempt's result to the agent, after its outcome is durable.
func (p *passage) answer(res *result, v verdict) *Reply {
	p.rec.Decision, p.rec.PolicyReason, p.rec.Outcome = string(Executed), "ok", v.outcome.String()
	if res.err != nil {
		return p.lost(res, v)
	}
	p.rec.UpstreamStatus = res.answer.Status
	reply := &Reply{Status: res.answer.Status, Header: res.answer.Header, Delivered: p.delivered()}
	if res.pass {
		return p.passOn(reply, res.answer, v)
	}
	reply.Body = res.body
	p.finish(v, p.kept(res.answer, &v, res.body, int64(len(res.body)), sha256.Sum256(res.body)), "")
	return p.reply(reply)
}

// lost answers an attempt that brought no answer.
func (p *passage) lost(res *result, v verdict) *Reply {
	code, detail := lossCode(res.err), res.err.Error()
	switch {
	case errors.Is(res.err, context.DeadlineExceeded):
		detail = "No whole answer came within " + p.timeout().String() + "."
	case errors.Is(res.err, context.Canceled): // the agent's hanging up does not end it
		detail = "The sidecar was stopped before a whole answer came."
	}
	switch {
	case p.sent:
		code = "upstream_outcome_unknown"
	case p.g.Disabled(p.r.Agent):
		return p.stopped()
	case p.begun.Taken:
		reply := p.unknown()
		p.finish(v, nil, "")
		return reply
	case code == "destination_denied":
		return p.giveBack(code, detail)
	}
	reply := p.refuseAs(Executed, code, detail)
	p.finish(v, nil, code)
	return reply
}

func lossCode(err error) string {
	for _, kind := range []error{ErrUntrusted, ErrDestination} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return ErrUnreachable.Error()
}

// kept is the answer as duplicates will get it; body is nil when it is too large for that. The answer of an
// unregistered call that sets a cookie is for those who wait already, and for nobody later.
func (p *passage) kept(a *Answer, v *verdict, body []byte, size int64, sum [sha256.Size]byte) *dedup.Answer {
	if p.tool == nil || !p.keys.Applies {
		return nil
	}
	kept := &dedup.Answer{Status: a.Status, Body: body, Size: size, SHA256: sum, Kept: int64(len(body)) == size}
	for _, h := range a.Header {
		name := strings.ToLower(h.Name)
		if p.keeps(name) {
			kept.Header = append(kept.Header, h)
		}
		if name == "set-cookie" && p.tool.Unregistered {
			v.keep = 0
		}
	}
	return kept
}

// keeps says whether a replay carries a header, named in lower case.
func (p *passage) keeps(name string) bool {
	return alwaysKept[name] || p.tool != nil && slices.Contains(p.tool.Dedup.KeepHeaders, name)
}

// alwaysKept are the headers of an answer that a replay carries; a tool's keep_headers names more.
var alwaysKept = map[string]bool{
	"content-type": true, "content-encoding": true, "content-language": true, "location": true, "content-location": true,
	"etag": true, "last-modified": true, "link": true,
}

// finish ends the claim, if there is one: outcome, settlement, answer and record in one step. It is called once.
func (p *passage) finish(v verdict, a *dedup.Answer, refusal string) {
	p.stamp()
	if v.outcome != dedup.Done && v.outcome != dedup.Unknown {
		p.rec.SpendUSD = "0"
	}
	if !p.open {
		return
	}
	p.open = false
	p.watch()
	record := records.Get().(*[]byte)
	*record = p.rec.Append((*record)[:0])
	err := p.g.Store.Finish(context.Background(), &dedup.End{
		Keys: p.keys.Identities, Agent: p.r.Agent, Fence: p.begun.Fence, Nonce: p.nonce, Outcome: v.outcome, Keep: v.keep,
		Answer: a, Refusal: refusal, Record: *record, Light: p.tool.Effect == tool.Read,
	})
	records.Put(record)
	p.leave()
	p.unfinished(err)
	if !p.settled {
		p.settled = true
		p.count()
	}
}

// records are buffers for encoded audit records: a store keeps nothing of one.
var records = sync.Pool{New: func() any { b := make([]byte, 0, recordBytes); return &b }}

// unfinished says what it means that the store did not simply take an end.
func (p *passage) unfinished(err error) {
	switch {
	case err == nil:
	case errors.Is(err, dedup.ErrOvertaken):
		p.g.Meter.DoubleExecution()
		p.g.Log(slog.LevelError, "possible double execution: another holder ran this call while this one was paused", "tool", p.name, "key", p.rec.Key, "fence", p.begun.Fence, "request_id", p.r.ID)
	case errors.Is(err, dedup.ErrDeferred):
		p.g.Meter.StoreError("finish")
		p.g.Log(slog.LevelError, "an outcome is not durable yet; it will be the first thing written", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
	default:
		p.g.Meter.StoreError("finish")
		p.g.Log(slog.LevelError, "the store refused an outcome; after a restart the call is unknown", "tool", p.name, "request_id", p.r.ID, "error", err.Error())
		p.settle()
	}
}
