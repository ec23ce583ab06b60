package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Snapshot is what a control plane says of tools, policies and agents, as one. Tools and policies are in the words of the
// configuration file and not judged yet.
type Snapshot struct {
	Version  uint64            `json:"version"` // 0: the control plane counts none
	Tools    []Tool            `json:"tools"`
	Policies []json.RawMessage `json:"policies"`
	Agents   []Switch          `json:"agents"`  // those that are switched off
	Native   bool              `json:"native"`  // it came from an oo-sidecar
	Blind    bool              `json:"blind"`   // the control plane does not tell who is switched off
	Ignored  []string          `json:"ignored"` // members of policies that this build does not know
}

// Tool is a registered tool without its secrets.
type Tool struct {
	Spec    json.RawMessage `json:"spec"`
	Signed  string          `json:"signed,omitempty"`  // scheme under which calls are signed; empty: they are not
	Headers []string        `json:"headers,omitempty"` // names of the headers that are added to calls
	// Earlier definitions, under whose keys calls of it may still be known.
	Previous []tool.Definition `json:"previous,omitempty"`
}

// Switch is an agent that is switched off.
type Switch struct {
	Agent  string    `json:"agent_id"`
	Reason string    `json:"disabled_reason"`
	At     time.Time `json:"disabled_at"`
}

const longPoll = 10 * time.Second // what an oo-sidecar waits at most for another version

// native asks an oo-sidecar for what is newer than after; nil when nothing is.
func (c *client) native(ctx context.Context, after uint64, wait time.Duration) (*Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+5*time.Second)
	defer cancel()
	var got struct {
		Version   *uint64           `json:"version"`
		Unchanged bool              `json:"unchanged"`
		Tools     []Tool            `json:"tools"`
		Policies  []json.RawMessage `json:"policies"`
		Agents    []Switch          `json:"agents"`
	}
	query := url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
	if err := c.do(ctx, "GET", "/snapshot?"+query.Encode(), nil, &got); err != nil {
		return nil, err
	}
	switch {
	case got.Version == nil || *got.Version == 0:
		return nil, &Error{Kind: Lost, Err: errors.New("its snapshot has no version")}
	case got.Unchanged && *got.Version != after:
		return nil, &Error{Kind: Lost, Err: errors.New("it says that another version is unchanged")}
	case got.Unchanged:
		return nil, nil
	}
	return &Snapshot{Version: *got.Version, Tools: got.Tools, Policies: got.Policies, Agents: got.Agents, Native: true}, nil
}

// hosted asks for policies and tools one by one, as the hosted service has them, and for the switches of the agents
// where that can be asked.
func (c *client) hosted(ctx context.Context, agents []string) (*Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	s := &Snapshot{Blind: true}
	var policies, tools list
	if err := c.do(ctx, "GET", "/policies", nil, &policies); err != nil {
		return nil, err
	}
	if err := c.do(ctx, "GET", "/tools?scope_id=all", nil, &tools); err != nil {
		return nil, err
	}
	for _, raw := range policies {
		p, ignored, err := policyOf(raw)
		if err != nil {
			return nil, &Error{Kind: Lost, Err: err}
		}
		s.Policies, s.Ignored = append(s.Policies, p), append(s.Ignored, ignored...)
	}
	for _, raw := range tools {
		t, err := toolOf(raw)
		if err != nil {
			return nil, &Error{Kind: Lost, Err: err}
		}
		s.Tools = append(s.Tools, t)
	}
	return s, c.switches(ctx, s, agents)
}

// switches reads the switch of each agent. A control plane that answers for none of them tells none.
func (c *client) switches(ctx context.Context, s *Snapshot, agents []string) error {
	for _, id := range agents {
		var a struct {
			AgentID   string     `json:"agent_id"`
			IsEnabled *bool      `json:"is_enabled"`
			Reason    string     `json:"disabled_reason"`
			At        *time.Time `json:"disabled_at"`
		}
		err := c.do(ctx, "GET", "/agents/"+url.PathEscape(id), nil, &a)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		if a.IsEnabled == nil {
			return &Error{Kind: Lost, Err: errors.New("its answer about an agent does not say whether it is enabled")}
		}
		s.Blind = false
		if !*a.IsEnabled {
			off := Switch{Agent: id, Reason: a.Reason}
			if a.At != nil {
				off.At = *a.At
			}
			s.Agents = append(s.Agents, off)
		}
	}
	return nil
}

// list is a bare array, or one as the member items or data of an object.
type list []json.RawMessage

func (l *list) UnmarshalJSON(text []byte) error {
	var bare []json.RawMessage
	if json.Unmarshal(text, &bare) == nil {
		*l = bare
		return nil
	}
	var wrapped struct{ Items, Data *[]json.RawMessage }
	switch err := json.Unmarshal(text, &wrapped); {
	case err != nil:
		return err
	case wrapped.Items != nil:
		*l = *wrapped.Items
	case wrapped.Data != nil:
		*l = *wrapped.Data
	default:
		return errors.New("no list")
	}
	return nil
}

// policyFields are the members of a hosted policy that bind here.
var policyFields = []string{"max_actions_per_hour", "max_spend_usd_per_day", "allowed_tools", "blocked_tools", "max_calls_per_tool", "pricing_rules"}

// policyOf puts a policy of the hosted service into the words of the configuration file.
func policyOf(raw json.RawMessage) (spec json.RawMessage, ignored []string, err error) {
	var p struct {
		AgentID string                     `json:"agent_id"`
		Policy  map[string]json.RawMessage `json:"policy"`
	}
	if err := json.Unmarshal(raw, &p); err != nil || p.AgentID == "" || p.Policy == nil {
		return nil, nil, errors.New("its list of policies holds what is no policy")
	}
	words := map[string]any{"agent_id": p.AgentID}
	for _, name := range slices.Sorted(maps.Keys(p.Policy)) {
		switch value := p.Policy[name]; {
		case name == "agent_id" || string(value) == "null":
		case slices.Contains(policyFields, name):
			words[name] = value
		default:
			ignored = append(ignored, p.AgentID+"."+name)
		}
	}
	spec, err = json.Marshal(words)
	return spec, ignored, err
}

// toolOf puts a tool of the hosted service into the words of the configuration file.
func toolOf(raw json.RawMessage) (Tool, error) {
	var t struct {
		Name        string
		ScopeID     string `json:"scope_id"`
		URL         string
		TimeoutMS   *int64 `json:"timeout_ms"`
		MaxRetries  *int   `json:"max_retries"`
		Enabled     *bool
		Description string
		HasSecret   bool   `json:"has_secret"`
		AuthType    string `json:"auth_type"`
	}
	if err := json.Unmarshal(raw, &t); err != nil || t.Name == "" {
		return Tool{}, errors.New("its list of tools holds what is no tool")
	}
	words := map[string]any{"name": t.Name, "url": t.URL, "body": "envelope"}
	if t.ScopeID != "" {
		words["scope"] = t.ScopeID
	}
	if t.TimeoutMS != nil {
		words["timeout"] = fmt.Sprintf("%dms", *t.TimeoutMS)
	}
	if t.MaxRetries != nil {
		words["max_retries"] = *t.MaxRetries
	}
	if t.Enabled != nil {
		words["enabled"] = *t.Enabled
	}
	if t.Description != "" {
		words["description"] = t.Description
	}
	out := Tool{}
	if t.HasSecret || t.AuthType != "" {
		out.Signed = "onceonly"
	}
	var err error
	out.Spec, err = json.Marshal(words)
	return out, err
}
