package main

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// needsMember stands in the shared entry of a file's tool beside the words of the file: what every sidecar's own file
// must add to it.
const needsMember = "needs"

// needs are the secrets that a tool is used with, without their values.
type needs struct {
	Type    string   `json:"type,omitempty"`
	Scheme  string   `json:"scheme,omitempty"`
	Headers []string `json:"headers,omitempty"`
}

func (n *needs) nothing() bool { return n.Type == "" && len(n.Headers) == 0 }

func needsOf(t tool.Config) needs {
	n := needs{Headers: slices.Sorted(maps.Keys(t.Headers))}
	if t.Auth != nil {
		n.Type, n.Scheme = t.Auth.Type, t.Auth.Scheme
	}
	return n
}

// sharedTool is what sidecars share of a file's tool.
func sharedTool(t tool.Config) ([]byte, error) {
	spec, err := config.ToolSpec(t)
	n := needsOf(t)
	if err != nil || n.nothing() {
		return spec, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(spec, &members); err != nil {
		return nil, err
	}
	if members[needsMember], err = json.Marshal(n); err != nil {
		return nil, err
	}
	return json.Marshal(members)
}

// sharedByFile reads a tool that some sidecar's file shared. Its secrets are those of this sidecar's own file; where
// that has none of them the tool's calls are refused here.
func (s *sidecar) sharedByFile(e store.Entry, own tool.Config, has bool) (tool.Config, error) {
	if value, err := sharedTool(own); has && err == nil && string(value) == string(e.Value) {
		return own, nil
	}
	if has {
		s.log.Warn("a shared tool differs from the configuration file's and holds instead; `oo-sidecar apply -f FILE` changes it", "tool", e.Name)
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(e.Value, &members); err != nil {
		return tool.Config{}, err
	}
	var n needs
	if raw := members[needsMember]; raw != nil {
		if err := json.Unmarshal(raw, &n); err != nil {
			return tool.Config{}, err
		}
		delete(members, needsMember)
	}
	spec, err := json.Marshal(members)
	if err != nil {
		return tool.Config{}, err
	}
	c, err := config.ParseTool(spec)
	if err != nil {
		return c, err
	}
	have := needsOf(own)
	if n.nothing() {
		return c, nil
	}
	if !has || n.Type != have.Type || n.Scheme != have.Scheme || !slices.Equal(n.Headers, have.Headers) {
		s.log.Error("a shared tool needs secrets that this sidecar's configuration file does not have; its calls are refused here", "tool", e.Name)
		c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Scheme: n.Scheme, Gone: true}
		return c, nil
	}
	c.Auth, c.Headers = own.Auth, own.Headers
	return c, nil
}
