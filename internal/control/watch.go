package control

import (
	"context"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// watches are the calls that run, or have run, at other sidecars, as far as somebody here asked for them lately.
type watches struct {
	wake chan struct{}

	mu   sync.Mutex
	keys map[dedup.Key]*watch // guarded by mu
	size int                  // bytes of answers; guarded by mu
}

// watch is one such call.
type watch struct {
	seen    time.Time     // when it was last known to run
	ending  *ended        // nil while it runs
	waiters int           // guarded by watches.mu
	asking  bool          // somebody polls; guarded by watches.mu
	changed chan struct{} // closed when the poll that was under way is over; guarded by watches.mu
}

// ended is what is known of a call that ran elsewhere.
type ended struct {
	outcome dedup.Outcome
	at      time.Time
	answer  *dedup.Answer
	print   string // of its arguments; empty: not known
	until   time.Time
}

const (
	remembered  = 10_000           // calls
	endedFor    = 30 * time.Second // that what ended is answered from memory; then the control plane is asked again
	endedBytes  = 16 << 20
	nativeFirst = 30 * time.Millisecond // between questions to an oo-sidecar, growing
	nativeMost  = time.Second
	hostedLeast = 500 * time.Millisecond // and to another API
	hostedMost  = 5 * time.Second
)

func (w *watches) init() { w.keys, w.wake = map[dedup.Key]*watch{}, make(chan struct{}, 1) }

// of is the watch of a key. Call it with mu held.
func (w *watches) of(k dedup.Key) *watch {
	x := w.keys[k]
	if x == nil {
		if len(w.keys) >= remembered {
			w.shed()
		}
		x = &watch{}
		w.keys[k] = x
	}
	return x
}

// shed forgets what nobody waits for. Call it with mu held.
func (w *watches) shed() {
	for k, x := range w.keys {
		if x.waiters == 0 && !x.asking {
			w.forget(k, x)
		}
	}
}

func (w *watches) forget(k dedup.Key, x *watch) {
	w.hold(x, nil)
	delete(w.keys, k)
}

// hold puts an ending, or none, in the place of what was known, and counts the answers. Call it with mu held.
func (w *watches) hold(x *watch, e *ended) {
	if x.ending != nil && x.ending.answer != nil {
		w.size -= len(x.ending.answer.Body)
	}
	if x.ending = e; e != nil && e.answer != nil {
		w.size += len(e.answer.Body)
	}
}

// running notes that a call runs elsewhere.
func (w *watches) running(k dedup.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.of(k)
	x.seen = time.Now()
	w.hold(x, nil)
}

// ended notes how a call ended elsewhere.
func (w *watches) ended(k dedup.Key, a *leaseAnswer) *ended {
	e := &ended{outcome: dedup.Done, at: when(a.DoneAt), until: time.Now().Add(endedFor)}
	if e.answer, e.print = decodeResult(a); a.Status == "failed" {
		e.outcome = dedup.Failed
	}
	if e.at.IsZero() {
		e.at = time.Now()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size+len(e.answer.Body) > endedBytes {
		w.shed()
	}
	w.hold(w.of(k), e)
	return e
}

// standing answers a claim from what is known here: the call ended elsewhere a moment ago, or somebody here waits for it.
func (s *Leases) standing(c *dedup.Claim) (dedup.Begun, bool) {
	w := &s.watches
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.keys[c.Keys[0].Key]
	switch {
	case x == nil:
	case x.ending != nil && time.Now().Before(x.ending.until):
		return s.begun(x.ending, c, c.Keys[0].Key), true
	case x.ending == nil && x.waiters > 0:
		return dedup.Begun{Status: dedup.InFlight, Key: c.Keys[0].Key, Fence: elsewhere, At: x.seen, Now: time.Now()}, true
	case x.waiters == 0 && !x.asking:
		w.forget(c.Keys[0].Key, x)
	}
	return dedup.Begun{}, false
}

// Wait waits for a running call, here or elsewhere: see dedup.Store.
func (s *Leases) Wait(ctx context.Context, agent string, k dedup.Key, fence uint64) (dedup.Ending, error) {
	if fence != elsewhere {
		end, err := s.local.Wait(ctx, agent, k, fence)
		if err != nil || end.Outcome != dedup.NotSent || end.Refusal != movedOn {
			return end, err
		}
	}
	return s.await(ctx, k)
}

// await waits for a call that runs elsewhere. Of all who wait here one asks.
func (s *Leases) await(ctx context.Context, k dedup.Key) (dedup.Ending, error) {
	w := &s.watches
	w.mu.Lock()
	x := w.of(k)
	if x.waiters >= maxWaiters {
		w.mu.Unlock()
		return dedup.Ending{}, dedup.ErrTooManyWaiters
	}
	x.waiters++
	defer func() {
		w.mu.Lock()
		x.waiters--
		w.mu.Unlock()
	}()
	for {
		if e := x.ending; e != nil {
			w.mu.Unlock()
			return dedup.Ending{Outcome: e.outcome, At: e.at, Answer: e.answer}, nil
		}
		if !x.asking {
			x.asking, x.changed = true, make(chan struct{})
			go s.poll(k, x)
		}
		changed := x.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return dedup.Ending{}, ctx.Err()
		}
		w.mu.Lock()
		if x.ending == nil && !x.asking { // given up, cancelled or expired: nobody runs it
			w.mu.Unlock()
			return dedup.Ending{Outcome: dedup.NotSent, At: time.Now()}, nil
		}
	}
}

const maxWaiters = 1024

// poll asks for a call that runs elsewhere until it has ended or nobody waits here.
func (s *Leases) poll(k dedup.Key, x *watch) {
	w := &s.watches
	key := s.goesOut(k)
	pause := nativeFirst
	for {
		a, err := s.client.look(context.Background(), key)
		free := missing(err) || a.Status == "failed"
		if err == nil && a.Status == "completed" {
			w.ended(k, &a)
		}
		unknown := err == nil && !a.ended() && a.forLong()
		w.mu.Lock()
		if unknown {
			x.ending = &ended{outcome: dedup.Unknown, answer: &dedup.Answer{}} // told to those who wait; not remembered
		}
		if x.ending != nil || free || x.waiters == 0 {
			x.asking = false
			close(x.changed)
			if w.keys[k] == x && x.ending == nil {
				delete(w.keys, k)
			}
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		time.Sleep(s.between(&pause, &a)) // bounded by the waiters' own deadlines: the last one gone ends this
	}
}

// between is how long to wait before the next question.
func (s *Leases) between(pause *time.Duration, a *leaseAnswer) time.Duration {
	if !s.counts() {
		return max(hostedLeast, min(hostedMost, time.Duration(a.RetryAfterSec*float64(time.Second))))
	}
	now := *pause
	*pause = min(now*3/2, nativeMost)
	return now
}
