package audit

import "time"

// How an agent's refusals share records. What an agent can have written of refusals is one record in ten seconds
// if it loops, fewer than two a second if it does not, and one a minute where space is short.
const (
	sharedAbove = 100 // refusals of one second; what comes above shares one record
	window      = time.Second

	budgetSize  = 1000             // refusals in a row of which each has a record of its own
	budgetFill  = 10 * time.Minute // in which an empty budget is full again
	longWindow  = 10 * time.Second // of a shared record once the budget is used up
	shortWindow = time.Minute      // of a shared record while space is short

	maxAgents = 4096 // whose refusals are remembered; more are told by the name of one that was quiet
)

// refusals is what one agent was refused lately.
type refusals struct {
	second time.Time // when the current second of refusals began
	count  int       // in it
	budget budget
	shared *Record   // nil unless refusals wait in one record
	until  time.Time // when shared is written
}

// due returns the shared record if its window is over, and forgets it.
func (a *refusals) due(now time.Time) *Record {
	if a.shared == nil || now.Before(a.until) {
		return nil
	}
	r := a.shared
	a.shared = nil
	return r
}

// share says whether a refusal of now goes into a shared record, and begins one if it must. What waits and is due has
// been taken before.
func (a *refusals) share(now time.Time, scarce bool) bool {
	if now.Sub(a.second) >= window || now.Before(a.second) {
		a.second, a.count = now, 0
	}
	a.count++
	within := a.budget.take(now)
	switch {
	case a.shared != nil:
		return true
	case scarce:
		a.until = now.Add(shortWindow)
	case !within:
		a.until = now.Add(longWindow)
	case a.count > sharedAbove:
		a.until = a.second.Add(window)
	default:
		return false
	}
	return true
}

// idle says that nothing would be lost if the agent were forgotten.
func (a *refusals) idle(now time.Time) bool {
	return a.shared == nil && now.Sub(a.second) >= window && a.budget.full(now)
}

// budget is a token bucket of budgetSize that is full at first. Once used up it gives nothing until a tenth has come back,
// and every refusal takes from it, so an agent that keeps looping gets nothing.
type budget struct {
	used  float64
	at    time.Time // of used
	spent bool
}

func (b *budget) settle(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.used = max(0, b.used-d.Seconds()*budgetSize/budgetFill.Seconds())
	}
	b.at = now
}

// take takes one if there is one.
func (b *budget) take(now time.Time) bool {
	b.settle(now)
	if b.used > budgetSize-1 {
		b.spent = true
		return false
	}
	b.spent = b.spent && b.used > budgetSize-budgetSize/10
	b.used++
	return !b.spent
}

func (b *budget) full(now time.Time) bool {
	b.settle(now)
	return b.used == 0
}

// merge adds a refusal to a shared record: what all have in common stays, what differs goes, the first one's time and
// request id stand for all.
func merge(shared, r *Record) *Record {
	if shared == nil {
		first := *r
		first.Count = 1
		return &first
	}
	keep(&shared.Tool, r.Tool, "")
	keep(&shared.PolicyReason, r.PolicyReason, "several")
	keep(&shared.RiskLevel, r.RiskLevel, "high")
	for _, m := range [...][2]*string{
		{&shared.ArgsHash, &r.ArgsHash}, {&shared.Key, &r.Key}, {&shared.RunID, &r.RunID}, {&shared.Tenant, &r.Tenant},
		{&shared.Route, &r.Route}, {&shared.Method, &r.Method}, {&shared.Host, &r.Host}, {&shared.Rule, &r.Rule},
		{&shared.Detail, &r.Detail}, {&shared.ForceNew, &r.ForceNew},
	} {
		keep(m[0], *m[1], "")
	}
	shared.Count++
	return shared
}

func keep(shared *string, other, otherwise string) {
	if *shared != other {
		*shared = otherwise
	}
}
