package store

import (
	"math"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// hourBuckets is how many one-minute buckets count: a bucket counts until its last instant is 60 minutes old, so the
// running minute and the sixty before it. Any 60 minutes then hold at most the cap.
const hourBuckets = 61

// usage is what was charged, by agent within its tenant. It has no lock of its own.
type usage map[account]*spent

type account struct{ tenant, agent string }

// spent is one agent's charges.
type spent struct {
	minutes [hourBuckets]bucket // minute m stands at m % hourBuckets
	day     int64               // unix day, UTC, that spend and calls are of
	spend   tool.Money
	calls   map[string]int64 // by tool
}

type bucket struct{ minute, calls int64 }

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }
func dayOf(t time.Time) int64    { return t.Unix() / 86400 }

// of is the agent's account; nil when nothing was ever charged to it.
func (u usage) of(tenant, agent string) *spent { return u[account{tenant, agent}] }

// hour is how many calls count at now.
func (s *spent) hour(now time.Time) (n int64) {
	if s == nil {
		return 0
	}
	for i := range s.minutes {
		if b := &s.minutes[i]; b.minute > minuteOf(now)-hourBuckets {
			n += b.calls
		}
	}
	return n
}

// today is what was spent and how often the tool was called on now's day.
func (s *spent) today(now time.Time, name string) (tool.Money, int64) {
	if s == nil || s.day != dayOf(now) {
		return 0, 0
	}
	return s.spend, s.calls[name]
}

// over says which limit one more call would pass, and when it no longer would; "" when none.
func (s *spent) over(c *dedup.Claim, now time.Time) (dedup.Limit, time.Duration) {
	spend, calls := s.today(now, c.Tool)
	switch l := &c.Limits; {
	case l.ActionsPerHour != nil && s.hour(now) >= *l.ActionsPerHour:
		return dedup.ActionsPerHour, s.hourFrees(*l.ActionsPerHour, now)
	case l.CallsPerDay != nil && calls >= *l.CallsPerDay:
		return dedup.CallsPerDay, untilMidnight(now)
	case l.SpendPerDay != nil && c.Cost > 0 && (spend > *l.SpendPerDay || c.Cost > *l.SpendPerDay-spend):
		return dedup.SpendPerDay, untilMidnight(now)
	}
	return "", 0
}

// hourFrees is how long it takes until so many buckets have aged out that one more call fits.
func (s *spent) hourFrees(limit int64, now time.Time) time.Duration {
	left := s.hour(now)
	if limit <= 0 || s == nil {
		return time.Hour
	}
	for m := minuteOf(now) - hourBuckets + 1; m <= minuteOf(now); m++ {
		if b := &s.minutes[m%hourBuckets]; b.minute == m {
			left -= b.calls
		}
		if left < limit {
			return time.Unix((m+hourBuckets)*60, 0).Sub(now)
		}
	}
	return time.Hour
}

func untilMidnight(now time.Time) time.Duration {
	return time.Unix((dayOf(now)+1)*86400, 0).Sub(now)
}

// charge counts a claim's reservation.
func (u usage) charge(r *dedup.Reservation) {
	k := account{r.Tenant, r.Agent}
	s := u[k]
	if s == nil {
		s = &spent{calls: map[string]int64{}}
		u[k] = s
	}
	if b := &s.minutes[r.Minute%hourBuckets]; b.minute < r.Minute {
		*b = bucket{minute: r.Minute, calls: 1}
	} else if b.minute == r.Minute {
		b.calls++
	}
	if s.day < r.Day {
		s.day, s.spend = r.Day, 0
		clear(s.calls)
	}
	if s.day == r.Day {
		s.calls[r.Tool]++
		s.spend = saturate(s.spend, r.Cost)
	}
}

// refund gives back what a settlement says, in the minute and on the day that were charged, and nowhere else.
func (u usage) refund(r *dedup.Reservation, back dedup.Refund) {
	s := u.of(r.Tenant, r.Agent)
	if s == nil {
		return
	}
	if b := &s.minutes[r.Minute%hourBuckets]; back.Call && b.minute == r.Minute {
		b.calls--
	}
	if s.day != r.Day {
		return
	}
	s.spend -= back.Spend
	if back.Call {
		s.calls[r.Tool]--
	}
}

// undo takes back a charge that never became durable.
func (u usage) undo(r *dedup.Reservation) { u.refund(r, dedup.Refund{Call: true, Spend: r.Cost}) }

func saturate(a, b tool.Money) tool.Money {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// Usage is what an agent has used of its limits.
type Usage struct {
	HourCalls int64      // in the running hour
	DaySpend  tool.Money // on the running UTC day
	ToolCalls int64      // of the tool, on the running UTC day
}
