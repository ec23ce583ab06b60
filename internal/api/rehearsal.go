package api

import (
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Spent is what an agent has used of its limits: in the last 60 minutes, and on this UTC day.
type Spent struct {
	HourCalls int64
	ToolCalls int64 // of one tool, today
	Spend     tool.Money
}

// rehearse says what would become of an action, as far as nothing needs to be claimed: that an equal call was made
// before, and would be replayed for nothing, is not seen.
func (p *performance) rehearse(c *govern.Request) *toolAnswer {
	e := p.explain(c)
	reason := ""
	if e.Refusal != nil {
		reason = e.Refusal.Code
	} else if e.Tool != nil {
		reason = p.overspends(c, &e)
	}
	if reason != "" {
		return &toolAnswer{Decision: string(govern.Blocked), PolicyReason: reason}
	}
	return &toolAnswer{OK: true, Allowed: true, Decision: string(govern.Executed), PolicyReason: "ok"}
}

// overspends says which limit the action would pass after those that were rehearsed before it; "" when none, and it is
// then counted with them.
func (p *performance) overspends(c *govern.Request, e *govern.Explanation) string {
	var now Spent
	if p.s.Spent != nil {
		now = p.s.Spent(c.Tenant, c.Agent, e.Tool.Name)
	}
	now.HourCalls += p.dry.HourCalls
	now.ToolCalls += p.tool[e.Tool.Name]
	now.Spend += p.dry.Spend
	held := p.s.Governor.Snapshot().Policies.For(c.Agent)
	if over := now.over(held.Limits(e.Tool.Name), e.Cost); over != "" && !held.Shadow() {
		return string(over)
	}
	if p.tool == nil {
		p.tool = map[string]int64{}
	}
	p.dry.HourCalls++
	p.dry.Spend += e.Cost
	p.tool[e.Tool.Name]++
	return ""
}

// over is the limit that one more call of that cost would pass, in the order in which a claim asks; "" when none.
func (s Spent) over(l tool.Limits, cost tool.Money) dedup.Limit {
	switch {
	case l.ActionsPerHour != nil && s.HourCalls >= *l.ActionsPerHour:
		return dedup.ActionsPerHour
	case l.CallsPerDay != nil && s.ToolCalls >= *l.CallsPerDay:
		return dedup.CallsPerDay
	case l.SpendPerDay != nil && cost > 0 && (s.Spend > *l.SpendPerDay || cost > *l.SpendPerDay-s.Spend):
		return dedup.SpendPerDay
	}
	return ""
}
