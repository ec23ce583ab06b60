package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/control"
	"github.com/oo-sidecar/oo-sidecar/internal/health"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// controlSource is the source of entries that the control plane owns.
const controlSource = "control"

var errControlled = &api.Invalid{Message: "the control plane owns this entry; change it there"}

// controlled is this sidecar's control plane and what it said last. A nil one is a sidecar without.
type controlled struct {
	cfg      control.Config
	follower *control.Follower
	leases   *control.Leases // nil with lease: local
	events   *control.Deliverer
	said     atomic.Pointer[said]
}

// said is what the control plane said last; swapped whole.
type said struct {
	snapshot *control.Snapshot
	switches []control.Switch // agents that are switched off
	off      map[string]bool  // the same, by agent
}

// controlDir is where what belongs to the control plane is kept, beside the store.
func controlDir(cfg *config.Config) string { return filepath.Join(cfg.Store.Embedded.Dir, "control") }

// useControl puts what was kept of the control plane in force.
func (s *sidecar) useControl(cfg *config.Config) error {
	if cfg.Control.BaseURL == "" {
		return nil
	}
	s.control = &controlled{cfg: cfg.Control}
	s.governor.Stale = s.stale
	// The kept snapshot is judged alone, against the configuration; what is wrong with it costs it, not the start.
	if err := s.loadFile(cfg); err != nil {
		return err
	}
	var err error
	s.control.follower, err = control.Follow(cfg.Control, control.Options{
		Dir: controlDir(cfg), Agents: s.agents, Apply: s.obey, Alarm: s.metrics.RollbackRefused, Fresh: s.metrics.Current, Log: s.log,
	})
	if err != nil {
		return err
	}
	if s.control.events, err = control.NewDeliverer(s.control.follower, s.store.Journal().Status().ID, s.records()); err != nil {
		return err
	}
	s.governor.Scope = s.control.scope
	if cfg.Control.Lease != "remote" {
		return nil
	}
	if s.control.leases, err = control.NewLeases(s.store, s.control.follower, s.metrics.DoubleExecution); err != nil {
		return err
	}
	s.governor.Store, s.governor.Holds = s.control.leases, s.control.leases.Holds
	return nil
}

// stale says why calls with effects are refused by the age of the policies; nil: they are not.
func (s *sidecar) stale() error {
	if s.control == nil || s.control.follower == nil || !s.control.follower.Stale() {
		return nil
	}
	return s.control.follower.Err()
}

// records reads the audit for who delivers it, oldest first. The journal is not read again before something is written.
func (s *sidecar) records() func(after uint64, most int) ([]audit.Row, error) {
	looked := uint64(0)
	return func(after uint64, most int) ([]audit.Row, error) {
		newest := s.store.Journal().Status().Newest
		if newest <= max(after, looked) {
			return nil, nil
		}
		q := audit.Query{After: after, Limit: most, OldestFirst: true}
		rows, err := q.Find(s.store.Journal())
		if err == nil && len(rows) == 0 {
			looked = newest
		}
		return rows, err
	}
}

// scope says who counts calls against limits.
func (c *controlled) scope() string {
	if c.leases != nil && c.follower.Native() {
		return "control"
	}
	return "process"
}

// end says what is still owed to the control plane and ends.
func (c *controlled) end(ctx context.Context) {
	if c != nil && c.leases != nil {
		_ = c.leases.Close(ctx)
	}
}

// guarantee says in words what this sidecar promises of a call.
func (s *sidecar) guarantee() string {
	if s.control == nil || s.control.leases == nil {
		return s.store.Guarantee()
	}
	return s.store.Guarantee() + "; on this sidecar. Between sidecars: at most once while the control plane keeps its leases (a sidecar that dies or is paused for longer than its lease may have run a call that another one then runs)"
}

// startControl has the control plane be followed, once this sidecar serves.
func (s *sidecar) startControl() {
	if s.control != nil {
		go s.control.follower.Run(s.ctx)
		go s.control.events.Run(s.ctx)
		if s.control.leases != nil {
			go s.control.leases.Run(s.ctx)
		}
	}
}

// agents are those whose switches matter here.
func (s *sidecar) agents() []string {
	names := map[string]bool{}
	for _, sw := range (switchboard{s}).Switches() {
		names[sw.AgentID] = sw.AgentID != store.Everyone
	}
	maps.DeleteFunc(names, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(names))
}

// obey has a snapshot of the control plane hold, whole or not at all.
func (s *sidecar) obey(next *control.Snapshot) error {
	s.editing.Lock()
	defer s.editing.Unlock()
	fresh := &said{snapshot: next, switches: next.Agents, off: map[string]bool{}}
	for _, sw := range next.Agents {
		fresh.off[sw.Agent] = true
	}
	before := s.control.said.Swap(fresh)
	cfg := s.cfg.Load()
	snapshot, err := s.snapshot(cfg)
	if err != nil {
		if before != nil {
			fresh = &said{snapshot: before.snapshot, switches: next.Agents, off: fresh.off} // a switch that was thrown binds although the rest does not
		} else {
			fresh = &said{snapshot: &control.Snapshot{}, switches: next.Agents, off: fresh.off}
		}
		s.control.said.Store(fresh)
	} else {
		s.swap(snapshot)
	}
	s.turned(before, fresh, next)
	return err
}

// turned tells of agents whose switch is another one now.
func (s *sidecar) turned(before, now *said, next *control.Snapshot) {
	was := map[string]bool{}
	if before != nil {
		was = before.off
	}
	for _, sw := range next.Agents {
		if !was[sw.Agent] {
			s.switched(sw.Agent, true)
			if !sw.At.IsZero() && before != nil {
				s.metrics.Propagated(time.Since(sw.At))
			}
		}
	}
	for agent := range was {
		if _, own := s.store.Disabled(agent); !now.off[agent] && !own {
			s.switched(agent, false)
		}
	}
}

// disabled says whether the control plane has switched the agent off.
func (c *controlled) disabled(agent string) bool {
	if c == nil {
		return false
	}
	said := c.said.Load()
	return said != nil && len(said.off) > 0 && (said.off[store.Everyone] || said.off[agent])
}

// holds says whether the control plane has switched this very agent off, by its name.
func (c *controlled) holds(agent string) bool {
	if c == nil {
		return false
	}
	said := c.said.Load()
	return said != nil && said.off[agent]
}

// switches are the agents that the control plane has switched off.
func (c *controlled) switches() []control.Switch {
	if c == nil || c.said.Load() == nil {
		return nil
	}
	return c.said.Load().switches
}

// overlay puts the control plane's tools and policies in the place of local ones of the same name.
func (c *controlled) overlay(cfg *config.Config, tools []*tool.Tool, policies []policy.Config) ([]*tool.Tool, []policy.Config, error) {
	if c == nil || c.said.Load() == nil {
		return tools, policies, nil
	}
	snapshot := c.said.Load().snapshot
	var problems []error
	for i := range snapshot.Tools {
		t, err := remoteTool(cfg, &snapshot.Tools[i])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		tools = slices.DeleteFunc(tools, func(old *tool.Tool) bool {
			return old.Source != controlSource && entryName(old.Name, old.Scope) == entryName(t.Name, t.Scope)
		})
		tools = append(tools, t)
	}
	for _, spec := range snapshot.Policies {
		p, err := config.ParsePolicy(spec)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		p.Source = controlSource
		policies = slices.DeleteFunc(policies, func(old policy.Config) bool { return old.Source != controlSource && old.AgentID == p.AgentID })
		policies = append(policies, p)
	}
	return tools, policies, errors.Join(problems...)
}

// remoteTool makes a tool of the control plane's, with the secrets that this sidecar's configuration has for it.
func remoteTool(cfg *config.Config, r *control.Tool) (*tool.Tool, error) {
	c, err := config.ParseTool(r.Spec)
	if err != nil {
		return nil, err
	}
	c.Source = controlSource
	var own control.Credential
	for _, k := range cfg.Control.Credentials {
		if k.Tool == c.Name {
			own = k
		}
	}
	astray, gone := own.Host != "" && leadsAstray(&c, own.Host), false
	if r.Signed != "" || len(own.Secrets) > 0 {
		c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Scheme: r.Signed, Secrets: own.Secrets}
		if len(own.Secrets) == 0 || astray {
			c.Auth.Secrets, c.Auth.Gone = nil, true
		}
	}
	if c.Headers = own.Headers; astray {
		c.Headers, gone = nil, true
	}
	for _, name := range r.Headers {
		gone = gone || !slices.ContainsFunc(slices.Collect(maps.Keys(c.Headers)), func(have string) bool { return strings.EqualFold(have, name) })
	}
	t, err := cfg.Rules().New(c)
	if err != nil {
		return nil, err
	}
	t.SecretGone = t.SecretGone || gone
	for _, d := range r.Previous {
		if d.Until.After(time.Now()) {
			t.Previous = append(t.Previous, d)
		}
	}
	return t, nil
}

// leadsAstray says whether a tool has a host that a credential is not for: its own, or that of forwarded calls.
func leadsAstray(c *tool.Config, host string) bool {
	return !leadsTo(c.URL, host) || slices.ContainsFunc(c.Match, func(m tool.MatchConfig) bool { return !leadsTo(m.URL, host) })
}

// leadsTo says whether a tool's url is on the host that a credential is for; one without port means the scheme's.
func leadsTo(url, host string) bool {
	scheme, rest, _ := strings.Cut(url, "://")
	authority, _, _ := strings.Cut(rest, "/")
	authority, _, _ = strings.Cut(authority, "?")
	at, err := tool.ParseAuthority(scheme, authority)
	if err != nil {
		return false
	}
	wanted, err := tool.ParseAuthority(scheme, host)
	return err == nil && wanted == at
}

// controls says whether the control plane owns an entry.
func (b registry) controls(kind store.EntryKind, name string) bool {
	snapshot := b.s.governor.Snapshot()
	for _, t := range snapshot.Registry.Tools() {
		if kind == store.ToolEntry && t.Source == controlSource && entryName(t.Name, t.Scope) == name {
			return true
		}
	}
	for _, p := range snapshot.Policies.All() {
		if kind == store.PolicyEntry && p.Source() == controlSource && p.AgentID() == name {
			return true
		}
	}
	return false
}

// snapshotAge is how long ago the policies that hold were last known to be current.
func (s *sidecar) snapshotAge() time.Duration {
	if s.control == nil {
		return time.Since(s.governor.Snapshot().At)
	}
	age, ever := s.control.follower.Age()
	if !ever {
		return time.Since(s.started)
	}
	return age
}

// lines are what /readyz?verbose says of the control plane: what it promises, and what it does not.
func (c *controlled) lines() []health.Line {
	if c == nil {
		return nil
	}
	state := "followed"
	if err := c.follower.Last(); err != nil {
		state = err.Error()
	}
	lines := []health.Line{{Key: "control", Value: state}}
	s := c.follower.Snapshot()
	switch {
	case s == nil:
	case s.Native:
		lines = append(lines, health.Line{Key: "control_promises", Value: fmt.Sprintf("policies, tools and switches of version %d; changes are pushed, and an older version is refused", s.Version)})
	case s.Blind:
		lines = append(lines, health.Line{Key: "control_promises", Value: fmt.Sprintf("policies and tools only, by polling every %s; its kill switch is not seen here, and an older policy cannot be told from a newer one", c.cfg.Poll)})
	default:
		lines = append(lines, health.Line{Key: "control_promises", Value: fmt.Sprintf("policies, tools and the switches of this sidecar's agents, by polling every %s; an older policy cannot be told from a newer one", c.cfg.Poll)})
	}
	lines = append(lines, health.Line{Key: "limit_scope", Value: c.scope()})
	told, err := c.events.State()
	line := fmt.Sprintf("delivered up to %d", told)
	if err != nil {
		line += ": " + err.Error()
	}
	lines = append(lines, health.Line{Key: "control_events", Value: line})
	if c.leases != nil {
		lines = append(lines, health.Line{Key: "leases", Value: c.leases.State()})
	}
	if s != nil && len(s.Ignored) > 0 {
		lines = append(lines, health.Line{Key: "control_ignored", Value: strings.Join(s.Ignored, ", ")})
	}
	return lines
}
