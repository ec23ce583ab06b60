// Package policy decides whether a call may proceed, for which reason, and what it costs.
// Everything in it is a pure function over an immutable snapshot.
package policy

import "github.com/oo-sidecar/oo-sidecar/internal/tool"

// Config is one entry of `policies` in the configuration file. Absent caps mean no limit; zero means none may pass.
type Config struct {
	AgentID           string           `koanf:"agent_id"`              // "*": agents without one of their own
	Template          string           `koanf:"template"`              // strict | moderate | permissive | read_only | support_bot; the other fields override it
	Mode              string           `koanf:"mode"`                  // enforce (default) | shadow
	MaxActionsPerHour *int64           `koanf:"max_actions_per_hour"`  // in any 60 minutes; absent: no limit, 0: none
	MaxSpendUSDPerDay *tool.Money      `koanf:"max_spend_usd_per_day"` // per UTC day; absent: no limit, 0: no paid call
	AllowedTools      []string         `koanf:"allowed_tools"`         // empty: no allow-list; a trailing * matches a prefix
	BlockedTools      []string         `koanf:"blocked_tools"`         // wins over allowed_tools; a trailing * matches a prefix
	MaxCallsPerTool   map[string]int64 `koanf:"max_calls_per_tool"`    // per UTC day
	PricingRules      []PricingRule    `koanf:"pricing_rules"`         // what calls cost this agent at least
	AllowForceNew     bool             `koanf:"allow_force_new"`       // may this agent repeat a done call on purpose
	Anomaly           string           `koanf:"anomaly"`               // observe (default) | disable
	Source            string           `koanf:"-"`                     // file (default) | api: where the entry was last changed
}

// PricingRule sets what one call of a tool costs this agent at least.
type PricingRule struct {
	Tool     string     `koanf:"tool"`      // one tool's name in full
	PriceUSD tool.Money `koanf:"price_usd"` // of one call
}
