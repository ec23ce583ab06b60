package policy

import (
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// destructive are the words in a tool's name that make a refusal of it worth a second look.
var destructive = []string{"delete", "destroy", "drop", "erase", "kill", "purge", "remove", "reset", "revoke", "terminate", "truncate", "wipe"}

// Risk is the risk level of a call that ended with reason. The table:
//
//	agent_disabled                                       high
//	tool_explicitly_blocked, tool_not_in_allowed_list    medium; high when a word of the tool's name is destructive
//	tool_not_registered, tool_disabled, force_new_denied,
//	tool_secret_missing, tool_error                      medium
//	ok, a repeat on purpose                              high
//	ok, costs more than a tenth of the day's cap         medium
//	everything else: ok, replays, caps                   low
//
// A sensitive tool raises low to medium and medium to high. T may be nil.
func (p *Policy) Risk(name string, t *tool.Tool, reason Reason, cost tool.Money, forced bool) Risk {
	risk := p.plainRisk(name, reason, cost, forced)
	if t != nil && t.Sensitive {
		return raise(risk)
	}
	return risk
}

func (p *Policy) plainRisk(name string, reason Reason, cost tool.Money, forced bool) Risk {
	switch reason {
	case AgentDisabled:
		return High
	case Blocked, NotAllowed:
		if isDestructive(name) {
			return High
		}
		return Medium
	case NotRegistered, ToolDisabled, ForceNewDenied, SecretMissing, "tool_error":
		return Medium
	case OK:
		if forced {
			return High
		}
		if spend := p.Limits(name).SpendPerDay; spend != nil && cost > *spend/10 {
			return Medium
		}
	}
	return Low
}

func raise(r Risk) Risk {
	if r == Low {
		return Medium
	}
	return High
}

// isDestructive looks at the words of a name such as crm.delete_user or deleteUser.
func isDestructive(name string) bool {
	words := strings.FieldsFunc(splitCamel(name), func(r rune) bool { return strings.ContainsRune("_.:-", r) })
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(destructive, strings.ToLower(w)) })
}

// splitCamel puts an underscore before each capital that follows a small letter.
func splitCamel(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if i > 0 && s[i] >= 'A' && s[i] <= 'Z' && s[i-1] >= 'a' && s[i-1] <= 'z' {
			b.WriteByte('_')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
