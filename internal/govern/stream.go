package govern

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// passOn hands the answer to the wire as it comes. From here on the stream owns outcome, record and metrics.
func (p *passage) passOn(res result, v verdict) *Reply {
	p.handed = true
	p.rec.UpstreamStatus = res.answer.Status
	outcome := p.rec.Outcome
	p.rec.Outcome = "" // the head goes out before anybody knows
	headers := p.headers()
	p.rec.Outcome = outcome
	return &Reply{
		Status: res.answer.Status, Header: append(res.answer.Header, headers...),
		Stream:   &stream{p: p, answer: res.answer, verdict: v, digest: sha256.New()},
		Decision: Executed, Reason: p.rec.PolicyReason, Key: short(p.rec.Key), Delivered: p.delivered(),
	}
}

// stream is an answer on its way through. It ends its call exactly once, whatever happens to either side.
type stream struct {
	p       *passage
	answer  *Answer
	verdict verdict
	digest  hash.Hash
	kept    []byte // what has come so far, while it may still be kept
	size    int64
	ended   bool
}

func (s *stream) Length() int64 { return s.answer.Length }

var errCut = errors.New("the tool's answer was cut")

// WriteTo implements Stream.
func (s *stream) WriteTo(_ context.Context, w Flusher) (err error) {
	start := time.Now()
	defer func() {
		if x := recover(); x != nil {
			s.p.g.Log(slog.LevelError, "a stream made the sidecar panic", "request_id", s.p.r.ID, "panic", fmt.Sprint(x), "stack", string(debug.Stack()))
			err = errCut
		}
		s.answer.Body.Close()
		s.p.upstream += time.Since(start)
		s.end(err)
	}()
	var held [1]byte
	holding, writing, whole := false, true, false
	buf := make([]byte, 32<<10)
	for !whole {
		n, readErr := s.answer.Body.Read(buf)
		piece := buf[:n]
		s.take(piece)
		if writing && n > 0 {
			writing = s.put(w, piece, &held, &holding) == nil
		}
		if !writing && s.p.tool == nil {
			return errCut // nobody wants a passed call's answer any more
		}
		if errors.Is(readErr, io.EOF) {
			whole = true
		} else if readErr != nil {
			return fmt.Errorf("%w: %w", errCut, readErr)
		}
	}
	s.end(nil)
	if holding && writing {
		if _, err := w.Write(held[:]); err != nil {
			return nil
		}
		_ = w.Flush()
	}
	return nil
}

// put writes a piece, holding the last byte back where the length would otherwise end the answer.
func (s *stream) put(w Flusher, piece []byte, held *[1]byte, holding *bool) error {
	if s.answer.Length < 0 {
		if _, err := w.Write(piece); err != nil {
			return err
		}
		return w.Flush()
	}
	if *holding {
		if _, err := w.Write(held[:]); err != nil {
			return err
		}
	}
	*holding, held[0] = true, piece[len(piece)-1]
	if _, err := w.Write(piece[:len(piece)-1]); err != nil {
		return err
	}
	return w.Flush()
}

// take remembers a piece while the whole may still be kept.
func (s *stream) take(piece []byte) {
	s.size += int64(len(piece))
	if s.p.tool == nil || !s.p.keys.Applies {
		return
	}
	s.digest.Write(piece)
	if s.size <= int64(s.p.g.Limits.AnswerBytes) {
		s.kept = append(s.kept, piece...)
	} else {
		s.kept = nil
	}
}

// end finishes the call once: whole when err is nil, cut otherwise.
func (s *stream) end(err error) {
	if s.ended {
		return
	}
	s.ended = true
	p := s.p
	v, refusal := s.verdict, ""
	if err != nil && p.tool != nil {
		v, refusal = judgeLoss(p.tool, FirstByteRead), "upstream_outcome_unknown"
	}
	var kept *dedup.Answer
	if p.tool != nil && err == nil {
		kept = p.keep(s.answer, s.kept, &v)
		if kept != nil {
			kept.Size, kept.Kept = s.size, s.size <= int64(p.g.Limits.AnswerBytes)
			s.digest.Sum(kept.SHA256[:0])
			if !kept.Kept {
				kept.Body = nil
			}
		}
	}
	p.rec.Outcome = v.outcome.String()
	if err != nil {
		p.rec.Detail = err.Error()
	}
	p.finish(v, kept, refusal)
	p.leave()
	p.settle()
}

// pass sends a call that is no tool's: kill switch, destination rules and audit only.
func (p *passage) pass(ctx context.Context) *Reply {
	if p.g.Draining.Load() {
		return p.refuse("draining", "")
	}
	p.rec.PolicyReason = "ok"
	a := &Attempt{Method: p.call.Method, Target: p.call.Target, Header: p.call.Header, Body: p.call.Body, HasBody: p.call.HasBody, Timeout: passTimeout}
	answer, phase, err := p.g.Sender.Send(ctx, a)
	if err != nil {
		if phase >= FirstByte {
			p.rec.Outcome = dedup.Unknown.String()
			return p.refuseAs(Executed, "upstream_outcome_unknown", err.Error())
		}
		code := lossCode(err)
		if code == "destination_denied" {
			return p.refuse(code, err.Error())
		}
		return p.refuseAs(Executed, code, err.Error())
	}
	p.rec.Decision, p.rec.Outcome = string(Executed), dedup.Done.String()
	if answer.Status >= 400 {
		p.rec.Outcome = dedup.Failed.String()
	}
	p.rec.Attempt = 1
	return p.passOn(result{answer: answer}, verdict{outcome: outcomeOf(p.rec.Outcome)})
}

func outcomeOf(word string) dedup.Outcome {
	if word == dedup.Done.String() {
		return dedup.Done
	}
	return dedup.Failed
}

// passTimeout bounds the silence of a host that is no tool; a language model may think for long.
const passTimeout = 10 * time.Minute

// kept are the headers of an answer that a replay carries.
var kept = map[string]bool{
	"content-type": true, "content-encoding": true, "content-language": true, "location": true, "content-location": true,
	"etag": true, "last-modified": true, "link": true,
}

// keepable says whether a replay carries the header; more is keep_headers, in lower case.
func keepable(name string, more []string) bool {
	name = strings.ToLower(name)
	if kept[name] {
		return true
	}
	for _, m := range more {
		if m == name && !neverKept(name) {
			return true
		}
	}
	return false
}

// neverKept are headers that belong to one exchange; keep_headers cannot name them.
func neverKept(name string) bool {
	switch name {
	case "set-cookie", "date", "www-authenticate", "connection", "transfer-encoding", "content-length":
		return true
	}
	return strings.HasPrefix(name, "x-onceonly-") || strings.Contains(name, "ratelimit")
}
