package govern

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// refusals is the table of refusals as users are told it: status, whether a retry may help, whether it says when.
var refusals = map[int]struct {
	codes     string
	retryable bool
	after     bool
}{
	400: {codes: "bad_request arguments_unparseable idempotency_key_malformed idempotency_key_required"},
	403: {codes: "tool_explicitly_blocked tool_not_in_allowed_list agent_disabled tool_disabled tool_not_registered destination_denied force_new_denied browser_request_denied tool_secret_missing"},
	404: {codes: "not_found"},
	405: {codes: "method_not_allowed"},
	407: {codes: "proxy_auth_required"},
	409: {codes: "in_flight", retryable: true, after: true},
	// the other 409 is below
	410: {codes: "result_not_kept"},
	413: {codes: "request_too_large"},
	417: {codes: "expectation_failed"},
	422: {codes: "idempotency_key_reused"},
	429: {codes: "max_actions_per_hour_exceeded max_calls_per_tool_exceeded max_spend_usd_per_day_exceeded", retryable: true}, // when: with the limit
	431: {codes: "headers_too_large"},
	500: {codes: "internal"},
	501: {codes: "not_supported"},
	502: {codes: "upstream_unreachable", retryable: true},
	503: {codes: "store_unavailable draining overloaded policy_stale", retryable: true, after: true},
	504: {codes: "upstream_outcome_unknown"},
}

func TestKinds(t *testing.T) {
	rest := map[string]kind{}
	for code, k := range kinds {
		rest[code] = k
	}
	for status, row := range refusals {
		for code := range strings.FieldsSeq(row.codes) {
			k, ok := rest[code]
			if !ok || k.status != status || k.retryable != row.retryable || (k.retryAfter > 0) != row.after {
				t.Errorf("%s is %+v, want %d, retryable %t, Retry-After %t", code, k, status, row.retryable, row.after)
			}
			delete(rest, code)
		}
	}
	for code, status := range map[string]int{"outcome_unknown": 409, "upstream_untrusted": 502} {
		if k := rest[code]; k.status != status || k.retryable || k.retryAfter != 0 {
			t.Errorf("%s is %+v", code, k)
		}
		delete(rest, code)
	}
	if len(rest) > 0 {
		t.Errorf("nobody is told of %v", rest)
	}
	for code, k := range kinds {
		if k.title == "" || !strings.HasSuffix(k.hint, ".") || strings.Count(k.hint, ". ") > 0 {
			t.Errorf("%s has the title %q and the hint %q, which is to be one sentence", code, k.title, k.hint)
		}
	}
}

func TestProblem(t *testing.T) {
	f := NewRefusal("max_actions_per_hour_exceeded", "a \"quoted\" \\ \n \x7f \xff ü")
	f.Tool, f.Agent, f.Instance, f.Key, f.RetryAfter, f.Extra = "t", "ag", "id", "0123", 7, `,"length":3`
	var got map[string]any
	if err := json.Unmarshal(f.Problem(), &got); err != nil {
		t.Fatalf("%v: %s", err, f.Problem())
	}
	for name, want := range map[string]any{
		"type": "urn:oo-sidecar:problem:max_actions_per_hour_exceeded", "title": "The hourly limit of actions is reached", "status": 429.0,
		"detail": "a \"quoted\" \\ \n \x7f \ufffd ü", "instance": "urn:oo-sidecar:request:id", "code": "max_actions_per_hour_exceeded",
		"tool": "t", "agent_id": "ag", "key": "0123", "retryable": true, "retry_after_s": 7.0, "length": 3.0,
		"hint": "Stop calling tools until the time given in retry_after_s has passed.",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("the problem also says %v", got)
	}
	if f := NewRefusal("no such code", ""); f.Code != "internal" || f.Status != 500 || f.Detail == "" {
		t.Errorf("an unknown code is %+v", f)
	}
}

func TestRefusalHeaders(t *testing.T) {
	for code, want := range map[string]string{
		"bad_request": "Content-Type: application/problem+json", "in_flight": "Content-Type: application/problem+json, Retry-After: " + strconv.Itoa(kinds["in_flight"].retryAfter),
		"proxy_auth_required": `Content-Type: application/problem+json, Proxy-Authenticate: Basic realm="oo-sidecar"`,
		"method_not_allowed":  "Content-Type: application/problem+json, Allow: POST",
	} {
		var got []string
		for _, h := range NewRefusal(code, "").headers() {
			got = append(got, h.Name+": "+h.Value)
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s goes with %s, want %s", code, text, want)
		}
	}
}
