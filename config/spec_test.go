package config

import (
	"bytes"
	"reflect"
	"testing"
)

// TestSpecsReadBack: what is shared with other sidecars means there what the file says here.
func TestSpecsReadBack(t *testing.T) {
	c := load(t, head+`
tools:
  - name: plain
    url: https://a.test/x
  - name: all
    scope: agent:a
    description: words
    url: https://a.test/y
    match: [{methods: [POST, PUT], url: "https://a.test/{x}"}, {url: "https://a.test/z/{r...}"}]
    effect: idempotent
    body: envelope
    auth: {type: hmac_sha256, secrets: [0123456789abcdef-secret]}
    headers: {Authorization: "Bearer 0123456789abcdef-header"}
    upstream_key: {json: /idempotency_key}
    timeout: 1500ms
    max_retries: 0
    price_usd: "0.000001"
    dedup: {mode: required, ttl: 1m, failed_ttl: 1h, scope: run, client_key: guards, ignore: [/a], headers: [], ignore_headers: [X-A], wait: 0s, keep_headers: [X-B], idempotency_window: 90s}
    private: true
    max_in_flight: 3
    on_store_error: allow
    enabled: false
    allow_encoded_slash: true
    sensitive: true
    not_executed_statuses: [409, 425]
policies:
  - agent_id: a
    template: strict
    mode: shadow
    max_actions_per_hour: 0
    max_spend_usd_per_day: "0.5"
    allowed_tools: [a*]
    blocked_tools: [b]
    max_calls_per_tool: {c: 0, d: 5}
    pricing_rules: [{tool: e, price_usd: "1.25"}]
    allow_force_new: true
    anomaly: disable
  - agent_id: "*"
`)
	for _, want := range c.Tools {
		data, err := ToolSpec(want)
		if err != nil || bytes.Contains(data, []byte("0123456789abcdef")) {
			t.Fatalf("%v: %s", err, data)
		}
		want.Auth, want.Headers = nil, nil
		if got, err := ParseTool(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nread back as %+v, %v\nwant %+v", data, got, err, want)
		}
	}
	for _, want := range c.Policies {
		data, err := PolicySpec(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParsePolicy(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nread back as %+v, %v\nwant %+v", data, got, err, want)
		}
	}
}
