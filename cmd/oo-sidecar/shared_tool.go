package main

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
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
	n := needs{Headers: slices.Sorted(maps.Keys(t.Headers))} // nil when there are none, as JSON reads it back
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

// sharedByFile reads a tool that some sidecar's file shared, where this one's own file has one of the name.
func (s *sidecar) sharedByFile(e store.Entry, own *tool.Config) (tool.Config, error) {
	if value, err := sharedTool(*own); err == nil && string(value) == string(e.Value) {
		return *own, nil
	}
	s.log.Warn("a shared tool differs from the configuration file's and holds instead; `oo-sidecar apply -f FILE` changes it", "tool", e.Name)
	return s.toolEntry(e, own)
}

// fillNeeds takes what a shared tool is used with from this sidecar's own file.
func (s *sidecar) fillNeeds(c *tool.Config, _ string, members map[string]json.RawMessage, own *tool.Config) error {
	var n needs
	if members[needsMember] == nil {
		return nil
	}
	if err := json.Unmarshal(members[needsMember], &n); err != nil {
		return err
	}
	if own == nil || !reflect.DeepEqual(n, needsOf(*own)) || !sameTarget(*own, *c) {
		return errNeeds
	}
	c.Auth, c.Headers = own.Auth, own.Headers
	return nil
}

var errNeeds = errors.New("it is shared without its secrets, and this sidecar's configuration file does not have a tool of the name with the same url, match, auth and headers")

// sameTarget says whether two tools send to the same place. Secrets of a file go nowhere else.
func sameTarget(a, b tool.Config) bool {
	return a.URL == b.URL && len(a.Match) == len(b.Match) && (len(a.Match) == 0 || reflect.DeepEqual(a.Match, b.Match))
}

// credentialsMember holds, sealed, all secrets of a tool that `apply` registered.
const credentialsMember = "sealed_credentials"

// credentials are all secrets of a tool.
type credentials struct {
	Auth    *tool.AuthConfig
	Headers map[string]string
}

// fillCredentials unseals them.
func (s *sidecar) fillCredentials(c *tool.Config, name string, members map[string]json.RawMessage, _ *tool.Config) error {
	if members[credentialsMember] == nil {
		return nil
	}
	data, err := s.unseal(name, members[credentialsMember])
	if err != nil {
		return err
	}
	var all credentials
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	c.Auth, c.Headers = all.Auth, all.Headers
	return nil
}
