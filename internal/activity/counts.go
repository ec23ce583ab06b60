package activity

import (
	"encoding/json"
	"time"
)

// Counts are how often something happened.
type Counts struct {
	Locked      int64 `json:"locked,omitempty"`
	Duplicates  int64 `json:"duplicates,omitempty"`
	LocksOver   int64 `json:"locks_over,omitempty"` // refused: the plan's month is used up
	RateLimited int64 `json:"rate_limited,omitempty"`
	Acquired    int64 `json:"acquired,omitempty"`
	Polled      int64 `json:"polled,omitempty"`
	LeasesOver  int64 `json:"leases_over,omitempty"`
	Completed   int64 `json:"completed,omitempty"`
	Failed      int64 `json:"failed,omitempty"`
	Calls       int64 `json:"calls,omitempty"` // tool calls that were executed
}

// Checks is how often a lock was asked for.
func (c *Counts) Checks() int64 { return c.Locked + c.Duplicates + c.LocksOver }

// Leases is how often a lease or a job was asked for.
func (c *Counts) Leases() int64 { return c.Acquired + c.Polled + c.LeasesOver }

func (c *Counts) add(o *Counts) {
	c.Locked += o.Locked
	c.Duplicates += o.Duplicates
	c.LocksOver += o.LocksOver
	c.RateLimited += o.RateLimited
	c.Acquired += o.Acquired
	c.Polled += o.Polled
	c.LeasesOver += o.LeasesOver
	c.Completed += o.Completed
	c.Failed += o.Failed
	c.Calls += o.Calls
}

// counted is what one event of a type adds.
func counted(kind string) (c Counts) {
	switch kind {
	case "locked":
		c.Locked = 1
	case "duplicate":
		c.Duplicates = 1
	case "over_limit":
		c.LocksOver = 1
	case "rate_limited":
		c.RateLimited = 1
	case "ai_acquired":
		c.Acquired = 1
	case "ai_in_progress", "ai_finished":
		c.Polled = 1
	case "ai_over_limit":
		c.LeasesOver = 1
	case "ai_completed":
		c.Completed = 1
	case "ai_failed":
		c.Failed = 1
	}
	return c
}

// Day is a time's UTC day, as YYYY-MM-DD.
func Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// count adds to the day and to all days. The caller holds mu.
func (b *Book) count(tenant, agent string, at time.Time, more Counts) {
	if more == (Counts{}) {
		return
	}
	for _, d := range []day{{tenant, agent, Day(at)}, {tenant, agent, ""}} {
		c := b.counts[d]
		if c == nil {
			c = new(Counts)
			b.counts[d] = c
			b.forget(at)
		}
		c.add(&more)
		b.dirty[d] = true
	}
	if b.timer == nil {
		b.timer = time.AfterFunc(flushAfter, b.Flush)
	}
}

// forget drops days that are too old. The caller holds mu.
func (b *Book) forget(now time.Time) {
	first := Day(now.AddDate(0, 0, -daysKept))
	for d := range b.counts {
		if d.Day != "" && d.Day < first {
			delete(b.counts, d)
			delete(b.dirty, d)
		}
	}
}

// Sum is what the agent's key counted on the days that begin so: YYYY-MM for a month, nothing for all days there ever
// were. An empty agent stands for all of the tenant.
func (b *Book) Sum(tenant, agent, days string) (sum Counts) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, c := range b.counts {
		within := d.Day == "" && days == "" || days != "" && len(d.Day) >= len(days) && d.Day[:len(days)] == days
		if d.Tenant == tenant && (agent == "" || d.Agent == agent) && within {
			sum.add(c)
		}
	}
	return sum
}

// Event is one line of the event list, in the words of the OnceOnly API.
type Event struct {
	Tenant string `json:"tenant,omitempty"`
	Owner  string `json:"owner,omitempty"` // agent whose key asked; empty for an operator's

	TS         int64       `json:"ts"` // Unix, seconds
	Type       string      `json:"type"`
	ReqID      string      `json:"req_id,omitempty"`
	Key        string      `json:"key,omitempty"`
	FirstSeen  string      `json:"first_seen_at,omitempty"`
	Plan       string      `json:"plan,omitempty"`
	Usage      *int64      `json:"usage,omitempty"`
	Limit      *int64      `json:"limit,omitempty"`
	Charged    int         `json:"charged"`
	Version    uint64      `json:"version,omitempty"`
	LeaseID    string      `json:"lease_id,omitempty"`
	Done       string      `json:"done_at,omitempty"`
	ResultHash string      `json:"result_hash,omitempty"`
	ErrorCode  string      `json:"error_code,omitempty"`
	AgentID    string      `json:"agent_id,omitempty"`
	Tool       string      `json:"tool,omitempty"`
	RunID      string      `json:"run_id,omitempty"`
	Reason     string      `json:"policy_reason,omitempty"`
	Risk       string      `json:"risk_level,omitempty"`
	SpendUSD   json.Number `json:"spend_usd,omitempty"`
}

// Add counts an event and lists it. Repeats, of which there may be any number, are not written one by one.
func (b *Book) Add(e Event, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(e.Tenant, e.Owner, at, counted(e.Type))
	switch e.Type {
	case "rate_limited", "ai_finished":
		return
	case "duplicate", "ai_in_progress", "over_limit", "ai_over_limit":
	default:
		b.note(fact{Event: &e}, at)
	}
	b.keepEvent(e)
}

func (b *Book) keepEvent(e Event) {
	if len(b.events) < maxEvents {
		b.events = append(b.events, e)
		return
	}
	b.events[b.oldest] = e
	b.oldest = (b.oldest + 1) % maxEvents
}

// Events are the newest of the tenant, newest first; with an agent, those of its key.
func (b *Book) Events(tenant, agent string, limit int) (list []Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.events) - 1; i >= 0 && len(list) < limit; i-- {
		e := b.events[(b.oldest+i)%len(b.events)]
		if e.Tenant == tenant && (agent == "" || e.Owner == agent) {
			list = append(list, e)
		}
	}
	return list
}
