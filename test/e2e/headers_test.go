package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWhatSplitsACall: what the tool may act on makes another call of it, what only decorates it does not.
func TestWhatSplitsACall(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("pay", nil), a.tool("narrow", settings{"dedup": settings{"headers": []string{"X-Tenant"}, "ignore": []string{"/note"}}}),
		a.tool("splits", settings{"dedup": settings{"client_key": "splits"}}), a.tool("explicit", settings{"dedup": settings{"mode": "explicit"}}),
		a.tool("off", settings{"dedup": settings{"mode": "off"}}), a.tool("loose", settings{"dedup": settings{"ignore_headers": []string{"X-Page"}}})}, nil)
	n := 0
	for _, c := range []struct {
		tool   string
		first  []string // headers
		second []string
		same   bool
	}{
		{"pay", nil, nil, true},
		{"pay", []string{"Stripe-Account", "acct_1"}, []string{"Stripe-Account", "acct_2"}, false},
		{"pay", []string{"Stripe-Account", "acct_1"}, nil, false},
		{"pay", []string{"Stripe-Account", "acct_1"}, []string{"stripe-account", "acct_1"}, true},
		{"pay", []string{"Authorization", "Bearer user-1"}, []string{"Authorization", "Bearer user-2"}, false},
		{"pay", []string{"Cookie", "session=1"}, []string{"Cookie", "session=2"}, false},
		{"pay", []string{"X-Page", "1"}, []string{"X-Page", "2"}, false},
		{"pay", []string{"Accept", "application/json"}, []string{"Accept", "text/html"}, false},
		{"pay", []string{"Idempotency-Key", "fresh-1"}, []string{"Idempotency-Key", "fresh-2"}, true},
		{"pay", []string{"Idempotency-Key", `"quoted"`}, nil, true},
		{"pay", []string{"X-Request-Id", "1", "X-Correlation-Id", "1"}, []string{"X-Request-Id", "2", "X-Correlation-Id", "2"}, true},
		{"pay", []string{"traceparent", "00-1", "tracestate", "a=1", "baggage", "b=1", "X-Amzn-Trace-Id", "1", "x-b3-traceid", "1", "x-datadog-trace-id", "1"},
			[]string{"traceparent", "00-2", "tracestate", "a=2", "baggage", "b=2", "X-Amzn-Trace-Id", "2", "x-b3-traceid", "2", "x-datadog-trace-id", "2"}, true},
		{"pay", []string{"X-Stripe-Client-Telemetry", `{"last":1}`, "X-Stainless-Retry-Count", "0"}, []string{"X-Stripe-Client-Telemetry", `{"last":2}`, "X-Stainless-Retry-Count", "1"}, true},
		{"pay", []string{"User-Agent", "one/1", "Date", "Mon, 23 Nov 2026 19:00:00 GMT", "Accept-Encoding", "gzip"}, []string{"User-Agent", "two/2", "Accept-Encoding", "br"}, true},
		{"pay", []string{"amz-sdk-invocation-id", "1", "x-amz-date", "20261123T190000Z"}, []string{"amz-sdk-invocation-id", "2", "x-amz-date", "20261123T190001Z"}, true},
		{"pay", []string{"X-OnceOnly-Run-Id", "run-1"}, []string{"X-OnceOnly-Run-Id", "run-2"}, true},
		{"pay", []string{"X-Forwarded-For", "10.0.0.1", "Via", "1.1 a", "Forwarded", "for=a"}, nil, true},
		{"narrow", []string{"X-Page", "1", "Accept", "a/b"}, []string{"X-Page", "2"}, true},
		{"narrow", []string{"X-Tenant", "1"}, []string{"X-Tenant", "2"}, false},
		{"loose", []string{"X-Page", "1"}, []string{"X-Page", "2"}, true},
		{"splits", []string{"Idempotency-Key", "one"}, []string{"Idempotency-Key", "two"}, false},
		{"splits", []string{"Idempotency-Key", "one"}, []string{"Idempotency-Key", "one"}, true},
		{"explicit", nil, nil, false},
		{"explicit", []string{"Idempotency-Key", "@one"}, []string{"Idempotency-Key", "@one"}, true},
		{"explicit", []string{"Idempotency-Key", "@one"}, []string{"Idempotency-Key", "@two"}, false},
		{"off", nil, nil, false},
	} {
		n++
		body := fmt.Sprintf(`{"n":%d}`, n)
		own := func(headers []string) []string {
			all := slices.Clone(headers)
			for i, h := range all {
				all[i] = strings.Replace(h, "@", fmt.Sprint(n, "-"), 1)
			}
			for i := 1; i < len(all); i += 2 {
				if all[i-1] == "Idempotency-Key" && !strings.HasPrefix(all[i], `"`) {
					all[i] += fmt.Sprintf("-%d", n)
				}
			}
			return all
		}
		before := a.ran("")
		first, second := s.invoke(c.tool, body, own(c.first)...), s.invoke(c.tool, body, own(c.second)...)
		want := 2
		if c.same {
			want = 1
		}
		if ran := a.ran("") - before; ran != want || first.status != 200 || second.status != 200 || second.replayed() != c.same {
			t.Errorf("%s, %q, then %q: %d %s and %d %s, ran %d, wanted %d", c.tool, c.first, c.second, first.status, first.code(), second.status, second.code(), ran, want)
		}
	}
	// The agent's key guards: it stands for these arguments and no others.
	s.invoke("pay", `{"guarded":1}`, "Idempotency-Key", "guard")
	reused := s.invoke("pay", `{"guarded":2}`, "Idempotency-Key", "guard")
	reused.is(t, "another call under the key", 422, "idempotency_key_reused", "blocked", "not_sent")
	if r := s.invoke("narrow", `{"n":"note","note":"one"}`); r.status != 200 {
		t.Errorf("narrow: %d", r.status)
	}
	if r := s.invoke("narrow", `{"note":"two","n":"note"}`); !r.replayed() {
		t.Error("an ignored member split the call")
	}
}

// TestWhatTheToolReceives, byte for byte: the agent's end-to-end headers in their order and spelling, nothing of the way
// it came, what the sidecar adds, and the agent's body.
func TestWhatTheToolReceives(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{
		a.tool("plain", settings{"url": a.URL + "/v1/plain?fixed=1&b", "headers": settings{"Authorization": "Bearer of-the-tool", "X-Api-Version": "7"}}),
		a.tool("forwarded", nil),
		a.tool("signed", settings{"auth": signed}),
		a.tool("member", settings{"upstream_key": settings{"json": "/idempotency_key"}}),
	}, settings{"agent": settings{"id": "e2e-agent", "proxy_users": settings{"e2e-agent": "token-of-the-agent"}}})
	body := `{ "b":1,  "a":"é" }`
	noise := []string{
		"Accept", "a/b", "Stripe-Account", "acct_1", "X-Forwarded-For", "10.0.0.1", "x-forwarded-proto", "https", "X-Forwarded-Host", "evil.test", "Forwarded", "for=a", "Via", "1.1 b",
		"Proxy-Authorization", basic("e2e-agent", "token-of-the-agent"), "Proxy-Connection", "keep-alive", "X-OnceOnly-Fence", "1", "X-OnceOnly-Signature", "forged",
		"X-OnceOnly-Agent-Id", "somebody-else", "X-OnceOnly-Run-Id", "run-7", "X-ONCEONLY-WHATEVER", "x", "Authorization", "Bearer of-the-agent", "Idempotency-Key", "of-the-agent",
		"X-HTTP-Method-Override", "DELETE", "X-Method-Override", "DELETE", "TE", "trailers", "Keep-Alive", "timeout=5", "Accept-Encoding", "gzip, br",
		"x-Odd-CASE", "kept  as it is\t!", "Connection", "keep-alive, X-Named", "X-Named", "by Connection", "X-Api-Version", "1", "Accept-Language", "de", "User-Agent", "agent/1",
	}
	kept := []string{"Accept: a/b", "Stripe-Account: acct_1", "x-Odd-CASE: kept  as it is\t!", "Accept-Language: de", "User-Agent: agent/1", "Content-Type: application/json"}
	never := regexp.MustCompile(`(?im)^(proxy-|x-forwarded|forwarded|via|x-named|connection|te|keep-alive|transfer-encoding|x-http-method|x-method|expect|upgrade|[a-z0-9-]*_).*$`)

	if r := s.invoke("plain", body, noise...); r.status != 200 {
		t.Fatalf("plain: %d %s", r.status, r.body)
	}
	got := a.requests("")[0]
	check := func(what string, got heard, target, host string) {
		t.Helper()
		lines := strings.Split(strings.TrimSuffix(got.raw, got.body), "\r\n")
		if lines[0] != "POST "+target+" HTTP/1.1" || lines[1] != "Host: "+host {
			t.Errorf("%s begins with %q", what, lines[:2])
		}
		if n := got.get("Content-Length"); n != fmt.Sprint(len(got.body)) || got.get("Accept-Encoding") != "identity" {
			t.Errorf("%s: Content-Length %q of %d, Accept-Encoding %q", what, n, len(got.body), got.get("Accept-Encoding"))
		}
		if bad := never.FindAllString(got.raw, -1); bad != nil {
			t.Errorf("%s was sent %q", what, bad)
		}
		at := 0
		for _, k := range kept {
			i := slices.Index(lines, k)
			if i < at {
				t.Errorf("%s: %q is missing or out of order in %q", what, k, lines)
			}
			at = max(i, at)
		}
		for _, l := range lines {
			if name, _, _ := strings.Cut(l, ":"); l != "" && strings.Contains(got.get(name), " | ") {
				t.Errorf("%s has %s more than once", what, name)
			}
		}
	}
	address := strings.TrimPrefix(a.URL, "http://")
	check("plain", got, "/v1/plain?fixed=1&b", address)
	if got.get("Authorization") != "Bearer of-the-tool" || got.get("X-Api-Version") != "7" || got.body != body {
		t.Errorf("plain: %q, %q, body %q", got.get("Authorization"), got.get("X-Api-Version"), got.body)
	}
	if key := got.get("Idempotency-Key"); !regexp.MustCompile(`^oo_[0-9a-f]{64}$`).MatchString(key) {
		t.Errorf("plain: upstream key %q", key)
	}
	if strings.Contains(strings.ToLower(got.raw), "onceonly") {
		t.Errorf("an unsigned tool hears of us: %q", got.raw)
	}

	if r := s.forward("POST", a.URL+"/forwarded", body, noise...); r.status != 200 {
		t.Fatalf("forwarded: %d %s", r.status, r.body)
	}
	got = a.requests("forwarded")[0]
	check("forwarded", got, "/forwarded", address)
	if got.get("Authorization") != "Bearer of-the-agent" || got.body != body {
		t.Errorf("forwarded: %q, body %q", got.get("Authorization"), got.body)
	}

	if r := s.invoke("signed", body, noise...); r.status != 200 {
		t.Fatalf("signed: %d %s", r.status, r.body)
	}
	got = a.requests("signed")[0]
	check("signed", got, "/signed", address)
	for name, want := range map[string]string{
		"X-OnceOnly-Agent-Id": "^e2e-agent$", "X-OnceOnly-Tool": "^signed$", "X-OnceOnly-Run-Id": "^run-7$", "X-OnceOnly-Fence": "^[1-9][0-9]*$", "X-OnceOnly-Attempt": "^1$",
		"X-OnceOnly-Signature": "^[0-9a-f]{64}$", "X-OnceOnly-Signature-Alg": "^.+$", "X-OnceOnly-Signature-V2": "^t=[0-9]+,kid=[0-9a-f]{8},v2=[0-9a-f]{64}$",
		"X-OnceOnly-Timestamp": "^[0-9]{10}$", "X-Request-Id": "^.+$", "traceparent": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
	} {
		if v := got.get(name); !regexp.MustCompile(want).MatchString(v) {
			t.Errorf("signed: %s: %q", name, v)
		}
	}
	if strings.Contains(strings.ToLower(got.raw), "whatever") {
		t.Errorf("signed: %q", got.raw)
	}

	if r := s.invoke("member", body, noise...); r.status != 200 {
		t.Fatalf("member: %d %s", r.status, r.body)
	}
	got = a.requests("member")[0]
	check("member", got, "/member", address)
	if !regexp.MustCompile(`"idempotency_key":"oo_[0-9a-f]{64}"`).MatchString(got.body) || got.get("Idempotency-Key") != "" || !strings.Contains(got.body, `"a":"é"`) {
		t.Errorf("member: body %q, Idempotency-Key %q", got.body, got.get("Idempotency-Key"))
	}
}
