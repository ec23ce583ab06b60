package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

// The switches stand in two hashes by agent: `switch` holds "revision json" of those that are off, which is what the
// claim script looks at, and `switch-on` the revision at which one was last let go. The higher revision holds, so that
// a switch which a failover lost can be told from one that was let go, and given back.

// thrown is a switch that is off.
type thrown struct {
	revision uint64
	Switch
	owed bool // the server does not have it
}

// Turning off. ARGV: agent, json, revision or 0 for a new one, channel. The answer is the revision, or 0 when the agent
// was let go at a later one.
var disableScript = newScript("disable", `#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local word = redis.pcall('HGET', KEYS[2], ARGV[1])
local let = type(word) == 'string' and tonumber(word) or 0
local off = redis.call('HGET', KEYS[1], ARGV[1])
local was = off and tonumber(string.match(off, '^(%d+) ') or '0') or 0
local revision = tonumber(ARGV[3])
if revision == 0 then revision = math.max(now, let + 1, was + 1)
elseif let >= revision then return '0'
elseif was >= revision then return string.format('%.0f', was) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', revision) .. ' ' .. ARGV[2])
redis.pcall('HDEL', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[4], 'switch')
return string.format('%.0f', revision)`)

// Letting go. ARGV: agent, channel, known revision of the switch, server time in µs after which it is too late: the operator
// has been told that it failed, and may have thrown the switch again. Words older than a week are forgotten: by then nobody
// will give back what they overruled.
var enableScript = newScript("enable", `#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[4]) then return 'late' end
local off = redis.call('HGET', KEYS[1], ARGV[1])
local was = off and tonumber(string.match(off, '^(%d+) ') or '0') or 0
local revision = math.max(now, was + 1, tonumber(ARGV[3]) + 1)
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[2]) > 1000 then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    if (tonumber(all[i + 1]) or 0) < now - 604800000000 then redis.call('HDEL', KEYS[2], all[i]) end
  end
end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', revision))
redis.call('PUBLISH', ARGV[2], 'switch')
return string.format('%.0f', revision)`)

// switchRecord is a switch as the server has it.
type switchRecord struct {
	Reason string    `json:"reason"`
	Who    string    `json:"who"`
	Since  time.Time `json:"since"`
}

// text is the switch as the server has it.
func (t *thrown) text() string {
	value, _ := json.Marshal(switchRecord{t.Reason, t.Who, t.Since})
	return strconv.FormatUint(t.revision, 10) + " " + string(value)
}

// OnSwitch calls f after each change of a switch.
func (s *shared) OnSwitch(f func(agent string, disabled bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told.onSwitch = append(s.told.onSwitch, f)
}

// Disabled says whether the agent's calls are refused, and by which switch: its own or everyone's. It takes no lock.
func (s *shared) Disabled(agent string) (Switch, bool) {
	switches := *s.switches.Load()
	if len(switches) == 0 {
		return Switch{}, false
	}
	if all, ok := switches[Everyone]; ok {
		return all, true
	}
	one, ok := switches[agent]
	return one, ok
}

// Switches are the agents that are disabled, by name.
func (s *shared) Switches() []Switch {
	return slices.SortedFunc(maps.Values(*s.switches.Load()), func(a, b Switch) int { return cmp.Compare(a.Agent, b.Agent) })
}

// Disable stops an agent, or Everyone. It holds here at once. When it returns dedup.ErrDeferred the server does not know
// of it yet; it is told as soon as it can be, unless somebody has let the agent go meanwhile.
func (s *shared) Disable(ctx context.Context, agent, reason, who string) (Switch, error) {
	sw := Switch{Agent: agent, Disabled: true, Reason: reason, Who: who, Since: s.now().UTC()}
	s.mu.Lock()
	s.off[agent] = thrown{max(s.revisionNow(), s.off[agent].revision+1, s.on[agent]+1), sw, true}
	s.showSwitches()
	s.mu.Unlock()
	s.keep()
	s.tell(agent, true)
	s.record(&audit.Change{Time: sw.Since, Who: who, What: "agent_disabled", Entity: agent, Why: reason})
	revision, err := s.sendSwitch(ctx, sw, 0)
	if err != nil {
		return sw, fmt.Errorf("%w: the other sidecars do not know of it: %w", dedup.ErrDeferred, err)
	}
	s.mu.Lock()
	if revision > s.on[agent] && (revision >= s.off[agent].revision || s.off[agent].Since.Equal(sw.Since)) {
		s.off[agent] = thrown{revision, sw, false}
		s.showSwitches()
	}
	s.mu.Unlock()
	s.keep()
	return sw, nil
}

// sendSwitch tells the server that an agent is off; 0 is its word that the agent was let go at a later revision.
func (s *shared) sendSwitch(ctx context.Context, sw Switch, revision uint64) (uint64, error) {
	value, err := json.Marshal(switchRecord{sw.Reason, sw.Who, sw.Since})
	if err != nil {
		return 0, err
	}
	reply, err := s.ask(ctx, disableScript, []string{s.c.key("switch"), s.c.key("switch-on")}, sw.Agent, value, strconv.FormatUint(revision, 10), s.hints())
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text(reply), 10, 64)
}

// Enable lets an agent go on. It holds once the server has it.
func (s *shared) Enable(ctx context.Context, agent, reason, who string) (Switch, error) {
	sw := Switch{Agent: agent, Reason: reason, Who: who, Since: s.now().UTC()}
	s.mu.Lock()
	known := s.off[agent].revision
	s.mu.Unlock()
	reply, err := s.inTime(ctx, func(till int64) (any, error) {
		return s.ask(ctx, enableScript, []string{s.c.key("switch"), s.c.key("switch-on")}, agent, s.hints(), strconv.FormatUint(known, 10), till)
	})
	if err == nil {
		known, err = strconv.ParseUint(text(reply), 10, 64)
	}
	if err != nil {
		return sw, away(fmt.Errorf("the switch of %s: %w", agent, uncertain(err)))
	}
	s.mu.Lock()
	was, ok := s.off[agent]
	let := !ok || was.revision < known
	if s.on[agent] = max(s.on[agent], known); let {
		delete(s.off, agent)
		s.showSwitches()
	}
	s.mu.Unlock()
	s.keep()
	s.record(&audit.Change{Time: sw.Since, Who: who, What: "agent_enabled", Entity: agent, Why: reason})
	if let {
		s.tell(agent, false)
	}
	return sw, nil
}

// takeSwitches takes in the server's switches. What this process knows to be off at a revision that the server has
// not overruled stays off: the server has lost it, or does not have it yet.
func (s *shared) takeSwitches(off, on map[string]string) {
	s.mu.Lock()
	before := *s.switches.Load()
	for agent, word := range on {
		revision, _ := strconv.ParseUint(word, 10, 64)
		s.on[agent] = max(s.on[agent], revision)
		if t, ok := s.off[agent]; ok && t.revision <= revision {
			delete(s.off, agent)
		}
	}
	for agent, value := range off {
		t := parseThrown(agent, value)
		if t.revision > s.on[agent] && t.revision >= s.off[agent].revision {
			s.off[agent] = t
		}
	}
	for agent, t := range s.off {
		_, has := off[agent]
		t.owed = !has
		s.off[agent] = t
	}
	s.showSwitches()
	after := *s.switches.Load()
	arrivals := s.arrivals(before, after)
	s.mu.Unlock()
	for agent, took := range arrivals {
		_, stopped := after[agent]
		s.tell(agent, stopped)
		s.events.Load().Arrived(took)
	}
}

// arrivals are the agents whose switch another sidecar changed, and how long ago. Call it with mu held.
func (s *shared) arrivals(before, after map[string]Switch) map[string]time.Duration {
	changed := map[string]time.Duration{}
	now := s.now().UnixMicro()
	for agent := range after {
		if _, was := before[agent]; !was {
			changed[agent] = time.Duration(max(0, now-int64(s.off[agent].revision))) * time.Microsecond
		}
	}
	for agent := range before {
		if _, is := after[agent]; !is {
			changed[agent] = time.Duration(max(0, now-int64(s.on[agent]))) * time.Microsecond
		}
	}
	return changed
}

// parseThrown reads a switch. One that cannot be read still stops the agent.
func parseThrown(agent, value string) thrown {
	revision, data, _ := strings.Cut(value, " ")
	var r switchRecord
	if json.Unmarshal([]byte(data), &r) != nil {
		r.Reason = "(the record of this switch cannot be read)"
	}
	n, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		n = maxRevision
	}
	return thrown{revision: n, Switch: Switch{Agent: agent, Disabled: true, Reason: r.Reason, Who: r.Who, Since: r.Since}}
}

// showSwitches has Disabled see what is off. Call it with mu held.
func (s *shared) showSwitches() {
	next := make(map[string]Switch, len(s.off))
	for agent, t := range s.off {
		next[agent] = t.Switch
	}
	s.switches.Store(&next)
}

// assertSwitches gives the server the switches that it does not have.
func (s *shared) assertSwitches(ctx context.Context) {
	s.mu.Lock()
	var owed []thrown
	for _, t := range s.off {
		if t.owed {
			owed = append(owed, t)
		}
	}
	s.mu.Unlock()
	for _, t := range owed {
		revision, err := s.sendSwitch(ctx, t.Switch, t.revision)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				s.opt.Log.Error("the other sidecars do not know that an agent is disabled", "agent", t.Agent, "error", err.Error())
			}
			return
		}
		if revision > 0 {
			s.mu.Lock()
			if now, ok := s.off[t.Agent]; ok && now.revision == t.revision {
				now.owed = false
				s.off[t.Agent] = now
			}
			s.mu.Unlock()
		}
	}
}

func (s *shared) tell(agent string, disabled bool) {
	s.mu.Lock()
	told := slices.Clone(s.told.onSwitch)
	s.mu.Unlock()
	for _, f := range told {
		f(agent, disabled)
	}
}
