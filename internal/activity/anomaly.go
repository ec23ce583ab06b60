package activity

import (
	"fmt"
	"time"
)

// The thresholds of the rules. The README, "Anomalies", tells them to operators.
const (
	burstSize   = 20
	burstWithin = time.Minute
	spendTimes  = 5         // what the running hour is of the mean of the past ones
	spendLeast  = 1_000_000 // micro-USD in the running hour; below it nothing is far above anything
	spendHours  = 6         // past hours with spending that must be known
	tellAgain   = 10 * time.Minute
)

// The rules, by the names under which they are told.
const (
	IdenticalRefusals = "identical_refusals"
	SpendRate         = "spend_rate"
	FirstSensitiveUse = "first_sensitive_use"
)

// Deed is what the rules look at of one request: an executed call, or one that was refused.
type Deed struct {
	Tenant, Agent, Tool string
	Refused             string // the reason; empty: the call was executed
	Args                string // the hash of its arguments; empty where they were not read
	Spend               int64  // micro-USD that it was charged
	Sensitive           bool   // the registry says so of the tool
}

// Anomaly is one rule that spoke.
type Anomaly struct {
	Rule   string
	Detail string // with the figures, for people
	Again  bool   // it lasts, and was told less than tellAgain ago
}

// judge applies the rules to a deed that the habit already holds.
func (h *habit) judge(d *Deed, firstUse bool, now time.Time) (found []Anomaly) {
	if d.Refused != "" {
		if n, span, ok := h.burst(d, now); ok {
			detail := fmt.Sprintf("%d refusals of %s (%s) within %d s", n, named(d.Tool), d.Refused, int(span.Round(time.Second).Seconds()))
			found = append(found, h.told(IdenticalRefusals, detail, now))
		}
		return found
	}
	if running, mean, n, ok := h.overspent(now); ok && d.Spend > 0 {
		detail := fmt.Sprintf("%s spent since the hour began; its %d earlier hours with spending in 7 days averaged %s", dollars(running), n, dollars(mean))
		found = append(found, h.told(SpendRate, detail, now))
	}
	if firstUse {
		found = append(found, Anomaly{Rule: FirstSensitiveUse, Detail: "first call of " + named(d.Tool) + ", a sensitive tool, by this agent"})
	}
	return found
}

// burst says whether the refusal of the deed is the last of burstSize identical ones within burstWithin.
func (h *habit) burst(d *Deed, now time.Time) (n int, span time.Duration, ok bool) {
	r := h.refusal(d, now)
	r.at[r.next], r.next = now, (r.next+1)%burstSize
	first := r.at[r.next] // the oldest of the last burstSize
	if first.IsZero() || now.Sub(first) > burstWithin {
		return 0, 0, false
	}
	return burstSize, now.Sub(first), true
}

// overspent says whether the running hour's spending is far above the agent's own past: more than spendTimes the mean
// of its hours with spending, of which spendHours must be known.
func (h *habit) overspent(at time.Time) (running, mean int64, hours int, ok bool) {
	hour := hourOf(at)
	running = h.hours[hour]
	var sum int64
	for of, spent := range h.hours {
		if of < hour && of >= hour-hoursKept && spent > 0 {
			sum += spent
			hours++
		}
	}
	if hours < spendHours || running < spendLeast || h.pardoned == hour {
		return running, 0, hours, false
	}
	mean = sum / int64(hours)
	return running, mean, hours, running > spendTimes*mean
}

// told is an anomaly, marked when it is not to be told again yet.
func (h *habit) told(rule, detail string, now time.Time) Anomaly {
	a := Anomaly{Rule: rule, Detail: detail}
	if last, ok := h.tellings[rule]; ok && now.Sub(last) < tellAgain {
		a.Again = true
		return a
	}
	h.tellings[rule] = now
	return a
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

// dollars is an amount as people write it, to the cent.
func dollars(micro int64) string {
	return fmt.Sprintf("$%d.%02d", micro/1_000_000, micro%1_000_000/10_000)
}

// named cuts a name that a caller chose, and has people see that one is missing.
func named(tool string) string {
	const most = 128
	if tool == "" {
		return "calls without a tool"
	}
	return tool[:min(len(tool), most)]
}
