package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Everyone is the agent id of the policy for agents without one of their own.
const Everyone = "*"

// Set is an immutable set of policies, at most one for each agent.
type Set struct{ policies map[string]*Policy }

// Policy is what one agent may do. It is immutable. A nil Policy allows everything but repeats on purpose, without caps.
type Policy struct {
	config   Config // expanded
	shadow   bool
	readOnly bool
	calls    map[string]*int64
	prices   map[string]tool.Money
}

// New builds the set from the configuration's entries and those of the api, of which each says its source, or says all
// that is wrong with them: a join of *tool.FieldError. Two entries for one agent are refused: which of file and api is
// newer is decided before.
func New(configs []Config) (*Set, error) {
	s := &Set{policies: make(map[string]*Policy, len(configs))}
	var problems []error
	for _, c := range configs {
		p, err := newPolicy(c)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if s.policies[c.AgentID] != nil {
			problems = append(problems, bad(c, "agent_id", "has two policies; merge them into one"))
		}
		s.policies[c.AgentID] = p
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return s, nil
}

// For is the agent's policy: its own, else that for everyone, else nil. A nil Set has none.
func (s *Set) For(agent string) *Policy {
	if s == nil {
		return nil
	}
	if p := s.policies[agent]; p != nil && agent != Everyone {
		return p
	}
	return s.policies[Everyone]
}

// All lists the policies by agent id.
func (s *Set) All() []*Policy {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.policies), func(a, b *Policy) int {
		return strings.Compare(a.config.AgentID, b.config.AgentID)
	})
}

func bad(c Config, field, format string, args ...any) error {
	id := c.AgentID
	if id == "" {
		id = "(without an agent_id)"
	}
	return &tool.FieldError{Entry: "policy " + id, Field: field, Problem: fmt.Sprintf(format, args...)}
}

func newPolicy(c Config) (*Policy, error) {
	if c.Source == "" {
		c.Source = "file"
	}
	full := c.Expand()
	if err := errors.Join(append(checkWords(c), checkFields(full)...)...); err != nil {
		return nil, err
	}
	p := &Policy{config: full, shadow: c.Mode == "shadow", readOnly: c.Template == readOnly}
	p.calls = make(map[string]*int64, len(full.MaxCallsPerTool))
	for name, n := range full.MaxCallsPerTool {
		p.calls[name] = &n
	}
	p.prices = make(map[string]tool.Money, len(full.PricingRules))
	for _, r := range full.PricingRules {
		p.prices[r.Tool] = r.PriceUSD
	}
	return p, nil
}

func checkWords(c Config) (problems []error) {
	if c.AgentID == "" {
		problems = append(problems, bad(c, "agent_id", `is missing; write the agent's id, or "*" for agents without a policy`))
	}
	if strings.ContainsFunc(c.AgentID, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		problems = append(problems, bad(c, "agent_id", "holds a control character; remove it"))
	}
	if _, ok := templates[c.Template]; !ok && c.Template != "" {
		problems = append(problems, bad(c, "template", "%q is not known; write one of %s", c.Template, strings.Join(Templates(), ", ")))
	}
	if c.Mode != "" && c.Mode != "enforce" && c.Mode != "shadow" {
		problems = append(problems, bad(c, "mode", "%q is not known; write enforce or shadow", c.Mode))
	}
	if c.Anomaly != "" && c.Anomaly != "observe" && c.Anomaly != "disable" {
		problems = append(problems, bad(c, "anomaly", "%q is not known; write observe or disable", c.Anomaly))
	}
	return problems
}

func checkFields(c Config) (problems []error) {
	if c.MaxActionsPerHour != nil && *c.MaxActionsPerHour < 0 {
		problems = append(problems, bad(c, "max_actions_per_hour", "%d is negative; 0 lets none pass, leaving it out sets no limit", *c.MaxActionsPerHour))
	}
	if m := c.MaxSpendUSDPerDay; m != nil && (*m < 0 || *m > tool.MaxMoney) {
		problems = append(problems, bad(c, "max_spend_usd_per_day", "%v is out of range; 0 lets no paid call pass, leaving it out sets no limit", *m))
	}
	problems = append(problems, checkPatterns(c, "allowed_tools", c.AllowedTools)...)
	problems = append(problems, checkPatterns(c, "blocked_tools", c.BlockedTools)...)
	for _, name := range slices.Sorted(maps.Keys(c.MaxCallsPerTool)) {
		if n := c.MaxCallsPerTool[name]; n < 0 {
			problems = append(problems, bad(c, "max_calls_per_tool."+name, "%d is negative; 0 lets none pass", n))
		}
		if !isName(name) {
			problems = append(problems, bad(c, "max_calls_per_tool", "%q is no tool name; name one tool in full", name))
		}
	}
	for _, r := range c.PricingRules {
		if !isName(r.Tool) {
			problems = append(problems, bad(c, "pricing_rules", "%q is no tool name; name one tool in full", r.Tool))
		}
		if r.PriceUSD < 0 || r.PriceUSD > tool.MaxMoney {
			problems = append(problems, bad(c, "pricing_rules", "the price of %s is out of range; 0 to %v", r.Tool, tool.MaxMoney))
		}
	}
	return problems
}

func checkPatterns(c Config, field string, patterns []string) (problems []error) {
	for _, p := range patterns {
		if name := strings.TrimSuffix(p, "*"); p != "*" && !isName(name) {
			problems = append(problems, bad(c, field, "%q is no tool name; a * may only end it, such as delete_*", p))
		}
	}
	return problems
}

// isName accepts the names of tools and those of calls that no tool names, such as POST:[::1]:8443.
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '*' })
}
