package policy

// Reason is why a call was allowed or refused, in the words of the API and the contract.
type Reason string

const (
	OK             Reason = "ok"
	NotAllowed     Reason = "tool_not_in_allowed_list"
	Blocked        Reason = "tool_explicitly_blocked"
	AgentDisabled  Reason = "agent_disabled"
	ToolDisabled   Reason = "tool_disabled"
	NotRegistered  Reason = "tool_not_registered"
	ForceNewDenied Reason = "force_new_denied"
	SecretMissing  Reason = "tool_secret_missing"
)

// Risk is the audit's risk level.
type Risk string

const (
	Low    Risk = "low"
	Medium Risk = "medium"
	High   Risk = "high"
)

// Decision is what policy says of one call: the result, the reason, the rule and where the rule stands.
type Decision struct {
	Allow  bool
	Reason Reason // OK when allowed
	Rule   string // e.g. `blocked_tools: delete_*`; empty when no rule spoke
	Source string // "file", "api", or "" without a rule
	Risk   Risk
	Shadow Reason // what would have been the reason, had the policy been enforced
}
