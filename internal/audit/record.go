// Package audit keeps the record of every decision: what it says, how it is queried, verified and exported.
package audit

import "time"

// Record is what the audit says of one request. Exactly one is written for each.
type Record struct {
	Seq            uint64    `json:"seq"` // of the journal; given when it is read
	Time           time.Time `json:"ts"`  // when the request arrived, UTC
	AgentID        string    `json:"agent_id"`
	Tool           string    `json:"tool"`
	Decision       string    `json:"decision"` // executed | dedup | blocked
	PolicyReason   string    `json:"policy_reason"`
	RiskLevel      string    `json:"risk_level"`
	ArgsHash       string    `json:"args_hash"` // HMAC, hex
	Key            string    `json:"key"`       // HMAC, hex
	Fence          uint64    `json:"fence"`
	Attempt        int       `json:"attempt"`
	Outcome        string    `json:"outcome"`
	UpstreamStatus int       `json:"upstream_status"`
	SpendUSD       string    `json:"spend_usd"` // decimal
	RunID          string    `json:"run_id"`
	RequestID      string    `json:"request_id"`
	DurationMS     float64   `json:"duration_ms"`

	Tenant       string `json:"tenant,omitempty"`
	Route        string `json:"route,omitempty"`
	Method       string `json:"method,omitempty"`
	Host         string `json:"host,omitempty"`             // authority of a call that no tool names
	Rule         string `json:"rule,omitempty"`             // the policy rule that spoke, with its source
	ShadowReason string `json:"shadow_reason,omitempty"`    // what an enforced policy would have said
	Detail       string `json:"detail,omitempty"`           // of a refusal; never arguments, never secrets
	FirstID      string `json:"first_request_id,omitempty"` // the request whose answer a duplicate got
	ForceNew     string `json:"force_new,omitempty"`
	FailOpen     string `json:"fail_open,omitempty"`   // which check was waived
	Guarantee    string `json:"guarantee,omitempty"`   // "none" when the store was waived
	LimitScope   string `json:"limit_scope,omitempty"` // "process" when the limits were counted by this sidecar alone, "control" by its control plane
	Count        int    `json:"count,omitempty"`       // refusals that share this record, when more than one
	Recovered    bool   `json:"recovered,omitempty"`   // written by the start after a crash
}

// Change is what the audit says of one operator's act.
type Change struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"ts"`
	Who    string    `json:"who"`    // name of the operator key, or "file", "sidecar"
	What   string    `json:"what"`   // agent_disabled, agent_enabled, unknown_resolved, policy_changed, …
	Entity string    `json:"entity"` // agent, tool or shown key
	Why    string    `json:"why,omitempty"`
	Detail string    `json:"detail,omitempty"`
}
