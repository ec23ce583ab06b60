// Package activity remembers what callers did: counts by day, the newest events, and the timelines of runs. It is kept
// in memory, bounded, and made again from the facts it writes.
package activity

import (
	"encoding/json"
	"sync"
	"time"
)

const (
	maxEvents  = 10_000
	maxLines   = 50_000
	maxText    = 32 << 20 // bytes of all lines
	daysKept   = 93       // so that a month is whole
	writesEach = 500      // events and lines a second that are written; what is above stands in memory only
	flushAfter = time.Second
)

// Book is what is remembered. Its methods may be called from any goroutine.
type Book struct {
	write func(fact []byte, wait bool) error

	mu     sync.Mutex
	counts map[day]*Counts   // guarded by mu
	dirty  map[day]bool      // guarded by mu: counts that changed since they were written
	timer  *time.Timer       // guarded by mu: pending while some are dirty
	events []Event           // guarded by mu: a ring, once it is full
	oldest int               // guarded by mu: of the ring
	runs   map[runID]*run    // guarded by mu
	order  []runID           // guarded by mu: whose line is how old, oldest first
	text   int               // guarded by mu: bytes of all lines
	next   uint64            // guarded by mu: id of the next line
	wishes map[string]Wishes // guarded by mu, by tenant
	told   map[teller]uint64 // guarded by mu: how far sidecars have told what they did
	hear   sync.Mutex        // held while a sidecar's events are taken in; before mu
	second int64             // guarded by mu: in which
	wrote  int               // guarded by mu: so many facts were written

	habits habits // with a lock of its own
}

// day names counts: of whom and when. The empty Day is all days.
type day struct {
	Tenant string `json:"t"`
	Agent  string `json:"a,omitempty"`
	Day    string `json:"d,omitempty"`
}

// fact is what is written of a change: one of its members.
type fact struct {
	Event  *Event  `json:"e,omitempty"`
	Line   *Line   `json:"l,omitempty"`
	Of     *day    `json:"o,omitempty"` // of Counts
	Counts *Counts `json:"c,omitempty"` // as they stand: a later fact replaces an earlier one
	For    string  `json:"f,omitempty"` // tenant of Wishes
	Wishes *Wishes `json:"w,omitempty"`
	Next   uint64  `json:"n,omitempty"`

	Habit  *habitFact `json:"h,omitempty"`
	Told   *Told      `json:"s,omitempty"` // by a sidecar, with its events
	Events []Event    `json:"x,omitempty"` // of Told
	Lines  []*Line    `json:"y,omitempty"` // of Told
}

// New makes an empty book. write keeps a fact, and waits until it is durable if it is told to; it is called with the
// book locked unless it is to wait.
func New(write func(fact []byte, wait bool) error) *Book {
	return &Book{write: write, counts: map[day]*Counts{}, dirty: map[day]bool{}, runs: map[runID]*run{}, wishes: map[string]Wishes{}, told: map[teller]uint64{}, next: 1,
		habits: habits{write: write, of: map[whose]*habit{}, dirty: map[whose]bool{}}}
}

// Fold takes in a fact that was written, in the order of writing.
func (b *Book) Fold(data []byte) error {
	var f fact
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if f.Habit != nil {
		b.habits.fold(f.Habit)
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = max(b.next, f.Next)
	switch {
	case f.Event != nil:
		b.keepEvent(*f.Event)
	case f.Line != nil:
		b.next = max(b.next, f.Line.ID+1)
		b.keepLine(f.Line)
	case f.Counts != nil && f.Of != nil:
		b.counts[*f.Of] = f.Counts
	case f.Wishes != nil:
		b.wishes[f.For] = *f.Wishes
	case f.Told != nil:
		b.keepTold(&f)
	}
	return nil
}

// Carry emits the facts that stand for all counts, wishes and habits: the ones before may be dropped. Events and lines go.
func (b *Book) Carry(emit func(fact []byte)) {
	b.habits.carry(emit)
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, c := range b.counts {
		emit(encoded(fact{Of: &d, Counts: c, Next: b.next}))
	}
	for tenant, w := range b.wishes {
		emit(encoded(fact{For: tenant, Wishes: &w}))
	}
	for from, seq := range b.told {
		emit(encoded(fact{Told: &Told{from.tenant, from.source, seq}}))
	}
}

// Flush writes the counts and habits that changed.
func (b *Book) Flush() {
	b.habits.flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	for d := range b.dirty {
		if b.write(encoded(fact{Of: &d, Counts: b.counts[d], Next: b.next}), false) != nil {
			break // they stay dirty, and the next change tries again
		}
		delete(b.dirty, d)
	}
	b.timer = nil
}

func encoded(f fact) []byte {
	data, err := json.Marshal(f)
	if err != nil {
		return []byte("{}")
	}
	return data
}

// note writes a fact that nobody waits for, while there are not too many. The caller holds mu.
func (b *Book) note(f fact, now time.Time) {
	if s := now.Unix(); s != b.second {
		b.second, b.wrote = s, 0
	}
	if b.wrote++; b.wrote <= writesEach {
		_ = b.write(encoded(f), false) // it stands here until the end of this process
	}
}

// Wishes are what a namespace wants to be told of.
type Wishes struct {
	Email       bool `json:"email_notifications_enabled"`
	ToolError   bool `json:"tool_error_notifications_enabled"`
	RunFailures bool `json:"run_failure_notifications_enabled"`
}

// Wishes are those of the tenant: all, until it says otherwise.
func (b *Book) Wishes(tenant string) Wishes {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w, ok := b.wishes[tenant]; ok {
		return w
	}
	return Wishes{true, true, true}
}

// Wish changes them once that is durable.
func (b *Book) Wish(tenant string, w Wishes) error {
	if err := b.write(encoded(fact{For: tenant, Wishes: &w}), true); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wishes[tenant] = w
	return nil
}
