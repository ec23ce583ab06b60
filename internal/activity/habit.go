package activity

import (
	"sync"
	"time"
)

const (
	hoursKept    = 7 * 24
	maxHabits    = 1000 // agents; past it the one that was quiet longest is forgotten
	maxRefusals  = 8    // different refused calls of an agent that are watched at once
	maxSensitive = 256  // tools of an agent
)

// habits are what is usual for each agent. Spending and sensitive tools are written and read back; refusals live for a
// minute and are not.
type habits struct {
	write func(fact []byte, wait bool) error

	mu    sync.Mutex
	of    map[whose]*habit // guarded by mu
	dirty map[whose]bool   // guarded by mu: whose running hour changed since it was written
	timer *time.Timer      // guarded by mu: pending while some are dirty
}

type whose struct{ tenant, agent string }

// habit is one agent's.
type habit struct {
	hours    map[int64]int64 // micro-USD by Unix hour
	used     map[string]bool // sensitive tools it has called
	refusals []*refusal
	tellings map[string]time.Time // when an anomaly was told last, by rule
	pardoned int64                // the hour in which an operator let it go on
	seen     time.Time
}

// refusal is when calls that are the same were refused: a ring of the last times.
type refusal struct {
	tool, reason, args string
	at                 [burstSize]time.Time
	next               int
	last               time.Time
}

// habitFact is what is written of a habit: hours as they stand, and tools that were used.
type habitFact struct {
	Tenant string          `json:"t,omitempty"`
	Agent  string          `json:"a,omitempty"`
	Hours  map[int64]int64 `json:"h,omitempty"`
	Used   []string        `json:"u,omitempty"`
}

// Watch takes a deed in and says what is unusual about it for its agent.
func (b *Book) Watch(d Deed, now time.Time) []Anomaly {
	if d.Refused == "" && d.Spend <= 0 && !d.Sensitive {
		return nil // no rule looks at it
	}
	hs := &b.habits
	hs.mu.Lock()
	defer hs.mu.Unlock()
	id := whose{d.Tenant, d.Agent}
	h := hs.habit(id)
	h.seen = now
	if d.Refused == "" && d.Spend > 0 {
		h.hours[hourOf(now)] += d.Spend
		h.forget(hourOf(now))
		hs.later(id)
	}
	first := d.Refused == "" && d.Sensitive && !h.used[d.Tool] && len(h.used) < maxSensitive
	if first {
		h.used[d.Tool] = true
		_ = hs.write(encoded(fact{Habit: &habitFact{Tenant: id.tenant, Agent: id.agent, Used: []string{d.Tool}}}), false)
	}
	return h.judge(&d, first, now)
}

// Pardon has an agent's refusals and this hour's spending be forgotten: an operator has looked and lets it go on.
func (b *Book) Pardon(agent string, now time.Time) {
	hs := &b.habits
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for id, h := range hs.of {
		if id.agent == agent || agent == "*" {
			h.refusals, h.pardoned = nil, hourOf(now)
			clear(h.tellings)
		}
	}
}

// habit is the agent's, made where there is none. Call it with mu held.
func (hs *habits) habit(id whose) *habit {
	h := hs.of[id]
	if h == nil {
		hs.room()
		h = &habit{hours: map[int64]int64{}, used: map[string]bool{}, tellings: map[string]time.Time{}}
		hs.of[id] = h
	}
	return h
}

// room lets the agent go that was quiet longest, where there are too many. Call it with mu held.
func (hs *habits) room() {
	if len(hs.of) < maxHabits {
		return
	}
	var oldest whose
	var since time.Time
	for id, h := range hs.of {
		if since.IsZero() || h.seen.Before(since) {
			oldest, since = id, h.seen
		}
	}
	delete(hs.of, oldest)
	delete(hs.dirty, oldest)
}

// refusal is the ring of calls like the deed; of too many different ones the longest quiet goes.
func (h *habit) refusal(d *Deed, now time.Time) *refusal {
	oldest := 0
	for i, r := range h.refusals {
		if r.tool == d.Tool && r.reason == d.Refused && r.args == d.Args {
			r.last = now
			return r
		}
		if r.last.Before(h.refusals[oldest].last) {
			oldest = i
		}
	}
	r := &refusal{tool: d.Tool, reason: d.Refused, args: d.Args, last: now}
	if len(h.refusals) < maxRefusals {
		h.refusals = append(h.refusals, r)
	} else {
		h.refusals[oldest] = r
	}
	return r
}

// forget drops hours that no rule looks at any more.
func (h *habit) forget(hour int64) {
	if len(h.hours) <= hoursKept+1 {
		return
	}
	for of := range h.hours {
		if of < hour-hoursKept {
			delete(h.hours, of)
		}
	}
}

// later has the agent's running hour written within a second. Call it with mu held.
func (hs *habits) later(id whose) {
	hs.dirty[id] = true
	if hs.timer == nil {
		hs.timer = time.AfterFunc(flushAfter, hs.flush)
	}
}

// flush writes the newest hour of those that changed.
func (hs *habits) flush() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for id := range hs.dirty {
		h := hs.of[id]
		hour := hourOf(h.seen)
		hours := map[int64]int64{}
		for of, spent := range h.hours {
			if of >= hour-1 { // the last second may have been the end of the hour before
				hours[of] = spent
			}
		}
		if hs.write(encoded(fact{Habit: &habitFact{Tenant: id.tenant, Agent: id.agent, Hours: hours}}), false) != nil {
			break // they stay dirty, and the next change tries again
		}
		delete(hs.dirty, id)
	}
	hs.timer = nil
}

// fold takes in what was written.
func (hs *habits) fold(f *habitFact) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.habit(whose{f.Tenant, f.Agent})
	var newest int64
	for hour, spent := range f.Hours {
		h.hours[hour] = spent
		newest = max(newest, hour)
	}
	for _, name := range f.Used {
		h.used[name] = true
	}
	if at := time.Unix(newest*3600, 0); at.After(h.seen) {
		h.seen = at
	}
	h.forget(hourOf(h.seen))
}

// carry emits the facts that stand for all habits.
func (hs *habits) carry(emit func(fact []byte)) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for id, h := range hs.of {
		f := habitFact{Tenant: id.tenant, Agent: id.agent, Hours: h.hours}
		for name := range h.used {
			f.Used = append(f.Used, name)
		}
		if len(f.Hours)+len(f.Used) > 0 {
			emit(encoded(fact{Habit: &f}))
		}
	}
}
