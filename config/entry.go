package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// ParseTool reads one tool as an operator sends it at run time: JSON in the words of a file's `tools`. It may hold
// neither references nor secrets: those come from the file only. It is not validated yet: see Rules.
func ParseTool(spec []byte) (tool.Config, error) {
	c, err := parseEntry("tools", spec)
	switch {
	case err != nil:
		return tool.Config{}, err
	case c.Tools[0].Auth != nil || len(c.Tools[0].Headers) > 0:
		return tool.Config{}, errors.New("auth and headers hold secrets, which come from the configuration file only; register the tool there")
	}
	return c.Tools[0], nil
}

// ParsePolicy reads one policy as ParseTool reads a tool. See policy.New for its validation.
func ParsePolicy(spec []byte) (policy.Config, error) {
	c, err := parseEntry("policies", spec)
	if err != nil {
		return policy.Config{}, err
	}
	return c.Policies[0], nil
}

// ParseKey reads one operator's key as ParseTool reads a tool, with the key itself.
func ParseKey(spec []byte) (api.KeyConfig, error) {
	c, err := parseEntry("api.keys", spec)
	if err != nil {
		return api.KeyConfig{}, err
	}
	v, k := &checker{Config: c}, c.API.Keys[0]
	if v.keys(); len(v.problems) > 0 {
		return k, join(v.problems)
	}
	if k.Role != string(api.Operator) {
		return k, fmt.Errorf("key %q: its role is %s; only operators' keys are shared, others stand in each sidecar's file", k.Name, k.Role)
	}
	// It names the key where it is revoked, in a path, and in the log.
	if k.Name == "." || k.Name == ".." || len(k.Name) > 128 || strings.ContainsFunc(k.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return k, errors.New("name: a key that is shared is named by up to 128 bytes that can be printed; . and .. name none")
	}
	return k, nil
}

// parseEntry reads the only entry of a section.
func parseEntry(section string, spec []byte) (*Config, error) {
	if bytes.Contains(spec, []byte("${")) {
		return nil, errors.New("${…} is expanded in the configuration file only")
	}
	r := &reader{origin: newOrigin("")}
	doc := fmt.Appendf(nil, "{\"version\":1,%q:[%s]}", section, bytes.TrimSpace(spec))
	if above, name, nested := strings.Cut(section, "."); nested {
		doc = fmt.Appendf(nil, "{\"version\":1,%q:{%q:[%s]}}", above, name, bytes.TrimSpace(spec))
	}
	c, err := r.load(defaults(), nil, document(doc))
	if err != nil {
		return nil, err
	}
	if c.origin = r.origin; len(r.problems) > 0 {
		return nil, join(r.problems)
	}
	if len(c.Tools)+len(c.Policies)+len(c.API.Keys) != 1 {
		return nil, errors.New("one entry is wanted: a JSON object")
	}
	return c, nil
}

// document is a document in memory. It is a koanf.Provider.
type document []byte

func (d document) ReadBytes() ([]byte, error)    { return d, nil }
func (d document) Read() (map[string]any, error) { return nil, errors.ErrUnsupported }
