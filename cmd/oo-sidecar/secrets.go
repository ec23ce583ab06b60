package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// sealedMember stands in a tool's entry beside the words of the configuration file. No file and no caller may write it.
const sealedMember = "sealed"

// toolEntry reads a tool that stands in the store whole. Its secrets are sealed in it, or those of filed, which is what this
// sidecar's file says of the tool. Where one cannot be had the tool stands and its calls are refused: the others go on.
func (s *sidecar) toolEntry(e store.Entry, filed *tool.Config) (tool.Config, error) {
	members := map[string]json.RawMessage{}
	if json.Unmarshal(e.Value, &members) != nil {
		return config.ParseTool(e.Value)
	}
	return s.toolOf(e.Name, members, filed)
}

// toolOf is toolEntry for the members of an entry.
func (s *sidecar) toolOf(name string, members map[string]json.RawMessage, filed *tool.Config) (tool.Config, error) {
	if members[overMember] != nil && filed != nil {
		return over(*filed, members)
	}
	plain := maps.Clone(members)
	for _, secret := range []string{sealedMember, credentialsMember, needsMember} {
		delete(plain, secret)
	}
	spec, err := json.Marshal(plain)
	if err != nil {
		return tool.Config{}, err
	}
	c, err := config.ParseTool(spec)
	if err != nil {
		return c, err
	}
	for _, fill := range []func(*tool.Config, string, map[string]json.RawMessage, *tool.Config) error{s.fillNeeds, s.fillCredentials, s.fillSecret} {
		if err := fill(&c, name, members, filed); err != nil {
			s.log.Error("a tool's calls are refused here", "tool", name, "error", err.Error())
			c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Gone: true}
			return c, nil
		}
	}
	return c, nil
}

// fillSecret unseals the one secret that /v1/tools sets.
func (s *sidecar) fillSecret(c *tool.Config, name string, members map[string]json.RawMessage, _ *tool.Config) error {
	if members[sealedMember] == nil {
		return nil
	}
	secret, err := s.unseal(name, members[sealedMember])
	if err == nil {
		c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Secrets: []string{string(secret)}}
	}
	return err
}

// unseal opens what was sealed for the entry of that name.
func (s *sidecar) unseal(name string, member json.RawMessage) ([]byte, error) {
	var sealed string
	_ = json.Unmarshal(member, &sealed)
	if s.seal == nil {
		return nil, errNoSeal
	}
	return s.seal.Open(name, sealed)
}

// PutTool changes the entry's fields that spec names, and its secret where one is given.
func (b registry) PutTool(ctx context.Context, name, scope string, spec map[string]json.RawMessage, secret, who string) error {
	b.s.editing.Lock()
	defer b.s.editing.Unlock()
	entry := store.Entry{Kind: store.ToolEntry, Name: entryName(name, scope), Source: "api"}
	filed := b.s.filed(entry.Name)
	members, standsOver := map[string]json.RawMessage{}, false
	entry.Replaces = new(uint64)
	for _, e := range b.s.store.Entries() {
		if e.Kind == entry.Kind && e.Name == entry.Name {
			entry.Replaces = &e.Revision
			standsOver = filed != nil && (e.Source == "file" || overFile(e.Value))
			if e.Source == "api" || b.s.redis != nil {
				_ = json.Unmarshal(e.Value, &members)
			}
		}
	}
	if members[needsMember] != nil && filed == nil {
		return &api.Owned{Message: "this tool stands in the configuration file of other sidecars; change it through one of them"}
	}
	if standsOver || members[needsMember] != nil {
		if err := b.owned(*filed, spec, secret); err != nil {
			return err
		}
	}
	if standsOver && b.s.redis == nil { // there the entry itself holds what the file says
		members[overMember] = json.RawMessage("true")
	}
	for field, value := range spec {
		members[field] = value
	}
	members["name"], _ = json.Marshal(name)
	members["scope"], _ = json.Marshal(scope)
	if secret != "" && b.s.seal == nil {
		return &api.Invalid{Message: errNoSeal.Error()}
	}
	if secret != "" {
		delete(members, needsMember)
		members[sealedMember], _ = json.Marshal(b.s.seal.Seal(entry.Name, []byte(secret)))
	}
	c, err := b.s.toolOf(entry.Name, members, filed)
	if err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	if entry.Value, err = json.Marshal(members); err != nil {
		return err
	}
	return b.putTool(ctx, entry, c, who)
}

// putTool has the tool hold if it makes a valid snapshot together with all others.
func (b registry) putTool(ctx context.Context, entry store.Entry, c tool.Config, who string) error {
	if b.controls(store.ToolEntry, entry.Name) {
		return errControlled
	}
	c.Source = "api"
	t, err := b.s.cfg.Load().Rules().New(c)
	if err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	tools, policies := b.current()
	tools[entry.Name] = t
	return b.hold(ctx, entry, slices.Collect(maps.Values(tools)), slices.Collect(maps.Values(policies)), who)
}

// secretOf names a tool's present secret without telling of it more than its end; nil where there is none.
func (b registry) secretOf(t *tool.Tool) (id, mask *string) {
	if t.Auth == nil {
		return nil, nil
	}
	if len(t.Auth.Secrets) == 0 {
		gone := "***"
		return nil, &gone
	}
	secret := t.Auth.Secrets[0]
	named := "sec_" + b.s.mask.Load().Shown(sha256.Sum256([]byte("secret of " + entryName(t.Name, t.Scope) + "\x00" + secret)))[:8]
	end := len(secret)
	for range 3 {
		_, n := utf8.DecodeLastRuneInString(secret[:end])
		end -= n
	}
	masked := "***" + secret[end:]
	return &named, &masked
}
