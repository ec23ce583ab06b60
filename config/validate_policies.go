package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/policy"
)

func (v *checker) policies() {
	for i, entry := range v.Policies {
		at := fmt.Sprintf("policies[%d]", i)
		_, err := policy.New([]policy.Config{entry})
		v.entry(at, err)
		v.named(at, entry)
		v.prices(at, entry)
		v.lists(at, entry)
	}
	first := map[string]int{}
	for i, entry := range v.Policies {
		if j, twice := first[entry.AgentID]; twice {
			v.bad(fmt.Sprintf("policies[%d].agent_id", i), fmt.Sprintf("%q has a policy already: policies[%d]", entry.AgentID, j), "make one of the two")
			continue
		}
		first[entry.AgentID] = i
	}
	v.strangers()
}

// prices judges pricing_rules: one without a price would make a call no dearer, and of two only the last would hold.
func (v *checker) prices(key string, p policy.Config) {
	first := map[string]int{}
	for i, r := range p.PricingRules {
		at := fmt.Sprintf("%s.pricing_rules[%d]", key, i)
		switch {
		case !v.said(at + ".price_usd"):
			v.bad(at+".price_usd", "is missing", `write what one call costs, such as "0.001"`)
		case r.PriceUSD == 0:
			v.odd(at+".price_usd", "0 changes nothing: a call costs at least the tool's own price", "remove the rule, or write a price")
		}
		if j, twice := first[r.Tool]; twice {
			v.bad(at+".tool", fmt.Sprintf("%q has a price already: %s.pricing_rules[%d]", r.Tool, key, j), "keep one of the two")
			continue
		}
		first[r.Tool] = i
	}
}

// lists warns of entries that can never speak.
func (v *checker) lists(key string, p policy.Config) {
	v.twice(key+".allowed_tools", p.AllowedTools)
	v.twice(key+".blocked_tools", p.BlockedTools)
	for i, allowed := range p.AllowedTools {
		for _, blocked := range p.BlockedTools {
			if covers(blocked, allowed) {
				v.odd(fmt.Sprintf("%s.allowed_tools[%d]", key, i), fmt.Sprintf("%q permits nothing: blocked_tools has %q, which wins", allowed, blocked), "remove one of the two")
				break
			}
		}
	}
}

// covers says whether a pattern matches all that another one does.
func covers(pattern, other string) bool {
	prefix, star := strings.CutSuffix(pattern, "*")
	return pattern == other || star && strings.HasPrefix(other, prefix)
}

func (v *checker) twice(key string, list []string) {
	for i, entry := range list {
		if slices.Contains(list[:i], entry) {
			v.odd(fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("%q stands there twice", entry), "remove one")
		}
	}
}

// named warns of rules about tools that are not registered: a misspelt one protects nothing. Tools may be registered
// through the api later, and unregistered calls have names like POST:host, so it is no error.
func (v *checker) named(key string, p policy.Config) {
	var names []string
	for _, t := range v.Tools {
		names = append(names, t.Name)
	}
	odd := func(field, name string) {
		if strings.HasSuffix(name, "*") || strings.Contains(name, ":") || slices.Contains(names, name) {
			return
		}
		v.odd(key+"."+field, fmt.Sprintf("no tool %q is registered", name), didYouMean(name, names))
	}
	for i, name := range p.AllowedTools {
		odd(fmt.Sprintf("allowed_tools[%d]", i), name)
	}
	for i, name := range p.BlockedTools {
		odd(fmt.Sprintf("blocked_tools[%d]", i), name)
	}
	for _, name := range slices.Sorted(maps.Keys(p.MaxCallsPerTool)) {
		odd("max_calls_per_tool."+name, name)
	}
	for i, r := range p.PricingRules {
		odd(fmt.Sprintf("pricing_rules[%d].tool", i), r.Tool)
	}
}

// strangers warns of policies and tools of an agent whose id is nearly, but not quite, one that this sidecar knows: a
// misspelt one binds nobody. Other ids may be those of sidecars that share the file, or come through the api.
func (v *checker) strangers() {
	known := append(slices.Sorted(maps.Keys(v.Agent.ProxyUsers)), v.Agent.ID)
	for _, k := range v.API.Keys {
		if k.AgentID != "" {
			known = append(known, k.AgentID)
		}
	}
	odd := func(key, id string) {
		if near, distance := nearest(id, known); id != "" && distance > 0 && distance <= min(2, len(near)/4) {
			v.odd(key, fmt.Sprintf("no agent %q is known here", id), "did you mean "+near+"?")
		}
	}
	for i, p := range v.Policies {
		if p.AgentID != policy.Everyone {
			odd(fmt.Sprintf("policies[%d].agent_id", i), p.AgentID)
		}
	}
	for i, t := range v.Tools {
		if id, ok := strings.CutPrefix(t.Scope, "agent:"); ok {
			odd(fmt.Sprintf("tools[%d].scope", i), id)
		}
	}
}
