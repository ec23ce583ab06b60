package api

import "net/http"

// rank orders the plans that lack features. A key without a plan has agency's, which lacks none.
var rank = map[string]int{"free": 1, "starter": 2, "pro": 3}

// features say from which rank on a plan has what not every plan has. The kill switch is none of them: whom it must stop
// is not a question of plans.
var features = map[string]int{
	"max_actions_per_hour": 2, "max_spend_usd_per_day": 2, "max_calls_per_tool": 2, "pricing_rules": 3,
	"policy_templates": 3, "agent_logs": 3, "agent_metrics": 3,
}

// mostTools is how many tools the registry takes from a key of a plan.
var mostTools = map[string]int{"free": 1, "starter": 20, "pro": 100}

// has says whether the key's plan has a feature.
func (k *Key) has(feature string) bool {
	r, lacking := rank[k.Plan]
	return !lacking || r >= features[feature]
}

// grants answers 403 for a feature that the key's plan lacks.
func (k *Key) grants(w http.ResponseWriter, feature string) bool {
	if k.has(feature) {
		return true
	}
	fail(w, http.StatusForbidden, struct {
		problem
		Plan    string `json:"plan"`
		Feature string `json:"feature"`
	}{problem{"feature_not_available", "the plan of this key does not have this feature"}, k.Plan, feature})
	return false
}

// featured is an action for keys whose plan has a feature.
func featured(feature string, a action) action {
	return func(w http.ResponseWriter, r *http.Request, by *Key) {
		if by.grants(w, feature) {
			a(w, r, by)
		}
	}
}

// operators is an action for operators' keys on a path that agents may use too.
func operators(a action) action {
	return func(w http.ResponseWriter, r *http.Request, by *Key) {
		if by.Role != Operator {
			fail(w, http.StatusForbidden, "Forbidden")
			return
		}
		a(w, r, by)
	}
}
