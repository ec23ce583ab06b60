package main

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// reload reads the configuration anew and makes it hold, whole or not at all.
func (s *sidecar) reload(load func() (*config.Config, []config.Problem, error), why string) {
	if err := s.tryReload(load); err != nil {
		s.metrics.Reload(false)
		s.log.Error("the configuration was not reloaded; the former one holds", "why", why, "error", err.Error())
		return
	}
	s.metrics.Reload(true)
	s.log.Info("configuration reloaded", "why", why)
}

func (s *sidecar) tryReload(load func() (*config.Config, []config.Problem, error)) error {
	next, warnings, err := load()
	if err != nil {
		return err
	}
	running := s.cfg.Load()
	if err := config.Reloadable(running, next); err != nil {
		return err
	}
	if err := s.upstream.Reload(next.Proxy, s.own()...); err != nil {
		return err
	}
	if err := s.use(next); err != nil {
		return errors.Join(err, s.upstream.Reload(running.Proxy, s.own()...))
	}
	if !reflect.DeepEqual(running.Proxy.Intercept, next.Proxy.Intercept) {
		if err := s.useCA(next); err != nil {
			return errors.Join(err, s.use(running), s.upstream.Reload(running.Proxy, s.own()...))
		}
	}
	s.proxy.Use(next.Proxy)
	for _, w := range warnings {
		s.log.Warn("configuration: " + w.Error())
	}
	return s.useKeys(next)
}

// use makes what can change while the sidecar runs hold for the next requests: file and api entries become one
// snapshot.
func (s *sidecar) use(cfg *config.Config) error {
	if err := s.loadFile(cfg); err != nil {
		return err
	}
	snapshot, err := s.snapshot(cfg)
	if err != nil {
		return err
	}
	s.cfg.Store(cfg)
	s.swap(snapshot)
	return nil
}

// swap has a snapshot hold for the requests that begin from now on.
func (s *sidecar) swap(snapshot *govern.Snapshot) {
	s.introduce()
	s.governor.Use(snapshot)
	s.changed()
	tools, agents := []string{}, []string{}
	for _, t := range snapshot.Registry.Tools() {
		tools = append(tools, t.Name)
	}
	for _, p := range snapshot.Policies.All() {
		agents = append(agents, p.AgentID())
	}
	s.metrics.Registered(tools, agents)
	if s.control == nil {
		s.metrics.Current(time.Now())
	}
}

// introduce says who may ask from now on: the configured agent or proxy users, and the children of `run`.
func (s *sidecar) introduce() {
	s.introducing.Lock()
	defer s.introducing.Unlock()
	agent := s.cfg.Load().Agent
	who := &proxy.Identity{Default: agent.ID, Users: agent.ProxyUsers}
	if s.members != nil {
		who.Guests, who.Guarded = s.members.all(), true
	}
	s.identity.Store(who)
	if s.proxy != nil {
		s.proxy.CloseDeparted()
	}
}

// snapshot makes one of the entries that hold: those of cfg, and those that the api changed later.
func (s *sidecar) snapshot(cfg *config.Config) (*govern.Snapshot, error) {
	tools, policies, err := s.entries(cfg)
	if err != nil {
		return nil, err
	}
	return newSnapshot(cfg, tools, policies)
}

func newSnapshot(cfg *config.Config, tools []*tool.Tool, policies []policy.Config) (*govern.Snapshot, error) {
	registry, err := tool.NewRegistry(tools)
	if err != nil {
		return nil, err
	}
	set, err := policy.New(policies)
	if err != nil {
		return nil, err
	}
	pass, err := proxy.NewPassthrough(cfg.Proxy.Passthrough)
	if err != nil {
		return nil, fmt.Errorf("proxy.passthrough: %w", err)
	}
	modes := map[string]govern.Unregistered{"deny": govern.Deny, "pass": govern.Pass, "govern": govern.Lightly}
	return govern.NewSnapshot(govern.Snapshot{
		Registry: registry, Policies: set, Unregistered: modes[cfg.Proxy.Unregistered], Passthrough: pass.Match, At: time.Now(),
	})
}
