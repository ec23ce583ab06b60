package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func caps(t *testing.T, b *Bench) {
	limit := int64(50)
	for _, l := range []tool.Limits{{ActionsPerHour: &limit}, {CallsPerDay: &limit}} {
		const callers = 200
		agent := fmt.Sprintf("a%v", l.CallsPerDay != nil)
		mine := race(t, b, callers, func(i int) *dedup.Claim {
			c := NewClaim(fmt.Sprint(agent, i))
			c.Agent, c.Limits = agent, l
			return c
		})
		if mine != 50 {
			t.Fatalf("%d calls passed a cap of 50", mine)
		}
		if hour, spend, calls := b.Used("default", agent, "pay"); hour != 50 || spend != 5000 || calls != 50 {
			t.Fatal(hour, spend, calls)
		}
	}
}

func race(t *testing.T, b *Bench, n int, claim func(int) *dedup.Claim) (mine int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := b.Store.Begin(context.Background(), claim(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case r.Status == dedup.Mine:
				mine++
			case r.Status != dedup.Over || r.RetryAfter <= 0:
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	return mine
}

func spendCap(t *testing.T, b *Bench) {
	limit := tool.Money(1_000_003)
	mine := race(t, b, 200, func(i int) *dedup.Claim {
		c := NewClaim(fmt.Sprint(i))
		c.Cost, c.Limits.SpendPerDay = 13_337, &limit
		return c
	})
	if mine != 74 { // 74 × 13,337 = 986,938; 75 would pass the cap
		t.Fatalf("%d calls", mine)
	}
	exact := NewClaim("exact")
	exact.Limits.SpendPerDay = &limit
	exact.Cost = limit - 74*13_337
	wants(t, b, exact, dedup.Mine)
	more := NewClaim("more")
	more.Limits.SpendPerDay, more.Cost = &limit, 1
	if r := wants(t, b, more, dedup.Over); r.Over != dedup.SpendPerDay {
		t.Fatalf("%+v", r)
	}
	huge := NewClaim("huge")
	huge.Limits.SpendPerDay, huge.Cost = &limit, 1<<63-1
	wants(t, b, huge, dedup.Over)
	free := NewClaim("free")
	free.Limits.SpendPerDay, free.Cost = &limit, 0
	wants(t, b, free, dedup.Mine)
	used(t, b, 76, limit)
}

func zeroCaps(t *testing.T, b *Bench) {
	none, nothing := int64(0), tool.Money(0)
	for limit, l := range map[dedup.Limit]tool.Limits{
		dedup.ActionsPerHour: {ActionsPerHour: &none}, dedup.CallsPerDay: {CallsPerDay: &none}, dedup.SpendPerDay: {SpendPerDay: &nothing},
	} {
		c := NewClaim("x" + string(limit))
		c.Limits = l
		r := wants(t, b, c, dedup.Over)
		if r.Over != limit || r.RetryAfter <= 0 || r.RetryAfter > 24*time.Hour || limit == dedup.ActionsPerHour && r.RetryAfter != time.Hour {
			t.Fatalf("%+v", r)
		}
	}
	free := NewClaim("free")
	free.Cost, free.Limits.SpendPerDay = 0, &nothing
	wants(t, b, free, dedup.Mine)
	used(t, b, 1, 0)
}

func shadow(t *testing.T, b *Bench) {
	none := int64(0)
	c := NewClaim("x")
	c.Limits.ActionsPerHour, c.Shadow = &none, true
	if r := wants(t, b, c, dedup.Mine); r.Shadow != dedup.ActionsPerHour {
		t.Fatalf("%+v", r)
	}
	used(t, b, 1, 100)
}

func settlement(t *testing.T, b *Bench) {
	calls, spend := int64(0), tool.Money(0)
	for _, s := range []struct {
		o     dedup.Outcome
		keep  time.Duration
		calls int64
		spend tool.Money
	}{
		{dedup.Done, time.Hour, 1, 100}, {dedup.Done, 0, 1, 100}, {dedup.Failed, time.Minute, 1, 0}, {dedup.Failed, 0, 1, 0},
		{dedup.NotSent, 0, 0, 0}, {dedup.Unknown, 0, 1, 100},
	} {
		c := NewClaim(fmt.Sprint(s))
		r := wants(t, b, c, dedup.Mine)
		used(t, b, calls+1, spend+100)
		e := Ending(c, r, s.o)
		e.Keep = s.keep
		finish(t, b, e)
		_ = b.Store.Finish(t.Context(), e) // once more settles nothing
		calls, spend = calls+s.calls, spend+s.spend
		used(t, b, calls, spend)
	}
	b.Crash(t, b)
	used(t, b, calls, spend)
	limit := calls
	over := NewClaim("over")
	over.Limits.ActionsPerHour = &limit
	wants(t, b, over, dedup.Over)
	replay := NewClaim(fmt.Sprint(struct {
		o     dedup.Outcome
		keep  time.Duration
		calls int64
		spend tool.Money
	}{dedup.Done, time.Hour, 1, 100}))
	replay.Limits.ActionsPerHour = &limit
	wants(t, b, replay, dedup.Replay) // a duplicate costs nothing and needs no room
	used(t, b, calls, spend)
}

func hourSlides(t *testing.T, b *Bench) {
	limit := int64(2)
	ask := func(name string) *dedup.Claim {
		c := NewClaim(name)
		c.Limits.ActionsPerHour = &limit
		return c
	}
	wants(t, b, ask("1"), dedup.Mine)
	b.Advance(30 * time.Minute)
	wants(t, b, ask("2"), dedup.Mine)
	r := wants(t, b, ask("3"), dedup.Over)
	if r.RetryAfter <= 29*time.Minute || r.RetryAfter > 31*time.Minute {
		t.Fatalf("retry after %v", r.RetryAfter)
	}
	b.Advance(r.RetryAfter - time.Second)
	wants(t, b, ask("3"), dedup.Over)
	b.Advance(time.Second)
	wants(t, b, ask("3"), dedup.Mine)
	wants(t, b, ask("4"), dedup.Over)
}

func dayTurns(t *testing.T, b *Bench) {
	limit, spend := int64(1), tool.Money(100)
	ask := func(name string) *dedup.Claim {
		c := NewClaim(name)
		c.Limits = tool.Limits{CallsPerDay: &limit, SpendPerDay: &spend}
		return c
	}
	first := ask("1")
	r := wants(t, b, first, dedup.Mine)
	over := wants(t, b, ask("2"), dedup.Over)
	midnight := over.Now.Truncate(24 * time.Hour).Add(24 * time.Hour)
	if got := over.Now.Add(over.RetryAfter); !got.Equal(midnight) {
		t.Fatalf("retry at %v, want %v", got, midnight)
	}
	b.Advance(over.RetryAfter)
	wants(t, b, ask("2"), dedup.Mine)
	finish(t, b, Ending(first, r, dedup.NotSent)) // gives back what was charged yesterday, and nothing of today's
	if r := wants(t, b, ask("3"), dedup.Over); r.Over != dedup.CallsPerDay {
		t.Fatalf("%+v", r)
	}
	if _, day, calls := b.Used("default", "a", "pay"); day != 100 || calls != 1 {
		t.Fatal(day, calls)
	}
}
