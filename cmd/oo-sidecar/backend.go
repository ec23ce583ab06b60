package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/health"
	"github.com/oo-sidecar/oo-sidecar/internal/metrics"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
)

// switchboard is the kill switch as the api sees it.
type switchboard struct{ s *sidecar }

// Switches lists every agent that the configuration names, has a policy or is switched off.
func (b switchboard) Switches() []api.Switch {
	seen := map[string]bool{}
	var list []api.Switch
	for _, sw := range b.s.store.Switches() {
		seen[sw.Agent] = true
		list = append(list, shownSwitch(sw))
	}
	for _, sw := range b.s.control.switches() {
		if shown, ok := b.controlled(sw.Agent); ok && !seen[sw.Agent] {
			seen[sw.Agent] = true
			list = append(list, shown)
		}
	}
	cfg := b.s.cfg.Load()
	names := append([]string{cfg.Agent.ID}, slices.Sorted(maps.Keys(cfg.Agent.ProxyUsers))...)
	for _, k := range cfg.API.Keys {
		if k.AgentID != "" {
			names = append(names, k.AgentID)
		}
	}
	for _, p := range b.s.governor.Snapshot().Policies.All() {
		names = append(names, p.AgentID())
	}
	for _, name := range names {
		if !seen[name] && name != store.Everyone {
			seen[name] = true
			list = append(list, api.Switch{AgentID: name})
		}
	}
	return list
}

func shownSwitch(sw store.Switch) api.Switch {
	return api.Switch{AgentID: sw.Agent, Off: sw.Disabled, Reason: sw.Reason, Since: sw.Since}
}

func (b switchboard) Disable(ctx context.Context, agent, reason, who string) (api.Switch, error) {
	sw, err := b.s.store.Disable(ctx, agent, reason, who)
	if errors.Is(err, dedup.ErrDeferred) { // it binds, and will be the first thing written
		b.s.log.Error("the kill switch is thrown and not durable yet", "agent", agent, "error", err.Error())
		shown := shownSwitch(sw)
		shown.Pending = "it binds this sidecar at once; it is durable, and binds others, when the store takes it"
		return shown, nil
	}
	return shownSwitch(sw), storeError(err)
}

func (b switchboard) Enable(ctx context.Context, agent, reason, who string) (api.Switch, error) {
	sw, err := b.s.store.Enable(ctx, agent, reason, who)
	if shown, ok := b.controlled(agent); ok && err == nil { // what holds is what is said
		return shown, nil
	}
	return shownSwitch(sw), storeError(err)
}

// controlled is the control plane's own switch of the agent, which nobody turns here.
func (b switchboard) controlled(agent string) (api.Switch, bool) {
	for _, sw := range b.s.control.switches() {
		if sw.Agent == agent {
			return api.Switch{AgentID: sw.Agent, Off: true, Reason: sw.Reason + " (the control plane's switch)", Since: sw.At}, true
		}
	}
	return api.Switch{}, false
}

func storeError(err error) error {
	switch {
	case errors.Is(err, store.ErrUncertain):
		return fmt.Errorf("%w: %w: %w", api.ErrStore, api.ErrUncertain, err)
	case errors.Is(err, dedup.ErrUnavailable), errors.Is(err, dedup.ErrDeferred):
		return fmt.Errorf("%w: %w", api.ErrStore, err)
	}
	return err
}

// spent is what the agent has used of its limits.
func (s *sidecar) spent(tenant, agent, name string) api.Spent {
	u := s.store.Usage(tenant, agent, name)
	return api.Spent{HourCalls: u.HourCalls, ToolCalls: u.ToolCalls, Spend: u.DaySpend}
}

// unknowns are the open calls as the api sees them.
type unknowns struct{ s *sidecar }

func (b unknowns) Unknowns() ([]api.Unknown, error) {
	calls, err := b.s.unknowns()
	if err != nil {
		return nil, storeError(err)
	}
	list := make([]api.Unknown, 0, len(calls))
	for _, c := range calls {
		list = append(list, api.Unknown{
			Key: c.Key, Shown: b.s.mask.Load().Shown(c.Key), Tenant: c.Tenant, Agent: c.Agent, Tool: c.Tool, Effect: c.Effect.String(),
			Claimed: c.Claimed, Ended: c.Ended, Fence: c.Fence, Attempt: c.Attempt, Timeout: c.Timeout,
			SpendUSD: c.Cost.String(), RequestID: c.RequestID,
		})
	}
	return list, nil
}

// unknowns are all of the store, or an error: Redis may be away.
func (s *sidecar) unknowns() ([]store.UnknownCall, error) {
	if s.redis != nil {
		return s.redis.ListUnknowns()
	}
	return s.store.Unknowns(), nil
}

func (b unknowns) Resolve(ctx context.Context, r *dedup.Resolution) error {
	for _, c := range b.s.store.Open() {
		if t, ok := b.s.governor.Snapshot().Registry.ByName(c.Tool, c.Agent); ok && c.Key == r.Key {
			r.Keep = t.Dedup.TTL
		}
	}
	return storeError(b.s.store.Resolve(ctx, r, b.s.mask.Load().Shown(r.Key)))
}

// query answers audit queries from the journal: all that was recorded when it was asked, as far as the disk takes it
// within a second.
func (s *sidecar) query(ctx context.Context, q audit.Query) ([]audit.Row, error) {
	s.written(ctx)
	return q.Find(s.store.Journal())
}

// walk is query for who wants no list.
func (s *sidecar) walk(ctx context.Context, q audit.Query, visit func(audit.Row) error) error {
	s.written(ctx)
	return q.Each(s.store.Journal(), visit)
}

// written waits, a second at most, until what has been recorded so far can be read.
func (s *sidecar) written(ctx context.Context) {
	asked := s.store.Journal().Status().Last
	for end := time.Now().Add(time.Second); s.store.Journal().Status().Newest < asked && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(2 * time.Millisecond)
	}
}

// status is what the sidecar says of itself to an operator.
func (s *sidecar) status() api.Status {
	cfg := s.cfg.Load()
	st := api.Status{
		Version: buildVersion(), Config: cfg.Path(), Digest: configDigest(cfg), Started: s.started, Process: os.Getpid(), Agent: cfg.Agent.ID,
		Proxy: s.listeners.proxy.Addr().String(), API: s.listeners.api.Addr().String(), Health: s.listeners.health.Addr().String(),
		Journal: cfg.Store.Embedded.Dir, Guarantee: s.guarantee(), Unknown: s.store.UnknownCount(), Running: s.governor.Running(),
		Problems: map[string]string{},
	}
	if s.members != nil {
		n := s.members.Len()
		st.Runs = &n
	}
	for _, c := range s.health.Checks {
		if err := c.Err(); err != nil {
			st.Problems[c.Name] = err.Error()
		}
	}
	return st
}

// digest is equal for equal configurations. It holds secrets, so only its mask is shown.
func digest(cfg any) string {
	data, err := json.Marshal(cfg)
	if err != nil {
		return ""
	}
	return digestOf(data)
}

// configDigest is equal for equal configurations of the same store, from whatever directory they were loaded.
func configDigest(cfg *config.Config) string {
	c := *cfg
	if dir, err := filepath.Abs(c.Store.Embedded.Dir); err == nil {
		c.Store.Embedded.Dir = dir
	}
	return digest(&c)
}

// facts are the lines of /readyz?verbose.
func (s *sidecar) facts() []health.Line {
	st := s.store.Stats()
	lines := []health.Line{
		{Key: "version", Value: buildVersion()},
		{Key: "instance", Value: s.instance},
		{Key: "user", Value: fmt.Sprint(os.Getuid())},
		{Key: "guarantee", Value: s.guarantee()},
		{Key: "store_created", Value: fmt.Sprint(s.store.Created())},
		{Key: "journal", Value: st.Journal.ID},
		{Key: "journal_bytes", Value: fmt.Sprint(st.Journal.Bytes)},
		{Key: "unknown_outcomes", Value: fmt.Sprint(st.Unknown)},
		{Key: "running", Value: fmt.Sprint(s.governor.Running())},
		{Key: "policy_snapshot_age_s", Value: fmt.Sprint(int64(s.snapshotAge().Seconds()))},
	}
	lines = append(lines, s.control.lines()...)
	if s.redis == nil {
		lines = append(lines, health.Line{Key: "keys", Value: fmt.Sprint(st.Keys)}) // in Redis nobody counts them
	} else {
		for _, f := range s.redis.Facts() {
			lines = append(lines, health.Line{Key: f[0], Value: f[1]})
		}
	}
	if jump := st.Journal.Jump; !jump.At.IsZero() {
		lines = append(lines, health.Line{Key: "clock", Value: fmt.Sprintf("jumped by %s at %s", jump.By, jump.At.Format(time.RFC3339))})
	}
	return lines
}

// refresh sets the gauges that only the store knows, before a scrape.
func (s *sidecar) refresh(m *metrics.Metrics) {
	m.Unknown(s.store.UnknownCount())
	m.Budgets(s.budgets())
}

// budgets are those of the agents that the configuration or a policy names and that a daily cap binds.
func (s *sidecar) budgets() (all []metrics.Budget) {
	policies := s.governor.Snapshot().Policies
	agents := []string{s.cfg.Load().Agent.ID}
	for _, p := range policies.All() {
		agents = append(agents, p.AgentID())
	}
	slices.Sort(agents)
	for _, agent := range slices.Compact(agents) {
		if limit := policies.For(agent).Limits("").SpendPerDay; limit != nil && agent != store.Everyone {
			all = append(all, metrics.Budget{Agent: agent, Spent: s.store.Usage(proxyTenant, agent, "").DaySpend, Cap: *limit})
		}
	}
	return all
}

// proxyTenant is whose calls the proxy's are (semantics: the namespace of keys without one).
const proxyTenant = "default"
