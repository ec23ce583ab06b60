package tool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Registry is an immutable set of tools: which one a request is for.
type Registry struct {
	tools    []*Tool              // by name, then scope
	names    map[string]*named    // by tool name
	hosts    map[string]*hostTree // by authority
	upgrades map[string]*hostTree // of https hosts, by the authority that http://host/… names
	hostList []string
}

// named are the tools of one name.
type named struct {
	global *Tool
	agents map[string]*Tool // by agent id
}

// Param is what a {name} of a pattern matched, as it stood on the wire.
type Param struct{ Name, Value string }

// Matched is the tool a forwarded request is for.
type Matched struct {
	Tool   *Tool
	Params []Param // in order; nil for a pattern without any
	Target Target  // where it goes: as asked, or over https when http://host/… named a tool of https://host/…
}

// NewRegistry builds the registry, or says all that is wrong with the tools taken together: two of one name and scope,
// two matches of which neither is more specific, one secret on tools that are not all envelope.
func NewRegistry(tools []*Tool) (*Registry, error) {
	r := &Registry{
		tools:    slices.Clone(tools),
		names:    make(map[string]*named),
		hosts:    make(map[string]*hostTree),
		upgrades: make(map[string]*hostTree),
	}
	slices.SortStableFunc(r.tools, func(a, b *Tool) int {
		return cmpOr(strings.Compare(a.Name, b.Name), strings.Compare(a.Scope, b.Scope))
	})
	var problems []error
	for _, t := range r.tools {
		problems = append(problems, r.addName(t))
		r.host(t.Target.Scheme, t.Target.Authority)
		for i := range t.Matches {
			problems = append(problems, r.addMatch(t, &t.Matches[i]))
		}
	}
	problems = append(problems, sharedSecrets(r.tools)...)
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	for authority := range r.hosts {
		r.hostList = append(r.hostList, hostOf(authority))
	}
	slices.Sort(r.hostList)
	r.hostList = slices.Compact(r.hostList)
	return r, nil
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func (r *Registry) addName(t *Tool) error {
	n := r.names[t.Name]
	if n == nil {
		n = &named{agents: make(map[string]*Tool)}
		r.names[t.Name] = n
	}
	id, scoped := strings.CutPrefix(t.Scope, "agent:")
	if scoped && n.agents[id] != nil || !scoped && n.global != nil {
		return &FieldError{"tool " + t.Name, "name", fmt.Sprintf("stands there twice with scope %s; rename one or give it another scope", t.Scope)}
	}
	if scoped {
		n.agents[id] = t
	} else {
		n.global = t
	}
	return nil
}

// host is the tree of an authority, made when it is new.
func (r *Registry) host(scheme, authority string) *hostTree {
	h := r.hosts[authority]
	if h == nil {
		h = &hostTree{authority: authority}
		r.hosts[authority] = h
	}
	if scheme == "https" {
		h.https = true
		for _, plain := range plainOf(authority) {
			r.upgrades[plain] = h
		}
	}
	return h
}

// plainOf are the authorities by which an http URL means this https one: port 80 stands for 443, another port for itself.
func plainOf(authority string) []string {
	host, port := hostOf(authority), authority[strings.LastIndexByte(authority, ':')+1:]
	switch port {
	case "443":
		return []string{host + ":80", authority}
	case "80":
		return nil
	}
	return []string{authority}
}

func (r *Registry) addMatch(t *Tool, m *Match) error {
	e := newEntry(t, m)
	other, method := r.host(m.Scheme, m.Authority).add(e)
	if other != nil {
		return &FieldError{"tool " + t.Name, "match", fmt.Sprintf("%s %s is matched as well by tool %s (%s), and neither is more specific; change one",
			method, m, other.tool.Name, other.match)}
	}
	return nil
}

// String is the pattern as a URL.
func (m *Match) String() string {
	return m.Scheme + "://" + m.Authority + "/" + strings.Join(m.Segments, "/")
}

// sharedSecrets finds one secret on several tools: with an as_is body an agent could have one of them sign what the
// other would take for a call of its own.
func sharedSecrets(tools []*Tool) []error {
	var problems []error
	first := map[string]*Tool{}
	for _, t := range tools {
		if t.Auth == nil {
			continue
		}
		for _, s := range t.Auth.Secrets {
			other := first[s]
			if other == nil {
				first[s] = t
				continue
			}
			if other.Body != Envelope || t.Body != Envelope {
				problems = append(problems, &FieldError{"tool " + t.Name, "auth.secrets",
					fmt.Sprintf("one of them is also tool %s's; give each its own, or let both have body: envelope", other.Name)})
			}
			if t.Body != Envelope {
				first[s] = t // so that an envelope after it is told too
			}
		}
	}
	return problems
}

// Tools lists every tool, by name and scope. The slice is the registry's own.
func (r *Registry) Tools() []*Tool { return r.tools }

// ByName is the tool that agent means by name: its own before the global one. Disabled tools are found too.
func (r *Registry) ByName(name, agent string) (*Tool, bool) {
	n := r.names[name]
	if n == nil {
		return nil, false
	}
	if t := n.agents[agent]; t != nil {
		return t, true
	}
	return n.global, n.global != nil
}

// Match is the tool that a forwarded request is for. Of several the most specific pattern wins, segment by segment from
// the left: a literal beats {x}, {x} beats {x...}; then the agent's own tool beats the global one; then the scheme as
// asked beats the upgrade of http to https. Disabled tools match too. A literal match does not allocate.
func (r *Registry) Match(agent, method string, t Target) (Matched, bool) {
	asked, upgrade := r.trees(t)
	q := query{scheme: t.Scheme, method: method, agent: agent}
	found := asked.find(t.Path, &q)
	if upgrade != nil {
		q.scheme = "https"
		if e := upgrade.find(t.Path, &q); e != nil && (found == nil || e.beats(found)) {
			found, t.Scheme, t.Authority = e, "https", upgrade.authority
		}
	}
	if found == nil {
		return Matched{}, false
	}
	return Matched{Tool: found.tool, Params: found.params(t.Path), Target: t}, true
}

// trees are the patterns that a request for t may mean: those of its authority and, over http, those of the https host
// it may be upgraded to. Either may be nil.
func (r *Registry) trees(t Target) (asked, upgrade *hostTree) {
	if t.Scheme == "http" {
		upgrade = r.upgrades[t.Authority]
	}
	return r.hosts[t.Authority], upgrade
}

// ToolHost says whether any tool names this authority (with port), over http also by the upgrade to https. httpsOnly
// says that a tool names it as https, whatever the scheme asked for: nothing may go there in the clear but what Match
// finds for a tool registered as http.
func (r *Registry) ToolHost(scheme, authority string) (isToolHost, httpsOnly bool) {
	asked, upgrade := r.trees(Target{Scheme: scheme, Authority: authority})
	return asked != nil || upgrade != nil, upgrade != nil || asked != nil && asked.https
}

// HostNames lists the hosts, without port, that tools name, sorted; IPv6 addresses in brackets. The slice is the
// registry's own.
func (r *Registry) HostNames() []string { return r.hostList }

// NearMiss says that servers may take the path for one that it does not match: it differs from a tool's pattern only in
// case, in a slash at the end or in how literal characters are escaped, and no pattern as specific matches it as it
// stands. Whatever the agent and the method are.
func (r *Registry) NearMiss(t Target) bool {
	asked, upgrade := r.trees(t)
	if asked == nil && upgrade == nil {
		return false
	}
	folded := foldPath(t.Path)
	near := better(asked.findFolded(folded), upgrade.findFolded(folded))
	if near == nil {
		return false
	}
	exact := better(asked.find(t.Path, nil), upgrade.find(t.Path, nil))
	return exact == nil || moreSpecific(near.rank, exact.rank)
}

// EncodedSlash says whether the path may hold %2f: every tool that its most specific pattern belongs to allows it,
// whatever the agent and the method are.
func (r *Registry) EncodedSlash(t Target) bool {
	asked, upgrade := r.trees(t)
	best := better(asked.find(t.Path, nil), upgrade.find(t.Path, nil))
	return best != nil && !slices.ContainsFunc(best.siblings(), func(e *entry) bool { return !e.tool.EncodedSlash })
}
