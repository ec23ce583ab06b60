package main

import (
	"context"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// watch looks at each record before it is written: for what is unusual of its agent, and for the run it belongs to.
func (s *sidecar) watch(rec *audit.Record, t *tool.Tool) {
	now := time.Now()
	for _, a := range s.store.Book().Watch(deedOf(rec, t), now) {
		rec.RiskLevel = string(policy.High)
		if !a.Again {
			s.anomalous(rec, a, now)
		}
	}
	if rec.RunID != "" && govern.Route(rec.Route) != govern.Direct { // of the others the api tells
		s.tellRun(rec, now)
	}
}

// deedOf is what the rules look at of a record. Replays are none, nor are refusals that say nothing of the agent: those
// of a sidecar in trouble, of web pages, of who gave no name, and those after the switch was thrown.
func deedOf(rec *audit.Record, t *tool.Tool) activity.Deed {
	d := activity.Deed{Tenant: rec.Tenant, Agent: rec.AgentID, Tool: rec.Tool, Args: rec.ArgsHash}
	switch rec.Decision {
	case string(govern.Executed):
		spend, _ := tool.ParseMoney(rec.SpendUSD)
		d.Spend, d.Sensitive = int64(spend), t != nil && t.Sensitive && rec.Outcome != "not_sent"
	case string(govern.Blocked):
		switch rec.PolicyReason {
		case "agent_disabled", "draining", "store_unavailable", "overloaded", "policy_stale", "internal", "browser_request_denied", "proxy_auth_required":
		default:
			d.Refused = rec.PolicyReason
		}
	}
	return d
}

// anomalous tells of an anomaly and, where the agent's policy says so, switches the agent off before its answer is given.
func (s *sidecar) anomalous(rec *audit.Record, a activity.Anomaly, now time.Time) {
	why := "anomaly: " + a.Rule + ": " + a.Detail
	s.metrics.Anomaly(a.Rule)
	s.log.Warn("an agent does what it has not done before", "agent", rec.AgentID, "rule", a.Rule, "detail", a.Detail, "request_id", rec.RequestID)
	change := audit.Change{Time: now, Who: "sidecar", What: "anomaly", Entity: rec.AgentID, Why: why, Detail: "request " + rec.RequestID}
	if err := s.store.Change(&change); err != nil {
		s.log.Error("an anomaly is not in the audit", "agent", rec.AgentID, "error", err.Error())
	}
	if s.governor.Snapshot().Policies.For(rec.AgentID).Config().Anomaly != "disable" {
		return
	}
	if _, err := (switchboard{s}).Disable(context.Background(), rec.AgentID, why, "sidecar"); err != nil {
		s.log.Error("an agent could not be switched off", "agent", rec.AgentID, "error", err.Error())
	}
}

// tellRun adds a proxied call to the timeline of the run that its agent named.
func (s *sidecar) tellRun(rec *audit.Record, now time.Time) {
	status, ms := rec.Decision, int64(rec.DurationMS)
	if rec.Decision == string(govern.Executed) && rec.Outcome != "done" {
		status = "error"
	}
	line := activity.Line{
		Tenant: rec.Tenant, RunID: rec.RunID, TS: rec.Time.Unix(), Type: "tool_call", Status: "start", Tool: rec.Tool,
		ReqID: rec.RequestID, AgentID: rec.AgentID, Source: "server",
	}
	s.store.Book().Tell(line, now)
	line.TS, line.Type, line.Status, line.Message, line.DurationMS = now.Unix(), "tool_result", status, rec.PolicyReason, &ms
	s.store.Book().Tell(line, now)
}
