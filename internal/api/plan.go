package api

import "time"

// terms is what a plan grants.
type terms struct {
	usual, most time.Duration // of a lock or lease that names no time, and at most
	locks       int64         // duplicates blocked, per month
	leases      int64         // leases acquired, per month
}

const day = 24 * time.Hour

// plans are those of the hosted service. A key names none unless its configuration does, and then has agency's terms;
// unlimited has no quotas.
var plans = map[string]terms{
	"free":      {time.Minute, time.Hour, 1_000, 3_000},
	"starter":   {time.Hour, day, 20_000, 100_000},
	"pro":       {6 * time.Hour, 7 * day, 200_000, 1_000_000},
	"agency":    {day, 30 * day, 2_000_000, 10_000_000},
	"unlimited": {day, 30 * day, 0, 0},
}

// leastTTL is the shortest time for which a lock or lease is given.
const leastTTL = 10 * time.Second

// terms are those of the key's plan.
func (k *Key) terms() terms {
	if t, ok := plans[k.Plan]; ok {
		return t
	}
	return plans["agency"]
}

// ttl is the time that a key gets who asks for so many seconds; 0 asks for the usual. It is clamped, never refused.
func (k *Key) ttl(seconds int64) time.Duration {
	t := k.terms()
	if seconds == 0 {
		return t.usual
	}
	return min(max(time.Duration(seconds)*time.Second, leastTTL), t.most)
}

// speaksFor says whether the key may act as the agent.
func (k *Key) speaksFor(agent string) bool { return k.Role != Agent || k.AgentID == agent }
