package govern

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"time"
)

// passOn hands the answer to the wire as it comes. From here on the stream owns outcome, record and metrics.
func (p *passage) passOn(reply *Reply, a *Answer, v verdict) *Reply {
	s := &stream{p: p, answer: a, verdict: v, digest: sha256.New()}
	reply.Stream = s
	known := p.rec.Outcome
	p.rec.Outcome = "" // the head goes out before anybody knows
	p.reply(reply)
	p.rec.Outcome = known
	p.handed = true
	// Should the wire lose the stream without a word, the call still ends.
	runtime.SetFinalizer(s, func(s *stream) { go s.WriteTo(context.Background(), nobody{}) })
	return reply
}

// stream is an answer on its way through. It ends its call exactly once, whatever happens to either side.
type stream struct {
	p       *passage
	answer  *Answer
	verdict verdict
	digest  hash.Hash
	kept    []byte // what has come so far, while it may still be kept
	size    int64
	held    []byte // the last byte that came of an answer whose length would otherwise end it
	start   time.Time
	ended   bool
}

func (s *stream) Length() int64 { return s.answer.Length }

var errCut = errors.New("the tool's answer was cut")

// WriteTo implements Stream.
func (s *stream) WriteTo(_ context.Context, w Flusher) (err error) {
	if !s.start.IsZero() {
		return errCut
	}
	s.start = time.Now()
	runtime.SetFinalizer(s, nil)
	defer func() { err = s.close(err, recover()) }()
	if err := s.copy(w); err != nil {
		return err
	}
	s.end(nil)
	if len(s.held) > 0 { // that this fails is the wire's to see: the answer was whole
		_, _ = w.Write(s.held)
		_ = w.Flush()
	}
	return nil
}

// copy passes the answer on to its end, also when nobody reads it any more: its outcome counts.
func (s *stream) copy(w Flusher) error {
	buf := make([]byte, 32<<10)
	for gone := false; ; {
		n, err := s.answer.Body.Read(buf)
		s.take(buf[:n])
		if n > 0 && !gone {
			gone = s.put(w, buf[:n]) != nil
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errCut, err)
		case gone && s.p.tool == nil:
			return errors.New("its agent hung up") // and nobody wants a passed call's answer any more
		}
	}
}

// put writes a piece, holding the last byte back where the length would otherwise end the answer.
func (s *stream) put(w Flusher, piece []byte) error {
	if s.answer.Length >= 0 {
		if len(s.held) > 0 {
			if _, err := w.Write(s.held); err != nil {
				return err
			}
		}
		last := len(piece) - 1
		s.held = append(s.held[:0], piece[last])
		piece = piece[:last]
	}
	if len(piece) > 0 {
		if _, err := w.Write(piece); err != nil {
			return err
		}
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

// close is the deferred first line of the stream's life.
func (s *stream) close(err error, panicked any) error {
	if panicked != nil {
		s.p.panicked("a stream", panicked)
		err = errCut
	}
	s.answer.Body.Close()
	s.end(err)
	s.p.leave()
	s.p.settle()
	return err
}

// end finishes the call once: with its answer when err is nil, as cut otherwise.
func (s *stream) end(err error) {
	if s.ended {
		return
	}
	s.ended = true
	p := s.p
	p.upstream += time.Since(s.start)
	if err != nil {
		v := p.loss(FirstByteRead)
		p.rec.Outcome, p.rec.Detail = v.outcome.String(), err.Error()
		p.finish(v, nil, "upstream_outcome_unknown")
		return
	}
	p.finish(s.verdict, p.kept(s.answer, &s.verdict, s.kept, s.size, [sha256.Size]byte(s.digest.Sum(nil))), "")
}

// nobody reads the stream that the wire has lost.
type nobody struct{}

func (nobody) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (nobody) Flush() error              { return io.ErrClosedPipe }
