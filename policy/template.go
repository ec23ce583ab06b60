package policy

import (
	"maps"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// readOnly is the template that besides its fields refuses every tool that may change something.
const readOnly = "read_only"

// templates are the starting points that an entry's own fields override, each field as a whole.
var templates = map[string]Config{
	"strict": {
		MaxActionsPerHour: ptr(int64(50)),
		MaxSpendUSDPerDay: ptr(5 * tool.USD),
		BlockedTools:      []string{"delete_user", "delete_customer", "refund_all"},
	},
	"moderate": {
		MaxActionsPerHour: ptr(int64(200)),
		MaxSpendUSDPerDay: ptr(50 * tool.USD),
		BlockedTools:      []string{"delete_user"},
	},
	"permissive": {
		MaxActionsPerHour: ptr(int64(1000)),
		MaxSpendUSDPerDay: ptr(500 * tool.USD),
	},
	readOnly: {
		MaxActionsPerHour: ptr(int64(500)),
		MaxSpendUSDPerDay: ptr(tool.Money(0)),
		BlockedTools: []string{"stripe.charge", "stripe.refund", "process_payment", "process_refund", "delete_user",
			"delete_customer", "send_email"},
	},
	"support_bot": {
		MaxActionsPerHour: ptr(int64(150)),
		MaxSpendUSDPerDay: ptr(50 * tool.USD),
		AllowedTools:      []string{"send_email", "create_ticket", "read_knowledge_base", "read_customer_data", "read_order_history"},
		BlockedTools:      []string{"delete_customer", "delete_ticket", "process_refund", "update_customer_data"},
		MaxCallsPerTool: map[string]int64{
			"send_email": 500, "create_ticket": 100, "read_knowledge_base": 1000, "read_customer_data": 200,
		},
		PricingRules: []PricingRule{
			{"send_email", tool.USD / 1000}, {"create_ticket", tool.USD / 20}, {"read_knowledge_base", 0},
			{"read_customer_data", 0}, {"read_order_history", 0},
		},
	},
}

func ptr[T any](v T) *T { return &v }

// Templates lists the names of the templates, sorted.
func Templates() []string { return slices.Sorted(maps.Keys(templates)) }

// Expand is the entry with its template's fields where it has none of its own. The template's name stays. An empty
// list that is not nil is a field of its own: allowed_tools: [] takes a template's allow-list away. An entry without a
// template, or with one that is not known, is returned as it is.
func (c Config) Expand() Config {
	t, ok := templates[c.Template]
	if !ok {
		return c
	}
	if c.MaxActionsPerHour == nil {
		c.MaxActionsPerHour = t.MaxActionsPerHour
	}
	if c.MaxSpendUSDPerDay == nil {
		c.MaxSpendUSDPerDay = t.MaxSpendUSDPerDay
	}
	if c.AllowedTools == nil {
		c.AllowedTools = slices.Clone(t.AllowedTools)
	}
	if c.BlockedTools == nil {
		c.BlockedTools = slices.Clone(t.BlockedTools)
	}
	if c.MaxCallsPerTool == nil {
		c.MaxCallsPerTool = maps.Clone(t.MaxCallsPerTool)
	}
	if c.PricingRules == nil {
		c.PricingRules = slices.Clone(t.PricingRules)
	}
	return c
}
