package govern

import (
	"strings"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// identify asks the kill switch and finds the tool. Afterwards p.tool is the tool, a stand-in for a call that is
// governed lightly, or nil for a call that only passes.
func (p *passage) identify() *Reply {
	p.policy = p.s.Policies.For(p.r.Agent)
	if p.g.Disabled(p.r.Agent) {
		return p.refuse("agent_disabled", "The kill switch of agent "+p.r.Agent+" is on.")
	}
	p.call = tool.Call{Tenant: p.r.Tenant, Agent: p.r.Agent, RunID: p.r.RunID, Header: p.r.Header, Body: p.r.Body, HasBody: p.r.HasBody, ForceNew: p.r.ForceNew}
	if p.r.Name != "" {
		p.named()
		return p.agree()
	}
	m, ok := p.s.Registry.Match(p.r.Agent, p.r.Method, p.r.Target)
	if !ok {
		return p.unmatched()
	}
	p.is(m.Tool, p.r.Method, m.Target)
	return p.agree()
}

// named finds a tool by the name that the request gives. An unknown name is judged by the lists first (decide).
func (p *passage) named() {
	p.name = p.r.Name
	t, ok := p.s.Registry.ByName(p.name, p.r.Agent)
	if !ok {
		p.tool = &tool.Tool{Name: p.name} // not enabled, no target: decide ends here
		return
	}
	p.is(t, t.Method(), t.Target)
}

func (p *passage) is(t *tool.Tool, method string, target tool.Target) {
	p.tool, p.name = t, t.Name
	p.call.Tool, p.call.Method, p.call.Target = t, method, target
	p.rec.Tool, p.rec.Method, p.rec.Host = t.Name, method, ""
}

// agree compares the agent's hint with the match.
func (p *passage) agree() *Reply {
	if p.r.ToolHint != "" && p.r.ToolHint != p.name {
		return p.refuse("bad_request", "X-OnceOnly-Tool does not name the tool that this request matches.")
	}
	return nil
}

// unmatched decides about a forwarded request that no tool matches.
func (p *passage) unmatched() *Reply {
	if _, https := p.s.Registry.ToolHost(p.r.Target.Scheme, p.r.Target.Authority); https && p.r.Target.Scheme == "http" {
		return p.refuse("destination_denied", "Tools on this host are registered as https; nothing is sent to it in the clear.")
	}
	host := p.r.Target.Host()
	p.call.Method, p.call.Target = p.r.Method, p.r.Target
	switch {
	case p.s.Passthrough != nil && p.s.Passthrough(host):
		return nil
	case p.s.Unregistered == Deny:
		return p.refuse("tool_not_registered", "No registered tool matches "+p.r.Method+" "+p.r.Target.Authority+p.r.Target.Path+".")
	case p.s.Unregistered == Pass || !writes(p.r.Method):
		return nil
	}
	p.is(p.g.standIns.of(p.r.Method, p.r.Target.Authority, lightMode(p.r)), p.r.Method, p.r.Target)
	return p.agree()
}

func writes(method string) bool {
	switch method {
	case "POST", "PUT", "PATCH", "DELETE":
		return true
	}
	return false
}

// lightMode says whether an unregistered call is deduplicated at all: calls whose equal repetition is how their
// protocol works never are.
func lightMode(r *Request) tool.Mode {
	path := strings.TrimSuffix(r.Target.Path, "/")
	for _, end := range []string{"/token", "/graphql", "/search", "/query"} {
		if strings.HasSuffix(path, end) {
			return tool.Off
		}
	}
	if jsonRPC(r) {
		return tool.Off
	}
	return tool.Window
}

// jsonRPC recognises a JSON-RPC body by its version member, wherever in the text that stands: a false alarm only
// means that the call is not deduplicated.
func jsonRPC(r *Request) bool {
	return strings.Contains(string(r.Body[:min(len(r.Body), 64<<10)]), `"jsonrpc"`)
}

// standIns are the tools that unregistered calls are governed as, by method and authority. At most 1,024 are
// kept; beyond that they are made anew for each call, which only costs time.
type standIns struct {
	mu sync.RWMutex
	by map[standInKey]*tool.Tool // guarded by mu
}

type standInKey struct {
	method, authority string
	mode              tool.Mode
}

// lightTimeout is how long an unregistered call may take.
const lightTimeout = 120 * time.Second

// lightWindow is how long after its end a delivered unregistered call is still answered from its record.
const lightWindow = 60 * time.Second

func (s *standIns) of(method, authority string, mode tool.Mode) *tool.Tool {
	k := standInKey{method, authority, mode}
	s.mu.RLock()
	t := s.by[k]
	s.mu.RUnlock()
	if t != nil {
		return t
	}
	t = &tool.Tool{
		Name: strings.Clone(method) + ":" + strings.Clone(authority), Scope: "global", Effect: tool.Mutating, Timeout: lightTimeout, MaxInFlight: 64,
		Enabled: true, Source: "built-in", Unregistered: true,
		Dedup: tool.Dedup{Mode: mode, TTL: lightWindow, FailedTTL: 10 * time.Second, Wait: 25 * time.Second, Scope: "agent"},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[standInKey]*tool.Tool{}
	}
	if len(s.by) < 1024 {
		k.method, k.authority = strings.Clone(k.method), strings.Clone(k.authority)
		s.by[k] = t
	}
	return t
}

// decide asks policy about the tool's name, then whether the tool may be called at all.
func (p *passage) decide() *Reply {
	registered := p.call.Tool != nil
	d := p.policy.Decide(p.name, p.call.Tool, p.r.ForceNew != "")
	p.rec.RiskLevel, p.rec.PolicyReason, p.rec.ShadowReason = string(d.Risk), string(d.Reason), string(d.Shadow)
	if d.Rule != "" {
		p.rec.Rule = d.Rule + " (" + d.Source + ")"
	}
	switch {
	case !d.Allow:
		return p.refuse(string(d.Reason), refusalDetail(d))
	case !registered:
		return p.refuse("tool_not_registered", "No tool named "+p.name+" is registered.")
	case !p.tool.Enabled:
		return p.refuse("tool_disabled", "Tool "+p.name+" is switched off.")
	case p.tool.SecretGone:
		return p.refuse("tool_secret_missing", "Tool "+p.name+" signs its calls and its secret is not available here.")
	}
	return nil
}

func refusalDetail(d policy.Decision) string {
	if d.Rule == "" {
		return ""
	}
	return "Refused by the rule " + d.Rule + "."
}

// derive reads what the call is: its key, its arguments, its price.
func (p *passage) derive() *Reply {
	var err error
	if p.r.Spend != "" {
		if p.call.Declared, err = tool.ParseMoneyCeil(p.r.Spend); err != nil {
			return p.refuse("bad_request", "X-OnceOnly-Spend-Usd: "+err.Error())
		}
	}
	if len(p.r.ForceNew) > 255 {
		return p.refuse("bad_request", "X-OnceOnly-Force-New: the label is longer than 255 bytes.")
	}
	if p.call.ClientKey, err = dedup.ParseClientKey(p.r.IdempotencyKey); err != nil {
		return p.refuse("idempotency_key_malformed", err.Error())
	}
	if p.keys, err = dedup.Derive(&p.call); err != nil {
		return p.refuse(derivationCode(err), err.Error())
	}
	p.rec.ArgsHash, p.rec.ForceNew = p.g.Shown(p.keys.Arguments), p.r.ForceNew
	if p.keys.Applies {
		p.rec.Key = p.g.Shown(p.keys.Identities[0].Key)
	}
	p.cost = p.policy.Cost(p.tool, p.name, p.call.Declared)
	p.rec.RiskLevel = string(p.policy.Risk(p.name, p.tool, policy.OK, p.cost, p.r.ForceNew != ""))
	return nil
}
