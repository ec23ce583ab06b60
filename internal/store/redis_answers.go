package store

import (
	"container/list"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// answers are those of finished calls that were seen here, up to a number of bytes. They are given again without asking
// Redis while the switch was heard of lately. Its methods may be called from any goroutine.
type answers struct {
	limit int

	mu    sync.Mutex
	bytes int                         // guarded by mu
	order *list.List                  // of *seen, the last used first; guarded by mu
	by    map[dedup.Key]*list.Element // each by its first key; guarded by mu
}

// seen is a finished call. It is never changed.
type seen struct {
	rec    *record
	answer *dedup.Answer
}

func (s *seen) cost() int {
	return 1024 + len(s.answer.Body) + 64*len(s.rec.keys) + 48*len(s.answer.Header)
}

func newAnswers(limit int) *answers {
	return &answers{limit: limit, order: list.New(), by: map[dedup.Key]*list.Element{}}
}

// add remembers a finished call. One whose window others may shorten is not.
func (a *answers) add(rec *record, answer *dedup.Answer) {
	s := &seen{rec, answer}
	if o := rec.state.Outcome; len(rec.keys) == 0 || !rec.state.Held || o != dedup.Done && o != dedup.Failed || rec.state.UnknownFor > 0 || s.cost() > a.limit/4 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	k := rec.keys[0].Key
	if e := a.by[k]; e != nil {
		a.drop(e)
	}
	a.by[k] = a.order.PushFront(s)
	for a.bytes += s.cost(); a.bytes > a.limit; {
		a.drop(a.order.Back())
	}
}

// drop forgets one. Call it with mu held.
func (a *answers) drop(e *list.Element) {
	s := a.order.Remove(e).(*seen)
	delete(a.by, s.rec.keys[0].Key)
	a.bytes -= s.cost()
}

// find is the finished call that every one of the keys means at now; nil when there is none.
func (a *answers) find(keys []dedup.Identity, now time.Time) *seen {
	if len(keys) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.by[keys[0].Key]
	if e == nil {
		return nil
	}
	s := e.Value.(*seen)
	if !s.rec.state.Live(now) {
		a.drop(e)
		return nil
	}
	for _, id := range keys {
		if !hasKey(s.rec.keys, id.Key) || printOf(s.rec.keys, id.Key) != id.Print {
			return nil
		}
	}
	a.order.MoveToFront(e)
	return s
}

func (a *answers) forget(k dedup.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.by[k]; e != nil {
		a.drop(e)
	}
}

// clear forgets all.
func (a *answers) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.order.Init()
	clear(a.by)
	a.bytes = 0
}

func (a *answers) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

// remembered answers a claim from what was seen here.
func (r *Redis) remembered(c *dedup.Claim) (dedup.Begun, bool) {
	if len(c.Guards) > 0 || r.sinceSwitchHeard() > 2*r.shared.opt.Poll {
		return dedup.Begun{}, false
	}
	now := r.nowIn(r.shardOf(c.Agent))
	s := r.answers.find(c.Keys, now)
	if s == nil {
		return dedup.Begun{}, false
	}
	b := begunOf(dedup.Replay, s.rec, c.Keys[0].Key, now)
	b.Answer = s.answer
	return b, true
}
