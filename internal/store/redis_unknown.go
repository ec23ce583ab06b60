package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
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

func (r *Redis) list(set string) ([]UnknownCall, error) {
	shards, err := r.discover(r.ctx)
	if err != nil {
		err = fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
		r.local.log.Warn("the open calls in Redis cannot be listed whole", "error", err.Error())
	}
	if len(shards) == 1 && err == nil {
		return r.listIn(shards[0], set)
	}
	var mu sync.Mutex
	var all []UnknownCall
	err = errors.Join(err, each(shards, looksAtOnce, func(s *redisShard) error {
		calls, err := r.listIn(s, set)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, calls...)
		return err
	}))
	slices.SortFunc(all, func(a, b UnknownCall) int {
		return cmp.Or(a.Claimed.Compare(b.Claimed), cmp.Compare(a.Fence, b.Fence), cmp.Compare(a.Agent, b.Agent))
	})
	return all, err
}

func (r *Redis) listIn(s *redisShard, set string) (calls []UnknownCall, err error) {
	for from := 0; from < listMost; from += listPage {
		v, err := r.askAgain(s, listScript, set, set, from, listPage)
		if err != nil {
			r.local.log.Warn("the open calls in Redis cannot be listed whole", "error", err.Error())
			return calls, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
		}
		for i := range v.rest[1:] {
			rec, err := v.record(1 + i)
			if err == nil && (set == "open" || rec.state.Outcome == dedup.Unknown) {
				call := rec.listed()
				call.Agent = cmp.Or(call.Agent, s.agent) // a damaged record names nobody
				calls = append(calls, call)
			}
		}
		if integer(v.at(0)) < listPage {
			break
		}
	}
	return calls, nil
}

// askAgain runs a script that may be run any number of times.
func (r *Redis) askAgain(in *redisShard, s *script, echo string, args ...any) (v verdict, err error) {
	for range 3 {
		if v, err = r.ask(r.ctx, in, s, echo, args...); !errors.Is(err, errLost) {
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

// UnknownCount is how many outcomes were unknown when each shard was last looked at: those in use a second ago.
func (r *Redis) UnknownCount() (n int) {
	for _, s := range r.allShards() {
		n += int(s.unknown.Load())
	}
	return n
}

// sweepMost is how many shards one look goes through, or a tenth of all.
const sweepMost = 32

// sweeps makes calls of lapsed holders unknown also when nobody asks for them. Of many shards it goes through some at a time.
func (r *Redis) sweeps() {
	from, next, most := map[*redisShard]int{}, []*redisShard(nil), 0
	for {
		pause(r.ctx, sweepEvery)
		if r.ctx.Err() != nil {
			return
		}
		if len(next) == 0 {
			next, _ = r.discover(r.ctx) // those that are known already where it cannot be asked
			most = max(sweepMost, len(next)/10)
		}
		some := next[:min(len(next), most)]
		next = next[len(some):]
		for _, s := range some {
			from[s] = r.sweep(s, from[s])
		}
	}
}

// sweep looks at a page of a shard's open calls, and says where the next begins.
func (r *Redis) sweep(s *redisShard, from int) int {
	if s.asserted.Load() != s.epochs.Load() { // the others' signs of life may be lost with the rest
		return from
	}
	if s.apart {
		r.visit(s)
	}
	v, err := r.ask(r.ctx, s, listScript, "open", "open", from, listPage)
	switch {
	case err != nil:
		return from
	case integer(v.at(0)) < listPage:
		return 0
	}
	return from + listPage
}

// visit counts what is unknown in a shard that nobody uses here, and has the namespace know of it again where it does not.
func (r *Redis) visit(s *redisShard) {
	switch {
	case !r.appeared.Load() || s.joined.Load():
	case !s.listed.Load() && s.used.Load() != 0:
		_ = r.join(r.ctx, s)
	default:
		_, _ = r.beatWith(r.ctx, s, "", nil)
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
		if v, err = r.ask(ctx, r.shardOf(w.Agent), resolveScript, keyText(w.Key), args...); !errors.Is(err, errLost) {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return v, nil
}
