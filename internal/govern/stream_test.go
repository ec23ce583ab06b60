package govern_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// long announces its length, and is too long to be read before it is given.
func long(status int, body string, end error) act {
	return func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		if end == nil {
			end = io.EOF
		}
		return answerOf(&played{pieces: []string{body[:10], body[10:]}, end: end}, status, int64(len(body)), nil), govern.FirstByteRead, nil
	}
}

func TestStreams(t *testing.T) {
	x65, x64 := strings.Repeat("x", 65), strings.Repeat("x", 64)
	gone := func() *asking { return &asking{Request: named("t", "{}").Request, hangsUp: true} }
	here := func() *asking { return named("t", "{}") }
	broken := errors.New("played")
	for name, v := range map[string]struct {
		act     act
		ask     *asking
		body    string
		whole   bool
		outcome string
		then    string
		kept    string
	}{
		"whole":                       {streams(200, nil, "one ", "two"), here(), "one two", true, "done", "200 dedup tool_idempotency done", "one two"},
		"empty":                       {streams(200, nil), here(), "", true, "done", "200 dedup tool_idempotency done", ""},
		"as large as is kept":         {streams(200, nil, x64), here(), x64, true, "done", "200 dedup tool_idempotency done", x64},
		"too large":                   {streams(200, nil, x65), here(), x65, true, "done", "410 dedup result_not_kept done", ""},
		"too large, with its length":  {long(200, x65, nil), here(), x65, true, "done", "410 dedup result_not_kept done", ""},
		"cut":                         {streams(200, broken, "one "), here(), "one ", false, "unknown", "409 dedup outcome_unknown unknown", ""},
		"cut with its length":         {long(200, x65, io.ErrUnexpectedEOF), here(), x65[1:], false, "unknown", "409 dedup outcome_unknown unknown", ""},
		"the agent left":              {streams(200, nil, "one ", "two"), gone(), "", false, "done", "200 dedup tool_idempotency done", "one two"},
		"the agent left a large one":  {long(200, x65, nil), gone(), "", false, "done", "410 dedup result_not_kept done", ""},
		"the agent left, it was cut":  {streams(200, broken, "one "), gone(), "", false, "unknown", "409 dedup outcome_unknown unknown", ""},
		"a refusal":                   {streams(404, nil, "no"), here(), "no", true, "failed", "404 dedup tool_idempotency failed", "no"},
		"a refusal that is cut":       {streams(404, broken, "no"), here(), "no", false, "unknown", "409 dedup outcome_unknown unknown", ""},
		"an answer that says nothing": {streams(500, nil, "oops"), here(), "oops", true, "unknown", "409 dedup outcome_unknown unknown", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, oneTool(nil), func(w *world) {
				w.stage.then(first(func() { time.Sleep(time.Second) }, v.act))
				r := w.ask(v.ask)
				if r.Stream == nil || r.Decision != govern.Executed || r.Outcome != "" || r.header["X-OnceOnly-Outcome"] != "" {
					t.Fatalf("the head is %+v", r.Reply)
				}
				if r.body != v.body || r.whole != v.whole {
					t.Errorf("passed on %q, whole %t", r.body, r.whole)
				}
				if v.whole && r.Stream.Length() > 0 && !r.settled {
					t.Error("the last byte left before the outcome was durable")
				}
				rec := w.record(r)
				if rec.Outcome != v.outcome || rec.UpstreamStatus != r.Status || rec.Decision != "executed" {
					t.Errorf("recorded as %+v", rec)
				}
				if w.meter.upstream < time.Second || w.meter.overhead >= time.Second {
					t.Errorf("the tool's time is %v, ours %v", w.meter.upstream, w.meter.overhead)
				}
				again := w.ask(here())
				again.want(t, v.then)
				if again.Refusal == nil && again.body != v.kept {
					t.Errorf("replayed %q", again.body)
				}
				if n := w.stage.sends(); n != 1 || w.stage.leaked() != 0 {
					t.Errorf("sent %d times, %d answers left open", n, w.stage.leaked())
				}
			})
		})
	}
}

// TestTheTimeOfAStream is the tool's, and none of ours.
func TestTheTimeOfAStream(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		w.stage.then(func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
			return answerOf(&played{pieces: []string{"a", "b"}, end: io.EOF, slow: time.Second}, 200, -1, nil), govern.FirstByteRead, nil
		})
		r := w.ask(named("t", "{}"))
		if w.meter.upstream != 3*time.Second || w.meter.overhead != 0 {
			t.Errorf("the tool's time is %v, ours %v", w.meter.upstream, w.meter.overhead)
		}
		if rec := w.record(r); rec.DurationMS != 3000 {
			t.Errorf("it took %v ms", rec.DurationMS)
		}
	})
}

// TestRetriedStreams: an answer that says nothing is no reason to stop when it comes in chunks.
func TestRetriedStreams(t *testing.T) {
	in(t, retrying("read", 1), func(w *world) {
		w.stage.then(streams(503, nil, "later"))
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
		if n := w.stage.sends(); n != 2 || w.stage.leaked() != 0 {
			t.Errorf("sent %d times, %d answers left open", n, w.stage.leaked())
		}
	})
}

// TestTheWholeAnswerIsBounded: until it is here for one that is read, between bytes for one that is passed on.
func TestTheWholeAnswerIsBounded(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.Timeout = 7 * time.Second }), func(w *world) {
		start := time.Now()
		w.stage.then(first(func() { time.Sleep(3 * time.Second) }, answers(200, "a")))
		w.ask(named("t", "1")).want(t, "200 executed ok done")
		if until := w.stage.bodies[0].until; !until.Equal(start.Add(7 * time.Second)) {
			t.Errorf("the body may take until %v after the start", until.Sub(start))
		}
		w.stage.then(streams(200, nil, "a"))
		w.ask(named("t", "2"))
		if until := w.stage.bodies[1].until; !until.IsZero() || w.stage.last().Timeout != 7*time.Second {
			t.Errorf("a stream is bounded as a whole: %v", until)
		}
		w.stage.then(loses(govern.Flushed, context.DeadlineExceeded))
		if r := w.ask(named("t", "3")); !strings.Contains(r.body, "within 7s") {
			t.Errorf("the refusal does not say how long: %s", r.body)
		}
	})
}

// TestALostStreamEnds: the wire must write every stream; should it not, the call ends all the same.
func TestALostStreamEnds(t *testing.T) {
	w := newWorld(t, oneTool(func(c *tool.Config) { c.MaxInFlight = 1 }))
	w.stage.then(streams(200, nil, "one"))
	lost := named("t", "{}")
	lost.lost = true
	func() {
		r := *w.ask(lost)
		clear(w.replies)
		if r.Stream == nil {
			t.Fatal("no stream")
		}
	}()
	for w.gov.Running() > 0 {
		runtime.GC()
		runtime.Gosched()
	}
	w.ask(named("t", "{}")).want(t, "200 dedup tool_idempotency done")
	if rows := w.records(""); len(rows) < 1 || rows[0].Outcome != "done" {
		t.Errorf("recorded as %+v", rows)
	}
}
