package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// definitionEntry remembers what of a tool entered the keys of its calls, so that a change of the file made while the
// sidecar was down is noticed too.
const definitionEntry store.EntryKind = "definition"

// entryName is the name under which a tool's entry is kept: one for each name and scope.
func entryName(name, scope string) string {
	if scope == "" || scope == "global" {
		return name
	}
	return name + " " + scope
}

// digestOf names a value without showing it.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// loadFile tells the store what the file holds now. The store of one sidecar gets digests only, because the entries
// hold secrets; the one that several share gets what is no secret.
func (s *sidecar) loadFile(cfg *config.Config) error {
	var entries []store.Entry
	add := func(kind store.EntryKind, name string, value []byte) {
		entries = append(entries, store.Entry{Kind: kind, Name: name, Value: value, Source: "file"})
	}
	for _, t := range cfg.Tools {
		value := []byte(digest(t))
		if s.redis != nil {
			var err error
			if value, err = sharedTool(t); err != nil {
				return err
			}
		}
		add(store.ToolEntry, entryName(t.Name, t.Scope), value)
	}
	for _, p := range cfg.Policies {
		value := []byte(digest(p))
		if s.redis != nil {
			var err error
			if value, err = config.PolicySpec(p); err != nil {
				return err
			}
		}
		add(store.PolicyEntry, p.AgentID, value)
	}
	return s.store.LoadFile(s.ctx, entries)
}

// entries are the tools and policies that hold: of file and api the newest change of each.
func (s *sidecar) entries(cfg *config.Config) (tools []*tool.Tool, policies []policy.Config, err error) {
	fromFile := map[string]tool.Config{}
	for _, t := range cfg.Tools {
		fromFile[entryName(t.Name, t.Scope)] = t
	}
	policyFile := map[string]policy.Config{}
	for _, p := range cfg.Policies {
		policyFile[p.AgentID] = p
	}
	var problems []error
	for _, e := range s.store.Entries() {
		switch e.Kind {
		case store.ToolEntry:
			c, holds, err := s.toolOfEntry(e, fromFile)
			if !holds {
				continue
			}
			c.Source = e.Source
			t, bad := cfg.Rules().New(c)
			if problems = append(problems, err, bad); err == nil && bad == nil {
				tools = append(tools, t)
			}
		case store.PolicyEntry:
			c, ok := policyFile[e.Name]
			if e.Source == "api" || !ok || s.redis != nil {
				c, err = config.ParsePolicy(e.Value)
			}
			c.Source = e.Source
			problems = append(problems, err)
			policies = append(policies, c)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, nil, err
	}
	if tools, policies, err = s.control.overlay(cfg, tools, policies); err != nil {
		return nil, nil, err
	}
	return tools, policies, s.remember(tools)
}

// toolOfEntry is the tool that an entry stands for. False: it stands over one that is not in the file here.
func (s *sidecar) toolOfEntry(e store.Entry, fromFile map[string]tool.Config) (c tool.Config, holds bool, err error) {
	var filed *tool.Config
	if t, ok := fromFile[e.Name]; ok {
		filed = &t
	}
	switch {
	case filed == nil && e.Source == "api" && overFile(e.Value):
		return c, false, nil
	case e.Source == "api" || filed == nil:
		c, err = s.toolEntry(e, filed)
	case s.redis != nil:
		c, err = s.sharedByFile(e, filed)
	default:
		c = *filed
	}
	return c, true, err
}

// remembered is a tool's definition as the store keeps it.
type remembered struct {
	Definition tool.Definition
	Life       time.Duration // of a key made under it
	Previous   []tool.Definition
}

// remember gives each tool the earlier definitions whose keys may still be alive, and keeps the present one.
func (s *sidecar) remember(tools []*tool.Tool) error {
	known := map[string]remembered{}
	for _, e := range s.store.Entries() {
		var r remembered
		if e.Kind == definitionEntry && json.Unmarshal(e.Value, &r) == nil {
			known[e.Name] = r
		}
	}
	for _, t := range tools {
		name := entryName(t.Name, t.Scope)
		now := time.Now()
		if was, ok := known[name]; ok {
			t.Previous = tool.Joined(tool.Changed(was.tool(), t, now), t.Previous) // a control plane may know of earlier ones
		}
		next := remembered{t.Definition(), t.KeyLife(), t.Previous}
		value, err := json.Marshal(next)
		if err != nil {
			return err
		}
		if was, err := json.Marshal(known[name]); err == nil && string(was) == string(value) {
			continue
		}
		err = s.store.Put(s.ctx, store.Entry{Kind: definitionEntry, Name: name, Value: value, Must: true}, "sidecar")
		if err != nil && s.redis != nil {
			s.log.Warn("what a tool's keys are made of is not in the store yet", "tool", name, "error", err.Error())
			err = nil // it is written with the next change; this process knows it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tool is a tool with that definition.
func (r *remembered) tool() *tool.Tool {
	t := &tool.Tool{Previous: r.Previous}
	t.Target.Authority, t.Target.Path = r.Definition.Authority, r.Definition.Path
	t.Dedup.Scope, t.Dedup.Ignore, t.Dedup.TTL = r.Definition.Scope, r.Definition.Ignore, r.Life
	return t
}

// registry is tools and policies as the api sees and changes them.
type registry struct{ s *sidecar }

func (b registry) Tools() []api.Entry {
	var list []api.Entry
	for _, t := range b.s.governor.Snapshot().Registry.Tools() {
		id, mask := b.secretOf(t)
		spec, _ := json.Marshal(map[string]any{
			"name": t.Name, "scope": t.Scope, "url": t.Target.String(), "effect": t.Effect.String(), "enabled": t.Enabled,
			"price_usd": t.Price.String(), "timeout": t.Timeout.String(), "max_retries": t.MaxRetries, "signed": t.Auth != nil,
			"description": t.Description, "timeout_ms": t.Timeout.Milliseconds(), "body": t.Body.String(),
			"has_secret": t.Auth != nil, "secret_id": id, "secret_mask": mask,
		})
		list = append(list, api.Entry{Name: t.Name, Scope: t.Scope, Source: t.Source, Spec: spec})
	}
	return list
}

func (b registry) Policies() []api.Entry {
	var list []api.Entry
	for _, p := range b.s.governor.Snapshot().Policies.All() {
		spec, _ := json.Marshal(policySpec(p.Config()))
		list = append(list, api.Entry{Name: p.AgentID(), Source: p.Source(), Spec: spec})
	}
	return list
}

// policySpec is a policy in the words of the configuration file, without what it does not set.
func policySpec(c policy.Config) map[string]any {
	spec := map[string]any{"agent_id": c.AgentID}
	set := func(name string, value any, is bool) {
		if is {
			spec[name] = value
		}
	}
	set("template", c.Template, c.Template != "")
	set("mode", c.Mode, c.Mode != "")
	set("max_actions_per_hour", c.MaxActionsPerHour, c.MaxActionsPerHour != nil)
	set("max_spend_usd_per_day", c.MaxSpendUSDPerDay, c.MaxSpendUSDPerDay != nil)
	set("allowed_tools", c.AllowedTools, len(c.AllowedTools) > 0)
	set("blocked_tools", c.BlockedTools, len(c.BlockedTools) > 0)
	set("max_calls_per_tool", c.MaxCallsPerTool, len(c.MaxCallsPerTool) > 0)
	set("allow_force_new", c.AllowForceNew, c.AllowForceNew)
	set("anomaly", c.Anomaly, c.Anomaly != "")
	rules := []map[string]any{}
	for _, r := range c.PricingRules {
		rules = append(rules, map[string]any{"tool": r.Tool, "price_usd": r.PriceUSD.String()})
	}
	set("pricing_rules", rules, len(rules) > 0)
	return spec
}

// Put takes an entry whole or not at all: it must make a valid snapshot together with all others.
func (b registry) Put(ctx context.Context, kind api.Kind, spec []byte, who string) (api.Entry, error) {
	b.s.editing.Lock()
	defer b.s.editing.Unlock()
	if kind == api.KeyEntry {
		return b.putKey(ctx, spec, who)
	}
	entry := store.Entry{Value: spec, Source: "api"}
	shown := api.Entry{Source: "api", Spec: spec}
	if kind == api.ToolEntry {
		c, err := config.ParseTool(spec)
		if err != nil {
			return api.Entry{}, &api.Invalid{Message: err.Error()}
		}
		entry.Kind, entry.Name, shown.Name, shown.Scope = store.ToolEntry, entryName(c.Name, c.Scope), c.Name, cmp.Or(c.Scope, "global")
		return shown, b.putTool(ctx, entry, c, who)
	}
	c, err := config.ParsePolicy(spec)
	if err != nil {
		return api.Entry{}, &api.Invalid{Message: err.Error()}
	}
	c.Source = "api"
	tools, policies := b.current()
	if policies[c.AgentID].Source == controlSource {
		return api.Entry{}, errControlled
	}
	policies[c.AgentID] = c
	entry.Kind, entry.Name, shown.Name = store.PolicyEntry, c.AgentID, c.AgentID
	return shown, b.hold(ctx, entry, slices.Collect(maps.Values(tools)), slices.Collect(maps.Values(policies)), who)
}

// hold makes the entry durable and what requests see, if all entries with it make a valid snapshot.
func (b registry) hold(ctx context.Context, entry store.Entry, tools []*tool.Tool, policies []policy.Config, who string) error {
	if _, err := newSnapshot(b.s.cfg.Load(), tools, policies); err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	if err := b.s.store.Put(ctx, entry, who); errors.Is(err, store.ErrMoved) {
		return api.ErrConflict
	} else if err != nil {
		return storeError(err)
	}
	b.logChange("set", entry.Kind, entry.Name, who)
	return b.s.refreshSnapshot()
}

// logChange tells whoever reads the log that an operator changed what holds; the audit has it too.
func (b registry) logChange(what string, kind store.EntryKind, name, who string) {
	b.s.log.Info("changed through the api", string(kind), name, "what", what, "by", who)
}

// Delete removes an entry, also one of the file until the file changes it.
func (b registry) Delete(ctx context.Context, kind api.Kind, name, scope, who string) error {
	b.s.editing.Lock()
	defer b.s.editing.Unlock()
	if kind == api.KeyEntry {
		return b.revokeKey(ctx, name, who)
	}
	of := store.PolicyEntry
	if kind == api.ToolEntry {
		of, name = store.ToolEntry, entryName(name, scope)
	}
	if b.controls(of, name) {
		return errControlled
	}
	err := b.s.store.Delete(ctx, of, name, who)
	if errors.Is(err, store.ErrNoEntry) {
		return api.ErrNotFound
	}
	if err != nil {
		return storeError(err)
	}
	b.logChange("deleted", of, name, who)
	return b.s.refreshSnapshot()
}

// current are the entries that hold, by the names they are kept under.
func (b registry) current() (map[string]*tool.Tool, map[string]policy.Config) {
	tools, policies := map[string]*tool.Tool{}, map[string]policy.Config{}
	snapshot := b.s.governor.Snapshot()
	for _, t := range snapshot.Registry.Tools() {
		tools[entryName(t.Name, t.Scope)] = t
	}
	for _, p := range snapshot.Policies.All() {
		policies[p.AgentID()] = p.Config()
	}
	return tools, policies
}

// refreshSnapshot makes the entries that hold now what the next requests see.
func (s *sidecar) refreshSnapshot() error {
	if err := s.refreshKeys(); err != nil {
		return err
	}
	cfg := s.cfg.Load()
	snapshot, err := s.snapshot(cfg)
	if err != nil {
		return fmt.Errorf("the change is kept, and what holds could not be put together: %w", err)
	}
	s.swap(snapshot)
	return nil
}
