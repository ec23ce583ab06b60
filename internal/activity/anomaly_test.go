package activity

import (
	"fmt"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

func refused(tool, args string) Deed {
	return Deed{Tenant: "t", Agent: "bot", Tool: tool, Args: args, Refused: "max_spend_usd_per_day_exceeded"}
}

func paid(micro int64) Deed { return Deed{Tenant: "t", Agent: "bot", Tool: "charge", Spend: micro} }

// rules are those that speak, with a star where they say it again.
func rules(found []Anomaly) (s string) {
	for _, a := range found {
		s += a.Rule
		if a.Again {
			s += "*"
		}
	}
	return s
}

func TestIdenticalRefusals(t *testing.T) {
	every := func(gap time.Duration, n int, d func(i int) Deed) (at []int, b *Book) {
		b = New(new(paper).write)
		for i := range n {
			if rules(b.Watch(d(i), noon.Add(time.Duration(i)*gap))) == IdenticalRefusals {
				at = append(at, i)
			}
		}
		return at, b
	}
	same := func(int) Deed { return refused("charge", "aa") }
	for name, c := range map[string]struct {
		gap  time.Duration
		n    int
		d    func(int) Deed
		want string
	}{
		"one too few":              {time.Second, burstSize - 1, same, "[]"},
		"twenty in a minute":       {3 * time.Second, burstSize, same, "[19]"},
		"twenty in more":           {3200 * time.Millisecond, 100, same, "[]"},
		"told once in ten minutes": {time.Second, 700, same, "[19 619]"},
		"other arguments":          {time.Millisecond, 100, func(i int) Deed { return refused("charge", fmt.Sprint(i)) }, "[]"},
		"other tools":              {time.Millisecond, 57, func(i int) Deed { return refused(fmt.Sprint(i%3), "aa") }, "[]"},
		"two in turn":              {time.Millisecond, 40, func(i int) Deed { return refused(fmt.Sprint(i%2), "aa") }, "[38]"},
		"other agents": {time.Millisecond, 100, func(i int) Deed {
			d := same(i)
			d.Agent = fmt.Sprint(i % 10)
			return d
		}, "[]"},
	} {
		if at, _ := every(c.gap, c.n, c.d); fmt.Sprint(at) != c.want {
			t.Errorf("%s: told at %v, want %s", name, at, c.want)
		}
	}
	_, b := every(time.Second, burstSize, same)
	found := b.Watch(same(0), noon.Add(21*time.Second))
	if rules(found) != IdenticalRefusals+"*" || found[0].Detail != "20 refusals of charge (max_spend_usd_per_day_exceeded) within 20 s" {
		t.Errorf("while it lasts: %+v", found)
	}
	b.Pardon("bot", noon.Add(22*time.Second))
	if found := b.Watch(same(0), noon.Add(23*time.Second)); found != nil {
		t.Errorf("after the pardon: %+v", found)
	}
}

func TestSpendRate(t *testing.T) {
	past := func(hours int, each int64) *Book {
		b := New(new(paper).write)
		for i := range hours {
			for range 2 {
				if found := b.Watch(paid(each/2), noon.Add(time.Duration(i-hours)*time.Hour)); found != nil {
					t.Errorf("hour %d: %+v", i, found)
				}
			}
		}
		return b
	}
	for name, c := range map[string]struct {
		b    *Book
		now  int64
		want string
	}{
		"as before":           {past(10, 1_000_000), 5_000_000, ""},
		"far above":           {past(10, 1_000_000), 5_000_001, SpendRate},
		"far above, too soon": {past(spendHours-1, 1_000_000), 50_000_000, ""},
		"far above pennies":   {past(10, 1000), spendLeast - 1, ""},
		"above pennies":       {past(10, 1000), spendLeast, SpendRate},
	} {
		if got := rules(c.b.Watch(paid(c.now), noon.Add(time.Minute))); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	b := past(10, 1_000_000)
	found := b.Watch(paid(6_500_000), noon)
	if len(found) != 1 || found[0].Detail != "$6.50 spent since the hour began; its 10 earlier hours with spending in 7 days averaged $1.00" {
		t.Fatalf("%+v", found)
	}
	if got := rules(b.Watch(paid(1), noon.Add(time.Minute))); got != SpendRate+"*" {
		t.Errorf("while it lasts: %q", got)
	}
	b.Pardon("*", noon.Add(2*time.Minute))
	if found := b.Watch(paid(1_000_000), noon.Add(59*time.Minute)); found != nil {
		t.Errorf("in the hour of a pardon: %+v", found)
	}
	if found := past(10, 1_000_000).Watch(Deed{Tenant: "t", Agent: "other", Tool: "charge", Spend: 9_000_000}, noon); found != nil {
		t.Errorf("another agent's past: %+v", found)
	}
	if found := past(10, 1_000_000).Watch(paid(9_000_000), noon.Add(8*24*time.Hour)); found != nil {
		t.Errorf("a past of more than a week ago: %+v", found)
	}
}

func TestFirstSensitiveUse(t *testing.T) {
	p := new(paper)
	b := New(p.write)
	wipe := Deed{Tenant: "t", Agent: "bot", Tool: "wipe", Sensitive: true}
	if found := b.Watch(Deed{Tenant: "t", Agent: "bot", Tool: "mail"}, noon); found != nil {
		t.Errorf("a plain tool: %+v", found)
	}
	blocked := wipe
	blocked.Refused = "tool_explicitly_blocked"
	if found := b.Watch(blocked, noon); found != nil {
		t.Errorf("a refused one is no use: %+v", found)
	}
	if got := rules(b.Watch(wipe, noon)); got != FirstSensitiveUse {
		t.Errorf("first: %q", got)
	}
	other := wipe
	other.Agent = "other"
	for name, c := range map[string]struct {
		b    *Book
		d    Deed
		want string
	}{
		"second":                  {b, wipe, ""},
		"another agent":           {b, other, FirstSensitiveUse},
		"second, after a restart": {p.reopened(t), wipe, ""},
		"second, carried":         {carried(t, p.reopened(t)), wipe, ""},
	} {
		if got := rules(c.b.Watch(c.d, noon)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAnAgentsPastOutlivesARestart(t *testing.T) {
	p := new(paper)
	b := New(p.write)
	for i := range spendHours {
		b.Watch(paid(400_000), noon.Add(time.Duration(i)*time.Hour))
		b.Watch(paid(600_000), noon.Add(time.Duration(i)*time.Hour))
		b.Flush()
	}
	now := noon.Add(spendHours * time.Hour)
	for name, b := range map[string]*Book{"before": b, "after": p.reopened(t), "carried": carried(t, p.reopened(t))} {
		if found := b.Watch(paid(5_000_000), now); found != nil {
			t.Errorf("%s: %+v", name, found)
		}
		if got := rules(b.Watch(paid(1), now)); got != SpendRate {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestHabitsAreBounded(t *testing.T) {
	b := New(new(paper).write)
	for i := range maxHabits + 50 {
		d := paid(1)
		d.Agent = fmt.Sprint(i)
		b.Watch(d, noon.Add(time.Duration(i)*time.Second))
	}
	for i := range 3 * hoursKept {
		b.Watch(paid(1), noon.Add(time.Duration(i)*time.Hour))
		b.Watch(refused(fmt.Sprint(i), ""), noon.Add(time.Duration(i)*time.Hour))
		b.Watch(Deed{Tenant: "t", Agent: "bot", Tool: fmt.Sprint(i), Sensitive: true}, noon)
	}
	b.habits.mu.Lock()
	defer b.habits.mu.Unlock()
	h := b.habits.of[whose{"t", "bot"}]
	if len(b.habits.of) != maxHabits || b.habits.of[whose{"t", "0"}] != nil {
		t.Errorf("%d agents", len(b.habits.of))
	}
	if len(h.hours) > hoursKept+1 || len(h.refusals) != maxRefusals || len(h.used) != maxSensitive {
		t.Errorf("%d hours, %d refusals, %d tools", len(h.hours), len(h.refusals), len(h.used))
	}
}
