package store

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// pollEvery is how often a call that somebody waits for is looked at, with jitter, should the word of its end be lost.
const pollEvery = 300 * time.Millisecond

// watches are the calls of other sidecars that somebody waits for here.
type watches struct {
	mu sync.Mutex
	at map[uint64]*watch // by fence; guarded by mu
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
func (r *Redis) Wait(ctx context.Context, k dedup.Key, fence uint64) (dedup.Ending, error) {
	c, err := r.own.join(fence, r.opt.Waiters)
	if err != nil {
		return dedup.Ending{}, err
	}
	if c == nil {
		return r.waitElsewhere(ctx, fence)
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
				return r.waitElsewhere(ctx, fence)
			}
			return c.ending, nil
		case <-ctx.Done():
			return dedup.Ending{}, ctx.Err()
		}
	}
}

// waitElsewhere waits for a call that another sidecar runs.
func (r *Redis) waitElsewhere(ctx context.Context, fence uint64) (dedup.Ending, error) {
	w, err := r.watch(fence)
	if err != nil {
		return dedup.Ending{}, err
	}
	defer r.unwatch(fence, w)
	select {
	case <-w.done:
		return w.ending, nil
	case <-ctx.Done():
		return dedup.Ending{}, ctx.Err()
	}
}

func (r *Redis) watch(fence uint64) (*watch, error) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	w := r.watches.at[fence]
	if w == nil {
		w = &watch{wake: make(chan struct{}, 1), left: make(chan struct{}), done: make(chan struct{})}
		r.watches.at[fence] = w
		go r.look(fence, w)
	}
	if w.waiters >= r.opt.Waiters {
		return nil, dedup.ErrTooManyWaiters
	}
	w.waiters++
	return w, nil
}

func (r *Redis) unwatch(fence uint64, w *watch) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w.waiters--; w.waiters == 0 && r.watches.at[fence] == w {
		delete(r.watches.at, fence)
		close(w.left)
	}
}

// look looks at a call until it has ended. The first look also asks to be told.
func (r *Redis) look(fence uint64, w *watch) {
	for first := true; ; first = false {
		ending, ended, at := r.peek(fence, first)
		if ended {
			r.watches.mu.Lock()
			if r.watches.at[fence] == w {
				delete(r.watches.at, fence)
			}
			if at != fence && r.watches.at[at] == w {
				delete(r.watches.at, at)
			}
			w.ending = ending
			close(w.done)
			r.watches.mu.Unlock()
			return
		}
		if at != fence { // it goes on under another fence, by which its end will be told
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
func (r *Redis) alias(fence uint64, w *watch) {
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if r.watches.at[fence] == nil && w.waiters > 0 {
		r.watches.at[fence] = w
	}
}

// peek asks how a call stands. A call that had ended and been released before anybody waited has no answer.
func (r *Redis) peek(fence uint64, first bool) (end dedup.Ending, ended bool, at uint64) {
	v, err := r.ask(r.ctx, lookScript, strconv.FormatUint(fence, 10), strconv.FormatUint(fence, 10))
	if err != nil {
		return end, false, fence
	}
	if v.word == "absent" {
		return end, true, fence
	}
	rec, err := v.record(0)
	if err != nil {
		return dedup.Ending{Outcome: dedup.Unknown}, true, fence
	}
	s := &rec.state
	if v.word == "running" {
		return end, false, s.Fence
	}
	end = dedup.Ending{Outcome: s.Outcome, At: s.Ended, Refusal: rec.refusal}
	if s.Outcome != dedup.Unknown && (s.Held || !first) && rec.answer != nil {
		end.Answer = rec.withBody(v.at(1))
	}
	if s.Outcome != dedup.Unknown && s.Held && end.Answer == nil {
		end.Answer = &dedup.Answer{}
	}
	return end, true, s.Fence
}

// heardEnd wakes who waits for the call of that fence.
func (r *Redis) heardEnd(payload string) {
	fence, err := strconv.ParseUint(payload, 10, 64)
	if err != nil {
		return
	}
	r.watches.mu.Lock()
	defer r.watches.mu.Unlock()
	if w := r.watches.at[fence]; w != nil {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Delivered says that the answer of an ended call reached its caller whole: see dedup.Store.
func (r *Redis) Delivered(k dedup.Key, fence uint64, window time.Duration) {
	r.answers.forget(k)
	r.background(func() {
		echo := strconv.FormatUint(fence, 10)
		if _, err := r.ask(r.ctx, deliverScript, echo, echo, window.Microseconds()); err != nil && r.ctx.Err() == nil {
			r.local.log.Warn("a shorter window is not written", "error", err.Error())
		}
	})
}
