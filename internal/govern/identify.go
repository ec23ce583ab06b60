package govern

import (
	"errors"

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
	p.call = tool.Call{Tenant: p.r.Tenant, Agent: p.r.Agent, RunID: p.r.RunID, Header: p.r.Header, Body: p.r.Body, HasBody: p.r.HasBody, Ignore: p.r.Ignore, ForceNew: p.r.ForceNew}
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

// agree compares the agent's hint with the match. A call that is no tool's agrees with no hint.
func (p *passage) agree() *Reply {
	if p.r.ToolHint != "" && p.r.ToolHint != p.name {
		return p.refuse("bad_request", "X-OnceOnly-Tool does not name the tool that this request matches.")
	}
	return nil
}

// decide asks policy about the tool's name, then whether the tool may be called at all.
func (p *passage) decide() *Reply {
	p.rec.PolicyReason = string(policy.OK)
	if reply := p.lists(); reply != nil {
		return reply
	}
	switch {
	case p.call.Tool == nil && p.stale(true):
		return p.refuseStale() // it may be registered where nobody could ask
	case p.call.Tool == nil:
		return p.refuse("tool_not_registered", "No tool named "+p.name+" is registered.")
	case !p.tool.Enabled:
		return p.refuse("tool_disabled", "Tool "+p.name+" is switched off.")
	case p.tool.SecretGone:
		return p.refuse("tool_secret_missing", "Tool "+p.name+" needs a secret that is not available here.")
	}
	return nil
}

// lists asks policy about the tool's name.
func (p *passage) lists() *Reply {
	d := p.policy.Decide(p.name, p.call.Tool, p.r.ForceNew != "")
	p.rec.ShadowReason = string(d.Shadow)
	p.ruled(d.Rule, d.Source)
	if d.Allow {
		return nil
	}
	return p.refuse(string(d.Reason), "Refused by the rule "+d.Rule+".")
}

// ruled notes the rule that spoke and where it stands.
func (p *passage) ruled(rule, source string) {
	if rule != "" {
		p.rec.Rule = rule + " (" + source + ")"
	}
}

// derive reads what the call is: its key, its arguments, its price.
func (p *passage) derive() *Reply {
	if reply := p.read(); reply != nil {
		return reply
	}
	if err := p.identities(); err != nil {
		if errors.Is(err, dedup.ErrKeyRequired) {
			return p.refuse("idempotency_key_required", err.Error())
		}
		return p.refuse("arguments_unparseable", err.Error())
	}
	p.cost = p.policy.Cost(p.tool, p.name, p.call.Declared)
	p.rec.ForceNew = p.r.ForceNew
	p.rec.RiskLevel = string(p.policy.Risk(p.name, p.tool, policy.OK, p.cost, p.r.ForceNew != ""))
	return nil
}

// read reads the headers by which the agent speaks to the sidecar.
func (p *passage) read() *Reply {
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
	return nil
}

// identities derives the call's keys, and makes sure of what the tool wants the body to be before anything is claimed.
func (p *passage) identities() (err error) {
	p.keys, err = dedup.Derive(&p.call)
	if _, unreadable := errors.AsType[*dedup.ArgumentsError](err); unreadable && p.tool.Unregistered {
		p.keys = dedup.Derived{} // nobody said that it is strict JSON: it runs, and is never the same as another call
		return nil
	}
	if err != nil {
		return err
	}
	p.rec.ArgsHash = p.g.Shown(p.keys.Arguments)
	if p.keys.Applies {
		p.rec.Key = p.g.Shown(p.keys.Identities[0].Key)
	}
	return p.composable()
}
