package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Everyone is the agent whose switch stops all.
const Everyone = "*"

// Switch is one agent's kill switch.
type Switch struct {
	Agent    string
	Disabled bool
	Reason   string
	Who      string // name of the operator key
	Since    time.Time
}

// watchers are told of changes, outside the lock.
type watchers struct {
	onSwitch  []func(agent string, disabled bool)
	onEntries []func()
}

// OnSwitch calls f after each change of a switch.
func (e *Embedded) OnSwitch(f func(agent string, disabled bool)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watchers.onSwitch = append(e.watchers.onSwitch, f)
}

// Disabled says whether the agent's calls are refused, and by which switch: its own or everyone's. It takes no lock.
func (e *Embedded) Disabled(agent string) (Switch, bool) {
	switches := *e.switches.Load()
	if len(switches) == 0 {
		return Switch{}, false
	}
	if s, ok := switches[Everyone]; ok {
		return s, true
	}
	s, ok := switches[agent]
	return s, ok
}

// Switches are the agents that are disabled, by name.
func (e *Embedded) Switches() []Switch {
	return slices.SortedFunc(maps.Values(*e.switches.Load()), func(a, b Switch) int { return cmp.Compare(a.Agent, b.Agent) })
}

// Disable stops an agent, or Everyone. It holds at once, before it is durable: when it returns dedup.ErrDeferred the
// agent is stopped and the switch is among the first things written once the disk takes writes again.
func (e *Embedded) Disable(ctx context.Context, agent, reason, who string) (Switch, error) {
	s := Switch{Agent: agent, Disabled: true, Reason: reason, Who: who, Since: e.now()}
	return s, e.turn(ctx, s, "agent_disabled")
}

// Enable lets an agent go on. It holds once it is durable.
func (e *Embedded) Enable(ctx context.Context, agent, reason, who string) (Switch, error) {
	s := Switch{Agent: agent, Reason: reason, Who: who, Since: e.now()}
	return s, e.turn(ctx, s, "agent_enabled")
}

func (e *Embedded) turn(ctx context.Context, s Switch, what string) error {
	commit, err := e.appendSwitch(s, what)
	if err != nil {
		return fmt.Errorf("%w: the switch of %s is not recorded: %w", dedup.ErrUnavailable, s.Agent, err)
	}
	if s.Disabled {
		e.tell(s)
	}
	if err = commit.Wait(ctx); err != nil {
		if !s.Disabled {
			go func() {
				if commit.Durable(context.Background()) == nil {
					e.letGo(s)
				}
			}()
		}
		return fmt.Errorf("%w: %w", dedup.ErrDeferred, err)
	}
	if !s.Disabled {
		e.letGo(s)
	}
	return nil
}

func (e *Embedded) appendSwitch(s Switch, what string) (*journal.Commit, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change := audit.Change{Time: s.Since, Who: s.Who, What: what, Entity: s.Agent, Why: s.Reason}
	commit, err := e.j.Append(
		journal.Entry{Kind: kindSwitch, Fact: s.append(nil), Must: true},
		journal.Entry{Kind: audit.KindChange, Fact: change.Append(nil), Must: true},
	)
	if s.Disabled && !errors.Is(err, journal.ErrUnavailable) {
		e.throw(s)
	}
	return commit, err
}

// letGo applies an Enable, unless the agent was stopped again meanwhile.
func (e *Embedded) letGo(s Switch) {
	e.mu.Lock()
	old, ok := (*e.switches.Load())[s.Agent]
	if ok && !old.Since.After(s.Since) {
		e.throw(s)
	}
	e.mu.Unlock()
	e.tell(s)
}

// throw sets a switch. Call it with mu held.
func (e *Embedded) throw(s Switch) {
	next := maps.Clone(*e.switches.Load())
	if s.Disabled {
		next[s.Agent] = s
	} else {
		delete(next, s.Agent)
	}
	e.switches.Store(&next)
}

func (e *Embedded) tell(s Switch) {
	e.mu.Lock()
	told := slices.Clone(e.watchers.onSwitch)
	e.mu.Unlock()
	for _, f := range told {
		f(s.Agent, s.Disabled)
	}
}
