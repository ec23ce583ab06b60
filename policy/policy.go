package policy

import (
	"fmt"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Decide judges a call by the lists and, when it is a repeat on purpose, by allow_force_new. T is nil when no tool of
// that name is registered: the lists speak all the same, the rest is left to the caller's tool_not_registered.
// The lists of a shadow policy are judged and reported in Decision.Shadow, and do not block; a repeat on purpose is
// refused in shadow mode too. The risk is that of a call at its registered price: see Risk.
func (p *Policy) Decide(name string, t *tool.Tool, forceNew bool) Decision {
	d := p.lists(name, t)
	if p.Shadow() && !d.Allow {
		d.Allow, d.Shadow, d.Reason = true, d.Reason, OK
	}
	if d.Allow && forceNew && t != nil && !p.allowsForceNew() {
		d.Allow, d.Reason, d.Rule, d.Source = false, ForceNewDenied, "allow_force_new: false", p.Source()
	}
	d.Risk = p.Risk(name, t, d.Reason, p.Cost(t, name, 0), forceNew)
	return d
}

// lists says what an enforced policy says of the name: block wins over allow.
func (p *Policy) lists(name string, t *tool.Tool) Decision {
	if p == nil {
		return Decision{Allow: true, Reason: OK}
	}
	if rule, ok := matching(p.config.BlockedTools, name); ok {
		return p.deny(Blocked, "blocked_tools: "+rule)
	}
	if p.readOnly && t != nil && t.Effect != tool.Read {
		return p.deny(Blocked, "template read_only: effect "+t.Effect.String())
	}
	if len(p.config.AllowedTools) == 0 {
		return Decision{Allow: true, Reason: OK}
	}
	rule, ok := matching(p.config.AllowedTools, name)
	if !ok {
		return p.deny(NotAllowed, "allowed_tools")
	}
	return Decision{Allow: true, Reason: OK, Rule: "allowed_tools: " + rule, Source: p.Source()}
}

func (p *Policy) deny(r Reason, rule string) Decision {
	return Decision{Reason: r, Rule: rule, Source: p.Source()}
}

// matching is the first entry that is the name, or a prefix of it followed by a star.
func matching(patterns []string, name string) (string, bool) {
	for _, pattern := range patterns {
		prefix, star := strings.CutSuffix(pattern, "*")
		if pattern == name || star && strings.HasPrefix(name, prefix) {
			return pattern, true
		}
	}
	return "", false
}

func (p *Policy) allowsForceNew() bool { return p != nil && p.config.AllowForceNew }

// Shadow says whether lists and caps are judged without blocking.
func (p *Policy) Shadow() bool { return p != nil && p.shadow }

// Source is file or api, or empty where there is no policy.
func (p *Policy) Source() string {
	if p == nil {
		return ""
	}
	return p.config.Source
}

// AgentID is whose policy it is; "*" for agents without one of their own.
func (p *Policy) AgentID() string {
	if p == nil {
		return ""
	}
	return p.config.AgentID
}

// Config is the policy as it holds, its template's fields filled in. The lists are the policy's own.
func (p *Policy) Config() Config {
	if p == nil {
		return Config{}
	}
	return p.config
}

// Cost is what a call is charged: the largest of the policy's price rule (the last one wins), the tool's own price and
// what the caller declares. T may be nil.
func (p *Policy) Cost(t *tool.Tool, name string, declared tool.Money) tool.Money {
	cost := max(declared, 0)
	if t != nil {
		cost = max(cost, t.Price)
	}
	if p != nil {
		cost = max(cost, p.prices[name])
	}
	return cost
}

// Limits are the caps that bind a call of the tool, also those of a shadow policy.
func (p *Policy) Limits(name string) tool.Limits {
	if p == nil {
		return tool.Limits{}
	}
	return tool.Limits{
		ActionsPerHour: p.config.MaxActionsPerHour,
		CallsPerDay:    p.calls[name],
		SpendPerDay:    p.config.MaxSpendUSDPerDay,
	}
}

// Rule is the text of the cap behind a reason such as max_calls_per_tool_exceeded, for audit and explain; empty when
// the policy has none.
func (p *Policy) Rule(over, name string) string {
	l := p.Limits(name)
	switch {
	case over == "max_actions_per_hour_exceeded" && l.ActionsPerHour != nil:
		return fmt.Sprintf("max_actions_per_hour: %d", *l.ActionsPerHour)
	case over == "max_calls_per_tool_exceeded" && l.CallsPerDay != nil:
		return fmt.Sprintf("max_calls_per_tool: %s: %d", name, *l.CallsPerDay)
	case over == "max_spend_usd_per_day_exceeded" && l.SpendPerDay != nil:
		return fmt.Sprintf("max_spend_usd_per_day: %v", *l.SpendPerDay)
	}
	return ""
}
