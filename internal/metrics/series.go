package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// series holds one tool's children, so that counting a call costs no lookup by label.
type series struct {
	name       string
	duplicates prometheus.Counter
	unknowns   prometheus.Counter
	spend      prometheus.Counter
	upstream   prometheus.Observer
	calls      [4][]atomic.Pointer[prometheus.Counter] // by decision and reason; made when first counted
}

func (m *Metrics) series(name string) *series {
	s := &series{
		name:       name,
		duplicates: m.duplicates.WithLabelValues(name),
		unknowns:   m.unknowns.WithLabelValues(name),
		spend:      m.spend.WithLabelValues(name),
		upstream:   m.upstream.WithLabelValues(name),
	}
	for d := range s.calls {
		s.calls[d] = make([]atomic.Pointer[prometheus.Counter], len(reasons))
	}
	s.call(m.calls, "executed", "ok") // a series that is there from the start can be graphed
	return s
}

// call finds the counter of a decision and a reason. Two callers that make it at once make the same one.
func (s *series) call(vec *prometheus.CounterVec, decision, reason string) prometheus.Counter {
	d, r := decisionIndex(decision), reasonIndex[reason]
	slot := &s.calls[d][r]
	if c := slot.Load(); c != nil {
		return *c
	}
	c := vec.WithLabelValues(s.name, decisions[d], reasons[r])
	slot.Store(&c)
	return c
}

var decisions = [4]string{other, "executed", "dedup", "blocked"}

func decisionIndex(decision string) int {
	switch decision {
	case "executed":
		return 1
	case "dedup":
		return 2
	case "blocked":
		return 3
	}
	return 0
}

// reasons are the words that a record's reason may be: the contract's codes and those of the API.
var reasons = []string{
	other, "ok", "several",
	"bad_request", "arguments_unparseable", "idempotency_key_malformed", "idempotency_key_required",
	"tool_explicitly_blocked", "tool_not_in_allowed_list", "agent_disabled", "tool_disabled", "tool_not_registered",
	"destination_denied", "force_new_denied", "browser_request_denied", "tool_secret_missing",
	"not_found", "method_not_allowed", "proxy_auth_required",
	"in_flight", "outcome_unknown", "result_not_kept", "idempotency_key_reused",
	"request_too_large", "expectation_failed", "headers_too_large", "not_supported",
	"max_actions_per_hour_exceeded", "max_calls_per_tool_exceeded", "max_spend_usd_per_day_exceeded",
	"internal", "upstream_unreachable", "upstream_untrusted", "upstream_outcome_unknown",
	"store_unavailable", "draining", "overloaded", "policy_stale",
	"upstream_error", "passthrough", "pass", "tunnel", "replay", "duplicate", "tool_error",
}

var reasonIndex = func() map[string]int {
	m := make(map[string]int, len(reasons))
	for i, r := range reasons {
		m[r] = i
	}
	return m
}()

// checks are what can be waived, ops the store's steps.
var (
	checks = []string{"store", "control", "claim", "finish", "policy", "limits", "dedup", "signature", "destination", "kill_switch", "audit"}
	ops    = []string{"begin", "finish", "wait", "read", "write", "audit", "resolve", "switch", "put", "open", "release", "body", "checkpoint", "sync"}
)

func among(known []string, value string) string {
	for _, k := range known {
		if k == value {
			return k
		}
	}
	return other
}
