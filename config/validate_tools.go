package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// Rules are what this configuration permits to tools, those set through the api among them: credentials over http://
// only to loopback and where proxy.allow_private covers the host. A name that only DNS can tell about passes when there
// are such ranges, and is judged by its address when it is dialled.
func (c *Config) Rules() tool.Rules {
	var ranges []netip.Prefix
	for _, cidr := range c.Proxy.AllowPrivate {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			ranges = append(ranges, p)
		}
	}
	return tool.Rules{Plain: func(host string) bool {
		host = strings.Trim(host, "[]")
		if address := c.resolved(host); address != "" {
			host = address
		}
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return len(ranges) > 0
		}
		for _, p := range ranges {
			if p.Contains(ip.Unmap()) {
				return true
			}
		}
		return ip.IsLoopback()
	}}
}

// resolved is what proxy.resolve says of host.
func (c *Config) resolved(host string) string {
	for name, address := range c.Proxy.Resolve {
		if strings.EqualFold(name, host) {
			return address
		}
	}
	return ""
}

// Registered builds the tools of the file.
func (c *Config) Registered() ([]*tool.Tool, error) {
	var tools []*tool.Tool
	var problems []error
	for _, entry := range c.Tools {
		t, err := c.Rules().New(entry)
		if problems = append(problems, err); err == nil {
			tools = append(tools, t)
		}
	}
	return tools, errors.Join(problems...)
}

func (v *checker) tools() {
	var tools []*tool.Tool
	for i, entry := range v.Tools {
		t, err := v.Rules().New(entry)
		if err == nil {
			tools = append(tools, t)
			v.warn(fmt.Sprintf("tools[%d]", i), t)
		}
		v.entry(fmt.Sprintf("tools[%d]", i), err)
	}
	_, err := tool.NewRegistry(tools)
	for _, e := range unjoin(err) {
		v.entry(v.toolKey(e), e)
	}
}

// warn passes on what is odd about a tool.
func (v *checker) warn(key string, t *tool.Tool) {
	for _, w := range t.Warnings() {
		v.odd(key+"."+w.Field, w.Problem, "")
	}
}

// toolKey finds the entry that an error of the registry speaks of: the last one of that name, since the earlier ones
// were there before it.
func (v *checker) toolKey(err error) string {
	key := "tools"
	if f, ok := errors.AsType[*tool.FieldError](err); ok {
		for i, entry := range v.Tools {
			if "tool "+entry.Name == f.Entry {
				key = fmt.Sprintf("tools[%d]", i)
			}
		}
	}
	return key
}

func (v *checker) policies() {
	for i, entry := range v.Policies {
		_, err := policy.New([]policy.Config{entry})
		v.entry(fmt.Sprintf("policies[%d]", i), err)
		v.named(fmt.Sprintf("policies[%d]", i), entry)
	}
	first := map[string]int{}
	for i, entry := range v.Policies {
		if j, twice := first[entry.AgentID]; twice {
			v.bad(fmt.Sprintf("policies[%d].agent_id", i), fmt.Sprintf("%q has a policy already: policies[%d]", entry.AgentID, j), "make one of the two")
			continue
		}
		first[entry.AgentID] = i
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

// entry reports what is wrong with one entry of a list, each at the place of its field.
func (v *checker) entry(key string, err error) {
	for _, e := range unjoin(err) {
		if f, ok := errors.AsType[*tool.FieldError](e); ok {
			v.bad(key+"."+f.Field, f.Problem, "")
			continue
		}
		v.bad(key, e.Error(), "")
	}
}

// unjoin lists the errors that were joined.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, unjoin(e)...)
		}
		return all
	}
	return []error{err}
}
