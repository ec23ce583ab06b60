package policy

import (
	"fmt"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Verdict is what one rule says of a call, for explain.
type Verdict struct {
	Rule    string // e.g. `blocked_tools: delete_*, refund_all`
	Verdict string // deny, allow or limit, and why
	Source  string // file or api
}

// Explain lists every rule of the policy in the order in which they are judged, with its verdict on a call of the
// tool. Caps are listed with their limits; how much of them is used only the store knows.
func (p *Policy) Explain(name string, t *tool.Tool, forceNew bool) []Verdict {
	if p == nil {
		return nil
	}
	var list []Verdict
	add := func(rule, verdict string) { list = append(list, Verdict{rule, verdict, p.Source()}) }
	if blocked := p.config.BlockedTools; len(blocked) > 0 {
		add("blocked_tools: "+strings.Join(blocked, ", "), listVerdict(blocked, name, "deny", "allow"))
	}
	if p.readOnly && t != nil {
		verdict := "allow: its effect is read"
		if t.Effect != tool.Read {
			verdict = "deny: its effect is " + t.Effect.String()
		}
		add("template: read_only", verdict)
	}
	if allowed := p.config.AllowedTools; len(allowed) > 0 {
		add("allowed_tools: "+strings.Join(allowed, ", "), listVerdict(allowed, name, "allow", "deny"))
	}
	if forceNew {
		verdict := "deny"
		if p.config.AllowForceNew {
			verdict = "allow"
		}
		add(fmt.Sprintf("allow_force_new: %t", p.config.AllowForceNew), verdict)
	}
	for _, over := range []string{"max_actions_per_hour_exceeded", "max_calls_per_tool_exceeded", "max_spend_usd_per_day_exceeded"} {
		if rule := p.Rule(over, name); rule != "" {
			add(rule, "limit")
		}
	}
	if price, ok := p.prices[name]; ok {
		add(fmt.Sprintf("pricing_rules: %s: %v", name, price), "price")
	}
	if p.shadow {
		add("mode: shadow", "lists and caps are judged and do not block")
	}
	return list
}

func listVerdict(patterns []string, name, hit, miss string) string {
	if pattern, ok := matching(patterns, name); ok {
		return hit + ": " + pattern
	}
	return miss + ": not in it"
}
