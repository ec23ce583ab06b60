package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const maxPolicyBody = 256 << 10

// policyAnswer is a policy in the words of the OnceOnly API: of the policy only what is set.
type policyAnswer struct {
	AgentID string                     `json:"agent_id"`
	Policy  map[string]json.RawMessage `json:"policy"`
}

// policyAnswerOf puts an entry into those words. Amounts are numbers here: the SDKs keep nothing else.
func policyAnswerOf(e *Entry) policyAnswer {
	a := policyAnswer{AgentID: e.Name, Policy: map[string]json.RawMessage{}}
	_ = json.Unmarshal(e.Spec, &a.Policy)
	delete(a.Policy, "agent_id")
	if cap, ok := a.Policy["max_spend_usd_per_day"]; ok {
		a.Policy["max_spend_usd_per_day"] = unquoted(cap)
	}
	var rules []pricing
	if json.Unmarshal(a.Policy["pricing_rules"], &rules) == nil {
		for i := range rules {
			rules[i].Price = unquoted(rules[i].Price)
		}
		a.Policy["pricing_rules"] = encode(rules)
	}
	return a
}

type pricing struct {
	Tool  string          `json:"tool"`
	Price json.RawMessage `json:"price_usd"`
}

// unquoted is a decimal as a JSON number, whether it stood there as a number or as text.
func unquoted(raw json.RawMessage) json.RawMessage {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return json.RawMessage(text)
	}
	return raw
}

func (s *Server) listAgentPolicies(w http.ResponseWriter, _ *http.Request, by *Key) {
	if s.Registry == nil {
		missing(w, "policies")
		return
	}
	list := []policyAnswer{}
	for _, e := range s.Registry.Policies() {
		if by.speaksFor(e.Name) {
			list = append(list, policyAnswerOf(&e))
		}
	}
	answer(w, http.StatusOK, list)
}

func (s *Server) getAgentPolicy(w http.ResponseWriter, r *http.Request, by *Key) {
	id := r.PathValue("id")
	if !s.asItself(w, by, id) {
		return
	}
	if s.Registry == nil {
		missing(w, "policies")
		return
	}
	s.showPolicy(w, id)
}

func (s *Server) showPolicy(w http.ResponseWriter, id string) {
	e := s.policyOf(id)
	if e == nil {
		fail(w, http.StatusNotFound, problem{"policy_not_found", "this agent has no policy of its own"})
		return
	}
	answer(w, http.StatusOK, policyAnswerOf(e))
}

// policyOf is the agent's own policy; nil when it has none.
func (s *Server) policyOf(id string) *Entry {
	for _, e := range s.Registry.Policies() {
		if e.Name == id {
			return &e
		}
	}
	return nil
}

// upsertPolicy answers POST /v1/policies/{id}: each field that is given replaces the policy's, null takes one away, and
// what is not named stays. To replace the rest too would drop limits that a caller never meant to touch.
func (s *Server) upsertPolicy(w http.ResponseWriter, r *http.Request, by *Key) {
	f, id := s.policyFields(w, r)
	if f == nil {
		return
	}
	given := f.policy(by)
	if f.refuse(w) {
		return
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	spec := map[string]json.RawMessage{}
	if e := s.policyOf(id); e != nil {
		_ = json.Unmarshal(e.Spec, &spec)
	}
	if string(spec["template"]) != `"read_only"` { // that one is more than its fields; of the others these are all
		delete(spec, "template")
	}
	for name, value := range given {
		spec[name] = value
		if value == nil {
			delete(spec, name)
		}
	}
	s.putSpec(w, r, by, id, spec)
}

// applyTemplate answers POST /v1/policies/{id}/from-template: the whole policy becomes the template with its overrides.
func (s *Server) applyTemplate(w http.ResponseWriter, r *http.Request, by *Key) {
	f, id := s.policyFields(w, r)
	if f == nil {
		return
	}
	if !by.grants(w, "policy_templates") {
		return
	}
	name := f.text("template", maxName)
	spec := f.within("overrides", f.object("overrides", maxPolicyBody)).policy(by)
	if f.refuse(w) {
		return
	}
	for field, value := range spec {
		if value == nil {
			delete(spec, field)
		}
	}
	spec["template"] = encode(name)
	s.merging.Lock()
	defer s.merging.Unlock()
	s.putSpec(w, r, by, id, spec)
}

// policyFields reads the body of a change of a policy. It answers for itself when it returns nil.
func (s *Server) policyFields(w http.ResponseWriter, r *http.Request) (*fields, string) {
	f, id := fieldsOf(w, r, maxPolicyBody), r.PathValue("id")
	if f == nil {
		return nil, ""
	}
	if s.Registry == nil {
		missing(w, "policies")
		return nil, ""
	}
	if f.has("agent_id") && f.text("agent_id", maxName) != id {
		f.bad("agent_id", "value_error", "Value error, the path names another agent", nil)
	}
	if len(id) > maxName {
		f.bad("agent_id", "string_too_long", "String should have at most 256 characters", nil)
	}
	if f.refuse(w) {
		return nil, ""
	}
	return f, id
}

func (s *Server) putSpec(w http.ResponseWriter, r *http.Request, by *Key, id string, spec map[string]json.RawMessage) {
	spec["agent_id"] = encode(id)
	if unknown := s.unknownTools(spec, id); len(unknown) > 0 && s.StrictPolicyTools != nil && s.StrictPolicyTools() {
		fail(w, http.StatusBadRequest, struct {
			problem
			Tools []string `json:"tools"`
		}{problem{"unknown_tools", "the policy names tools that are not registered"}, unknown})
		return
	}
	if _, err := s.Registry.Put(r.Context(), PolicyEntry, encode(spec), by.Name); err != nil {
		s.refuseBody(w, err)
		return
	}
	s.showPolicy(w, id)
}

// refuseBody is refuseEntry in FastAPI's form for what does not validate.
func (s *Server) refuseBody(w http.ResponseWriter, err error) {
	if invalid := new(Invalid); errors.As(err, &invalid) {
		fail(w, http.StatusUnprocessableEntity, []fault{{"value_error", []any{"body"}, "Value error, " + invalid.Message, nil}})
		return
	}
	s.refuseEntry(w, err)
}

// unknownTools are the names in the policy's lists that no tool of the agent's has.
func (s *Server) unknownTools(spec map[string]json.RawMessage, agent string) []string {
	known := map[string]bool{}
	for _, e := range s.Registry.Tools() {
		if e.Scope == "global" || e.Scope == "agent:"+agent {
			known[e.Name] = true
		}
	}
	var named, names []string
	for _, list := range []string{"allowed_tools", "blocked_tools"} {
		var part []string
		_ = json.Unmarshal(spec[list], &part)
		named = append(named, part...)
	}
	var calls map[string]json.RawMessage
	_ = json.Unmarshal(spec["max_calls_per_tool"], &calls)
	for name := range calls {
		named = append(named, name)
	}
	for _, name := range named {
		if !known[name] && !strings.HasSuffix(name, "*") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// policy reads the fields of a policy that the body names, in the words of the configuration file; nil stands for one
// that is taken away. What the key's plan does not have is left out, as the hosted service does.
func (f *fields) policy(by *Key) map[string]json.RawMessage {
	p := map[string]json.RawMessage{}
	for name, read := range map[string]func(*fields, string) json.RawMessage{
		"max_actions_per_hour": (*fields).count, "max_spend_usd_per_day": (*fields).money, "allowed_tools": (*fields).toolNames,
		"blocked_tools": (*fields).toolNames, "max_calls_per_tool": (*fields).toolCounts, "pricing_rules": (*fields).prices,
		"mode": (*fields).word, "anomaly": (*fields).word, "allow_force_new": (*fields).flag,
	} {
		raw, named := f.raw[name]
		switch {
		case !named || !by.has(name):
		case string(raw) == "null":
			p[name] = nil
		default:
			p[name] = read(f, name)
		}
	}
	return p
}

// count reads a whole number from zero up.
func (f *fields) count(name string) json.RawMessage {
	n, ok := wholeNumber(f.raw[name])
	switch {
	case !ok:
		f.bad(name, "int_type", "Input should be a valid integer", f.raw[name])
	case n < 0:
		f.bad(name, "greater_than_equal", "Input should be greater than or equal to 0", f.raw[name])
	}
	return encode(n)
}

func (f *fields) money(name string) json.RawMessage {
	m, err := tool.ParseMoneyCeil(f.amount(name))
	if err != nil {
		return nil // and amount has said so
	}
	return json.RawMessage(m.String())
}

func (f *fields) word(name string) json.RawMessage { return encode(f.text(name, maxName)) }

func (f *fields) flag(name string) json.RawMessage {
	raw := f.raw[name]
	if string(raw) != "true" && string(raw) != "false" {
		f.bad(name, "bool_type", "Input should be a valid boolean", raw)
	}
	return raw
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_.:-]{1,256}$`)

// named says whether text is a tool's name in full: no patterns over the wire.
func (f *fields) named(field any, text string) bool {
	if toolName.MatchString(text) {
		return true
	}
	f.bad(field, "string_pattern_mismatch", "String should match pattern '^[a-zA-Z0-9_.:-]+$'", nil)
	return false
}

func (f *fields) toolNames(name string) json.RawMessage {
	var list []string
	if json.Unmarshal(f.raw[name], &list) != nil {
		f.bad(name, "list_type", "Input should be a valid list of strings", f.raw[name])
	}
	for _, text := range list {
		f.named(name, text)
	}
	return encode(list)
}

func (f *fields) toolCounts(name string) json.RawMessage {
	out := map[string]json.RawMessage{}
	in := f.within(name, f.object(name, maxPolicyBody))
	for text := range in.raw {
		if in.named(text, text) {
			out[text] = in.count(text)
		}
	}
	return encode(out)
}

// prices reads the price rules; of two for one tool the last one wins.
func (f *fields) prices(name string) json.RawMessage {
	var list []json.RawMessage
	if json.Unmarshal(f.raw[name], &list) != nil {
		f.bad(name, "list_type", "Input should be a valid list", f.raw[name])
	}
	rules := []pricing{}
	at := &fields{at: append(append([]any{}, f.at...), name), faults: f.faults}
	for i, raw := range list {
		in := at.within(i, raw)
		rule := pricing{Tool: in.text("tool", maxName), Price: in.money("price_usd")}
		in.named("tool", rule.Tool)
		rules = append(rules, rule)
	}
	return encode(rules)
}
