package store

import (
	"net/url"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Usage is what the agent has used of its limits at all sidecars; nothing is known while Redis is away.
func (r *Redis) Usage(tenant, agent, name string) Usage {
	escaped := url.QueryEscape(name)
	v, err := r.askAgain(r.shardOf(agent), usageScript, escaped, url.QueryEscape(tenant), url.QueryEscape(agent), escaped)
	if err != nil {
		r.local.log.Warn("what an agent has used of its limits is not known", "agent", agent, "error", err.Error())
		return Usage{}
	}
	return Usage{HourCalls: integer(v.at(0)), DaySpend: tool.Money(integer(v.at(1))), ToolCalls: integer(v.at(2))}
}

// Stats counts. Keys are not counted: they expire in Redis.
func (r *Redis) Stats() Stats {
	return Stats{Running: int(r.own.count.Load()), Unknown: r.UnknownCount(), CacheBytes: r.answers.size(), Journal: r.local.j.Status()}
}
