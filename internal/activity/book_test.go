package activity

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// paper is what books write to; it is read back as a restart would.
type paper struct {
	mu    sync.Mutex
	facts [][]byte // guarded by mu: the book flushes from a timer
}

func (p *paper) write(fact []byte, _ bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts = append(p.facts, bytes.Clone(fact))
	return nil
}

// single are the facts of events and lines, those of counts left out.
func (p *paper) single() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.facts {
		if !bytes.HasPrefix(f, []byte(`{"o":`)) {
			n++
		}
	}
	return n
}

// reopened is the book that a restart makes of the facts.
func (p *paper) reopened(t *testing.T) *Book {
	t.Helper()
	b := New(p.write)
	p.mu.Lock()
	facts := slices.Clone(p.facts)
	p.mu.Unlock()
	for _, f := range facts {
		if err := b.Fold(f); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

var at = time.Date(2026, 3, 31, 23, 59, 0, 0, time.UTC)

func TestABookIsTheSameAfterARestart(t *testing.T) {
	p := new(paper)
	b := New(p.write)
	for _, kind := range []string{"locked", "duplicate", "duplicate", "ai_acquired", "ai_failed", "rate_limited"} {
		b.Add(Event{Tenant: "a", Owner: "bot", Type: kind, TS: at.Unix()}, at)
	}
	b.Add(Event{Tenant: "a", Type: "locked"}, at.Add(2*time.Minute)) // the next month
	b.Add(Event{Tenant: "b", Type: "locked"}, at)
	b.Tell(Line{Tenant: "a", RunID: "r", AgentID: "bot", Type: "tool_result", Executed: true}, at)
	if id, err := b.Post(Line{Tenant: "a", RunID: "r", Type: "note", TS: -1}); id != 2 || err != nil {
		t.Errorf("posted as %d %v", id, err)
	}
	if err := b.Wish("a", Wishes{Email: true}); err != nil {
		t.Fatal(err)
	}
	b.Flush()
	b.Flush()
	again := p.reopened(t)
	for name, b := range map[string]*Book{"before": b, "after": again, "carried": carried(t, again)} {
		if c := b.Sum("a", "", "2026-03"); c != (Counts{Locked: 1, Duplicates: 2, RateLimited: 1, Acquired: 1, Failed: 1, Calls: 1}) {
			t.Errorf("%s: %+v in the month", name, c)
		}
		if all, own, one := b.Sum("a", "", ""), b.Sum("a", "bot", ""), b.Sum("a", "", "2026-04-01"); all.Locked != 2 || own.Locked != 1 || one.Locked != 1 {
			t.Errorf("%s: %+v %+v %+v", name, all, own, one)
		}
		if w := b.Wishes("a"); w != (Wishes{Email: true}) || b.Wishes("b") != (Wishes{true, true, true}) {
			t.Errorf("%s: wishes %+v", name, w)
		}
	}
	if list := again.Events("a", "bot", 10); len(list) != 3 || list[0].Type != "ai_failed" {
		t.Errorf("events after a restart, without repeats: %+v", list)
	}
	if lines := again.Timeline("a", "", "r"); len(lines) != 2 || lines[0].Type != "note" {
		t.Errorf("the timeline is not by time: %+v", lines)
	}
	if id, _ := again.Post(Line{Tenant: "a", RunID: "r", Type: "note"}); id != 3 {
		t.Errorf("an id is given twice: %d", id)
	}
}

// carried is the book of what outlives the journal's oldest segments.
func carried(t *testing.T, b *Book) *Book {
	p := new(paper)
	b.Carry(func(fact []byte) { p.facts = append(p.facts, fact) })
	return p.reopened(t)
}

func TestABookIsBounded(t *testing.T) {
	p := new(paper)
	b := New(p.write)
	for i := range maxEvents + 5 {
		b.Add(Event{Tenant: "a", Type: "duplicate", Key: fmt.Sprint(i)}, at)
	}
	if list := b.Events("a", "", maxEvents*2); len(list) != maxEvents || list[0].Key != fmt.Sprint(maxEvents+4) || list[maxEvents-1].Key != "5" {
		t.Errorf("%d events, %s to %s", len(list), list[0].Key, list[len(list)-1].Key)
	}
	if n := p.single(); n != 0 {
		t.Errorf("repeats were written one by one: %d", n)
	}
	for i := range maxLines + 5 {
		b.Tell(Line{Tenant: "a", RunID: fmt.Sprint(i / 2), Type: "t"}, at)
	}
	runs := b.Runs("a", "", "")
	if n := len(runs); n != maxLines/2+1 || len(b.Timeline("a", "", "0")) != 0 {
		t.Errorf("%d runs", n)
	}
	if n := p.single(); n != writesEach {
		t.Errorf("%d facts in one second", n)
	}
	b.Tell(Line{Tenant: "a", RunID: "large", Type: "t", Message: strings.Repeat("x", maxText)}, at)
	if runs := b.Runs("a", "", ""); len(runs) != 1 || runs[0].ID != "large" {
		t.Errorf("%d runs beside a large one", len(runs))
	}
	for i := range 200 {
		b.Add(Event{Tenant: "c", Type: "locked"}, at.AddDate(0, 0, i))
	}
	b.mu.Lock()
	days := len(b.counts)
	b.mu.Unlock()
	if days > daysKept+10 {
		t.Errorf("%d days are kept", days)
	}
	if sum := b.Sum("c", "", ""); sum.Locked != 200 {
		t.Errorf("all days: %+v", sum)
	}
}
