package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// pollEvery is how often a call that somebody waits for is looked at, with jitter, should the word of its end be lost.
const pollEvery = 300 * time.Millisecond

// watches are the calls of other sidecars that somebody waits for here.
type watches struct {
	mu sync.Mutex
	at map[grant]*watch // guarded by mu
}

// watch is one such call. One goroutine looks at it for all that wait.
type watch struct {
	waiters int           // guarded by watches.mu
	wake    chan struct{} // one token: it may have ended
	left    chan struct{} // closed when nobody waits any more
	done    chan struct{} // closed when ending is written
	ending  dedup.Ending
}

// Wait waits for a running call: see dedup.Store.
func (r *Redis) Wait(ctx context.Context, agent string, k dedup.Key, fence uint64) (dedup.Ending, error) {
	g := r.own.grant(agent, fence)
	c, err := r.own.join(g, r.opt.Waiters)
	if err != nil {
		return dedup.Ending{}, err
	}
	if c == nil {
		return r.waitElsewhere(ctx, g)
	}
	defer r.own.part(c)
	for {
		select {
		case <-c.done:
			switch {
			case c.goesOn != nil:
				c = c.goesOn
				continue
			case c.ask:
				return r.waitElsewhere(ctx, g)
			}
			return c.ending, nil
		case <-ctx.Done():
			return dedup.Ending{}, ctx.Err()
		}
	}
}

// waitElsewhere waits for a call that another sidecar runs.
func (r *Redis) waitElsewhere(ctx context.Context, g grant) (dedup.Ending, error) {
	w, err := r.watch(g)
	if err != nil {
		return dedup.Ending{}, err
	}
	defer r.unwatch(g, w)
	select {
	case <-w.done:
		return w.ending, nil
	case <-ctx.Done():
		return dedup.Ending{}, ctx.Err()
	}
}

func (r *Redis) watch(g grant) (*watch, error) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	w := r.watches.at[g]
	if w == nil {
		w = &watch{wake: make(chan struct{}, 1), left: make(chan struct{}), done: make(chan struct{})}
		r.watches.at[g] = w
		go r.look(g, w)
	}
	if w.waiters >= r.opt.Waiters {
		return nil, dedup.ErrTooManyWaiters
	}
	w.waiters++
	return w, nil
}

func (r *Redis) unwatch(g grant, w *watch) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w.waiters--; w.waiters == 0 && r.watches.at[g] == w {
		delete(r.watches.at, g)
		close(w.left)
	}
}

// look looks at a call until it has ended. The first look also asks to be told.
func (r *Redis) look(g grant, w *watch) {
	for first := true; ; first = false {
		ending, ended, at := r.peek(g, first)
		if ended {
			r.watches.mu.Lock()
			if r.watches.at[g] == w {
				delete(r.watches.at, g)
			}
			if at != g && r.watches.at[at] == w {
				delete(r.watches.at, at)
			}
			w.ending = ending
			close(w.done)
			r.watches.mu.Unlock()
			return
		}
		if at != g { // it goes on under another fence, by which its end will be told
			r.alias(at, w)
		}
		t := time.NewTimer(pollEvery/2 + rand.N(pollEvery))
		select {
		case <-w.wake:
		case <-t.C:
		case <-w.left:
			t.Stop()
			return
		case <-r.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// alias has w woken by the end of another fence, too.
func (r *Redis) alias(g grant, w *watch) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if r.watches.at[g] == nil && w.waiters > 0 {
		r.watches.at[g] = w
	}
}

// peek asks how a call stands. A call that had ended and been released before anybody waited has no answer.
func (r *Redis) peek(g grant, first bool) (end dedup.Ending, ended bool, at grant) {
	echo := strconv.FormatUint(g.fence, 10)
	v, err := r.ask(r.ctx, r.shardOf(g.agent), lookScript, echo, echo)
	if err != nil {
		return end, false, g
	}
	if v.word == "absent" {
		return end, true, g
	}
	rec, err := v.record(0)
	if err != nil {
		return dedup.Ending{Outcome: dedup.Unknown}, true, g
	}
	s := &rec.state
	at = grant{g.agent, s.Fence}
	if v.word == "running" {
		return end, false, at
	}
	end = dedup.Ending{Outcome: s.Outcome, At: s.Ended, Refusal: rec.refusal}
	if s.Outcome != dedup.Unknown && (s.Held || !first) && rec.answer != nil {
		end.Answer = rec.withBody(v.at(1))
	}
	if s.Outcome != dedup.Unknown && s.Held && end.Answer == nil {
		end.Answer = &dedup.Answer{}
	}
	return end, true, at
}

// heardEnd wakes who waits for the call of that fence; that of an agent's shard stands behind the agent. Where a shard has
// begun a new life it is looked at.
func (r *Redis) heardEnd(payload string) {
	name, number, apart := strings.Cut(payload, " ")
	if !apart {
		name, number = "", payload
	}
	agent, bad := url.QueryUnescape(name)
	if bad == nil && apart && number == "life" {
		if s := r.shardOf(agent); s.joined.Load() {
			r.background(func() { _ = r.beat(r.ctx, s) })
		}
		return
	}
	fence, err := strconv.ParseUint(number, 10, 64)
	if errors.Join(bad, err) != nil || apart != r.own.apart {
		return
	}
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w := r.watches.at[grant{agent, fence}]; w != nil {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Delivered says that the answer of an ended call reached its caller whole: see dedup.Store.
func (r *Redis) Delivered(agent string, k dedup.Key, fence uint64, window time.Duration) {
	r.answers.forget(k)
	r.background(func() {
		echo := strconv.FormatUint(fence, 10)
		if _, err := r.ask(r.ctx, r.shardOf(agent), deliverScript, echo, echo, window.Microseconds()); err != nil && r.ctx.Err() == nil {
			r.local.log.Warn("a shorter window is not written", "error", err.Error())
		}
	})
}
