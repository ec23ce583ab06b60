package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

const (
	listPage   = 200    // calls that one script lists
	listMost   = 20_000 // calls that are listed at all
	sweepEvery = 3 * time.Second
)

// Unknowns are the calls of all sidecars whose outcome is unknown, oldest first.
func (r *Redis) Unknowns() []UnknownCall {
	calls, _ := r.ListUnknowns()
	return calls
}

// ListUnknowns is Unknowns for who must know whether the list is whole: it fails where Redis did not tell all of it.
func (r *Redis) ListUnknowns() ([]UnknownCall, error) { return r.list("unknown") }

// Open are the calls of all sidecars that are running or unknown, oldest first.
func (r *Redis) Open() []UnknownCall {
	calls, _ := r.list("open")
	return calls
}

func (r *Redis) list(set string) (calls []UnknownCall, err error) {
	for from := 0; from < listMost; from += listPage {
		v, err := r.askAgain(listScript, set, set, from, listPage)
		if err != nil {
			r.local.log.Warn("the open calls in Redis cannot be listed whole", "error", err.Error())
			return calls, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
		}
		for i := range v.rest[1:] {
			rec, err := v.record(1 + i)
			if err == nil && (set == "open" || rec.state.Outcome == dedup.Unknown) {
				calls = append(calls, rec.listed())
			}
		}
		if integer(v.at(0)) < listPage {
			break
		}
	}
	return calls, nil
}

// askAgain runs a script that may be run any number of times.
func (r *Redis) askAgain(s *script, echo string, args ...any) (v verdict, err error) {
	for range 3 {
		if v, err = r.ask(r.ctx, s, echo, args...); !errors.Is(err, errLost) {
			break
		}
	}
	return v, err
}

func (rec *record) listed() UnknownCall {
	c := call{state: rec.state, keys: rec.keys, requestID: rec.requestID}
	if len(c.keys) == 0 { // a damaged record
		c.keys = []dedup.Identity{{Key: rec.state.Origin}}
	}
	return c.listed()
}

// UnknownCount is how many outcomes were unknown a second ago.
func (r *Redis) UnknownCount() int { return int(r.unknown.Load()) }

// sweeps makes calls of lapsed holders unknown also when nobody asks for them.
func (r *Redis) sweeps() {
	for from := 0; ; {
		pause(r.ctx, sweepEvery)
		if r.ctx.Err() != nil {
			return
		}
		if r.asserted.Load() != r.epochs.Load() { // the others' signs of life may be lost with the rest
			continue
		}
		v, err := r.ask(r.ctx, listScript, "open", "open", from, listPage)
		switch {
		case err != nil:
		case integer(v.at(0)) < listPage:
			from = 0
		default:
			from += listPage
		}
	}
}

// Resolve applies an operator's word on an unknown call: see Embedded.Resolve.
func (r *Redis) Resolve(ctx context.Context, w *dedup.Resolution, shown string) error {
	v, err := r.resolve(ctx, w)
	if err != nil {
		return err
	}
	switch v.word {
	case "known":
		return dedup.ErrNotUnknown
	case "moved":
		return dedup.ErrMoved
	case "running":
		return dedup.ErrStillRunning
	case "young":
		return dedup.ErrTooYoung
	}
	r.answers.forget(w.Key)
	was, err := v.record(0)
	if err != nil {
		was = &record{}
	}
	if was.state.Outcome == dedup.Running {
		r.local.log.Warn("a call that still runs was resolved as not executed; if it ran, it may run twice", "tool", was.state.Reserved.Tool, "fence", w.Fence)
	}
	change := audit.Change{Time: v.now, Who: w.Who, What: "unknown_resolved", Entity: shown, Why: w.Why, Detail: detailOf(&call{state: was.state, requestID: was.requestID}, w)}
	return r.local.Change(&change)
}

// resolve runs the script. It is asked again where its reply was lost, and knows its own word.
func (r *Redis) resolve(ctx context.Context, w *dedup.Resolution) (v verdict, err error) {
	if w.Outcome != dedup.Done && w.Outcome != dedup.NotSent {
		return v, errors.New("a call is resolved as done or as not executed")
	}
	keep := w.Keep
	if keep <= 0 {
		keep = 24 * time.Hour
	}
	a := r.keepable(w.Answer)
	args := []any{keyText(w.Key), strconv.FormatUint(w.Fence, 10), int(w.Outcome), keep.Microseconds(), truth(w.Force), answerText(a), r.answerTTL().Milliseconds(), nonceText()}
	args = withContent(args, a)
	for range 3 {
		if v, err = r.ask(ctx, resolveScript, keyText(w.Key), args...); !errors.Is(err, errLost) {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return v, nil
}
