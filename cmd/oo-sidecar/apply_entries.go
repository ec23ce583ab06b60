package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// application is a set of definitions on its way into the store.
type application struct {
	s        *sidecar
	fromFile map[string]tool.Config
	stands   map[string]store.Entry // by kind and name
	named    map[string]bool        // the same, of the definitions so far
	tools    map[string]*tool.Tool
	policies map[string]policy.Config
	keys     []api.SharedKey
	entries  []store.Entry // to be put
	applied  []api.Applied
}

// Apply has an operator's definitions hold: see api.Applier.
func (b registry) Apply(ctx context.Context, d *api.Definitions, who string) ([]api.Applied, error) {
	b.s.editing.Lock()
	defer b.s.editing.Unlock()
	a := b.application()
	for i := range d.Tools {
		if err := a.addTool(&d.Tools[i]); err != nil {
			return nil, err
		}
	}
	for _, spec := range d.Policies {
		if err := a.addPolicy(spec); err != nil {
			return nil, err
		}
	}
	if _, err := newSnapshot(b.s.cfg.Load(), slices.Collect(maps.Values(a.tools)), slices.Collect(maps.Values(a.policies))); err != nil {
		return nil, &api.Invalid{Message: err.Error()}
	}
	for _, spec := range d.Keys {
		if err := a.addKey(spec); err != nil {
			return nil, err
		}
	}
	if err := b.s.operable(a.keys); err != nil {
		return nil, err
	}
	var done []string
	for _, e := range a.entries {
		if err := b.s.store.Put(ctx, e, who); err != nil {
			return nil, errors.Join(unfinished(e, done, err), b.s.refreshSnapshot())
		}
		b.logChange("set", e.Kind, e.Name, who)
		done = append(done, string(e.Kind)+" "+e.Name)
	}
	return a.applied, b.s.refreshSnapshot()
}

// unfinished says which entry was not changed, and which were before it.
func unfinished(e store.Entry, done []string, err error) error {
	before := "nothing was changed"
	if len(done) > 0 {
		before = "these were changed before: " + strings.Join(done, ", ")
		if !errors.Is(err, store.ErrMoved) {
			err = fmt.Errorf("%w: %w", store.ErrUncertain, err)
		}
	}
	if errors.Is(err, store.ErrMoved) {
		return fmt.Errorf("%w: %s %s; %s", api.ErrConflict, e.Kind, e.Name, before)
	}
	return fmt.Errorf("%w (%s %s; %s)", storeError(err), e.Kind, e.Name, before)
}

func (b registry) application() *application {
	a := &application{s: b.s, fromFile: map[string]tool.Config{}, stands: map[string]store.Entry{}, named: map[string]bool{}}
	a.tools, a.policies = b.current()
	a.keys = b.s.sharedKeys()
	for _, t := range b.s.cfg.Load().Tools {
		a.fromFile[entryName(t.Name, t.Scope)] = t
	}
	for _, e := range b.s.store.Entries() {
		a.stands[string(e.Kind)+" "+e.Name] = e
	}
	return a
}

func (a *application) addTool(d *api.ToolDefinition) error {
	c, err := config.ParseTool(d.Spec)
	if err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	c.Headers = d.Headers
	if d.Auth != nil {
		c.Auth = &tool.AuthConfig{Type: d.Auth.Type, Scheme: d.Auth.Scheme, Secrets: d.Auth.Secrets}
	}
	name := entryName(c.Name, c.Scope)
	if err := a.once(store.ToolEntry, name); err != nil {
		return err
	}
	if was := a.tools[name]; was != nil && was.Source == controlSource {
		return &api.Invalid{Message: "tool " + c.Name + ": " + errControlled.Message}
	}
	e, stands := a.stands["tool "+name]
	t, err := a.s.cfg.Load().Rules().New(c)
	if err != nil {
		return &api.Invalid{Message: fmt.Sprintf("tool %s: %v", c.Name, err)}
	}
	value, err := a.toolValue(name, c)
	if err != nil {
		return err
	}
	same := false
	if stands {
		was, holds, err := a.s.toolOfEntry(e, a.fromFile)
		same = holds && err == nil && sameTool(was, c)
	}
	t.Source = "api"
	a.tools[name] = t
	a.add(store.Entry{Kind: store.ToolEntry, Name: name, Value: value}, e.Revision, stands, same, api.Applied{Kind: api.ToolEntry, Name: c.Name, Scope: cmp.Or(c.Scope, "global")})
	return nil
}

// sameTool says whether two entries mean the same tool.
func sameTool(a, b tool.Config) bool {
	x, err1 := config.ToolSpec(a)
	y, err2 := config.ToolSpec(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y) && reflect.DeepEqual(a.Auth, b.Auth) && len(a.Headers) == len(b.Headers) &&
		(len(a.Headers) == 0 || reflect.DeepEqual(a.Headers, b.Headers))
}

// toolValue is a tool as it is kept. Secrets that stand in the running sidecar's file as well stay there; others are sealed.
func (a *application) toolValue(name string, c tool.Config) ([]byte, error) {
	n := needsOf(c)
	if own, ok := a.fromFile[name]; n.nothing() || ok && sameTarget(own, c) && reflect.DeepEqual(own.Auth, c.Auth) && reflect.DeepEqual(own.Headers, c.Headers) {
		return sharedTool(c)
	}
	if a.s.seal == nil {
		return nil, &api.Invalid{Message: "tool " + c.Name + ": " + errNoSeal.Error()}
	}
	spec, err := config.ToolSpec(c)
	if err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(spec, &members); err != nil {
		return nil, err
	}
	secrets, err := json.Marshal(credentials{c.Auth, c.Headers})
	if err != nil {
		return nil, err
	}
	if members[credentialsMember], err = json.Marshal(a.s.seal.Seal(name, secrets)); err != nil {
		return nil, err
	}
	return json.Marshal(members)
}

func (a *application) addPolicy(spec []byte) error {
	c, err := config.ParsePolicy(spec)
	if err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	if err := a.once(store.PolicyEntry, c.AgentID); err != nil {
		return err
	}
	value, err := config.PolicySpec(c)
	if err != nil {
		return err
	}
	if a.policies[c.AgentID].Source == controlSource {
		return &api.Invalid{Message: "policy " + c.AgentID + ": " + errControlled.Message}
	}
	e, stands := a.stands["policy "+c.AgentID]
	same := false
	if was, ok := a.policies[c.AgentID]; ok && stands {
		before, err := config.PolicySpec(was)
		same = err == nil && bytes.Equal(before, value)
	}
	c.Source = "api"
	a.policies[c.AgentID] = c
	a.add(store.Entry{Kind: store.PolicyEntry, Name: c.AgentID, Value: value}, e.Revision, stands, same, api.Applied{Kind: api.PolicyEntry, Name: c.AgentID})
	return nil
}

// addKey shares an operator's key, unless it is the one of the running sidecar's file: there the file goes on deciding.
func (a *application) addKey(spec []byte) error {
	c, err := config.ParseKey(spec)
	if err != nil {
		return &api.Invalid{Message: err.Error()}
	}
	if err := a.once(store.KeyEntry, c.Name); err != nil {
		return err
	}
	k := api.Shared(c)
	if err := fresh(&k, a.keys); err != nil {
		return err
	}
	value, err := json.Marshal(k)
	if err != nil {
		return err
	}
	e, stands := a.stands["key "+c.Name]
	same := bytes.Equal(e.Value, value)
	if !stands {
		stands = slices.Contains(a.s.cfg.Load().API.Keys, c)
		same = stands
	}
	a.keys = append(slices.DeleteFunc(a.keys, func(x api.SharedKey) bool { return x.Name == k.Name }), k)
	a.add(store.Entry{Kind: store.KeyEntry, Name: c.Name, Value: value}, e.Revision, stands, same, api.Applied{Kind: api.KeyEntry, Name: c.Name})
	return nil
}

// once refuses an entry that was named before: which of the two is to hold, nobody has said.
func (a *application) once(kind store.EntryKind, name string) error {
	id := string(kind) + " " + name
	if a.named[id] {
		return &api.Invalid{Message: id + " stands there twice; name each once"}
	}
	a.named[id] = true
	return nil
}

// add notes what is to become of an entry: nothing, where it says what stands.
func (a *application) add(e store.Entry, revision uint64, stands, same bool, shown api.Applied) {
	shown.Change = "created"
	switch {
	case stands && same:
		shown.Change = "unchanged"
	case stands:
		shown.Change = "changed"
	}
	if !same {
		e.Source, e.Replaces = "api", &revision
		a.entries = append(a.entries, e)
	}
	a.applied = append(a.applied, shown)
}
