package govern

import (
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// Explanation is what the sequence would do with a request, up to where the store would be asked. Nothing is sent,
// nothing is recorded, and no injected value stands in it.
type Explanation struct {
	Refusal *Refusal // not nil: the call ends here
	Agent   string
	Tool    *tool.Tool // nil: no tool matches
	Method  string
	Target  tool.Target // where it would be sent
	Header  []tool.Header
	Rules   []policy.Verdict
	Policy  string // whose policy holds; empty when none does
	Call    dedup.Explanation
	Key     string // as shown
	Cost    tool.Money
}

// hidden stands for a value that explain must not show.
const hidden = "***"

// Explain walks r through the steps that need no store. shown masks keys; disabled is the kill switch.
func (s *Snapshot) Explain(r *Request, shown func(dedup.Key) string, disabled func(agent string) bool) Explanation {
	p := &passage{g: &Governor{Disabled: disabled, Shown: shown}, s: s, r: r}
	p.rec.AgentID = r.Agent
	e := Explanation{Agent: r.Agent}
	reply := p.identify()
	e.Tool, e.Method, e.Target = p.call.Tool, p.call.Method, p.call.Target
	e.Policy, e.Rules = p.policy.AgentID(), p.policy.Explain(p.name, p.call.Tool, r.ForceNew != "")
	if reply == nil && p.tool != nil {
		if reply = p.decide(); reply == nil {
			reply = p.derive()
		}
	}
	if reply != nil {
		e.Refusal = reply.Refusal
	}
	if e.Tool == nil {
		return e
	}
	e.Cost, e.Key = p.cost, p.rec.Key
	var err error
	if e.Call, err = dedup.Explain(&p.call); err != nil && e.Call.Why == "" {
		e.Call.Why = err.Error()
		if reply == nil {
			e.Call.Why += "; it is sent each time, because nobody registered what it is"
		}
	}
	for _, h := range p.toTool("oo_…") {
		if has(p.tool.Headers, h.Name) {
			h.Value = hidden
		}
		e.Header = append(e.Header, h)
	}
	return e
}
