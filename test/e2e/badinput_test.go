package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// problem checks that a refusal says all that the contract wants of it.
func problem(t testing.TB, what string, r answer, status int, code string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Instance, Code, Hint string
		Tool, Agent_ID, Key                       *string
		Status                                    int
		Retryable                                 *bool
		Retry_After_S                             int
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil || r.status != status || p.Code != code || p.Status != status {
		t.Errorf("%s: %d %q, wanted %d %s (%.300s)", what, r.status, p.Code, status, code, r.body)
		return
	}
	if p.Type == "" || p.Title == "" || p.Detail == "" || p.Instance == "" || p.Hint == "" || p.Retryable == nil || p.Tool == nil || p.Agent_ID == nil || p.Key == nil {
		t.Errorf("%s lacks a member: %s", what, r.body)
	}
	if r.header.Get("Content-Type") != "application/problem+json" || r.decision() == "" || r.header.Get("X-OnceOnly-Reason") != code || r.header.Get("X-Request-Id") == "" || !strings.Contains(p.Instance, r.header.Get("X-Request-Id")) {
		t.Errorf("%s: headers %v, instance %s", what, r.header, p.Instance)
	}
	if after := number(r.header.Get("Retry-After")); int(after) != p.Retry_After_S || after > 0 && !*p.Retryable || (status == 503 || status == 429) != (after > 0) && code != "in_flight" {
		t.Errorf("%s: Retry-After %d, retry_after_s %d, retryable %t", what, after, p.Retry_After_S, *p.Retryable)
	}
}

// bad is one thing that people and programs send.
type bad struct {
	name   string
	raw    func(*sidecar, *actor) string
	status int
	code   string
}

func text(format string) func(*sidecar, *actor) string {
	return func(s *sidecar, a *actor) string {
		host := strings.TrimPrefix(a.URL, "http://")
		return strings.NewReplacer("\n", "\r\n", "LISTENER", s.proxy, "TOOLHOST", host, "HEALTH", s.health, "API", s.api).Replace(format)
	}
}

func body(b string, headers ...string) func(*sidecar, *actor) string {
	return func(s *sidecar, _ *actor) string { return s.post("ok", b, headers...) }
}

func toTool(name, b string, headers ...string) func(*sidecar, *actor) string {
	return func(s *sidecar, _ *actor) string { return s.post(name, b, headers...) }
}

func path(p string) func(*sidecar, *actor) string {
	return text("POST http://TOOLHOST" + p + " HTTP/1.1\nHost: TOOLHOST\nContent-Length: 0\n\n")
}

var badInput = []bad{
	// The gate.
	{"nothing known", text("hello\n\n"), 400, "bad_request"},
	{"HTTP/2", text("PRI * HTTP/2.0\n\nSM\n\n"), 400, "bad_request"},
	{"TLS", text("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"), 400, "bad_request"},
	{"no host", text("POST /tools/ok HTTP/1.1\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"two hosts", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nHost: LISTENER\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"another host", text("POST http://TOOLHOST/ok HTTP/1.1\nHost: elsewhere.test\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"userinfo", text("POST http://user:pass@TOOLHOST/ok HTTP/1.1\nHost: TOOLHOST\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"a zone id", text("POST http://[fe80::1%25eth0]/ok HTTP/1.1\nHost: [fe80::1%25eth0]\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"an octal address", text("POST http://0177.0.0.1/ok HTTP/1.1\nHost: 0177.0.0.1\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"a number for an address", text("POST http://2130706433/ok HTTP/1.1\nHost: 2130706433\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"a lower-case method", text("post /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"length and chunks", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 2\nTransfer-Encoding: chunked\n\n0\n\n"), 400, "bad_request"},
	{"two lengths", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 2\nContent-Length: 2\n\n{}"), 400, "bad_request"},
	{"a chunk extension", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nTransfer-Encoding: chunked\n\n2;a=b\n{}\n0\n\n"), 400, "bad_request"},
	{"a trailer", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nTransfer-Encoding: chunked\n\n2\n{}\n0\nX: y\n\n"), 400, "bad_request"},
	{"a folded line", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nX: a\n b\nContent-Length: 0\n\n"), 400, "bad_request"},
	{"a bare LF", func(s *sidecar, _ *actor) string {
		return "POST /tools/ok HTTP/1.1\nHost: " + s.proxy + "\nContent-Length: 0\n\n"
	}, 400, "bad_request"},
	{"two idempotency keys", body("{}", "Idempotency-Key", "a", "Idempotency-Key", "b"), 400, "bad_request"},
	{"two authorizations", body("{}", "Authorization", "a", "authorization", "b"), 400, "bad_request"},
	{"an underscore", body("{}", "X_OnceOnly_Run_Id", "a"), 400, "bad_request"},
	{"a Connection that names ours", body("{}", "Connection", "X-OnceOnly-Run-Id"), 400, "bad_request"},
	{"a cut body", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 5\n\n{}"), 400, "bad_request"},
	{"a compressed body", body("{}", "Content-Encoding", "gzip"), 400, "bad_request"},
	{"a GET with a body", text("GET http://TOOLHOST/get HTTP/1.1\nHost: TOOLHOST\nContent-Length: 2\n\n{}"), 400, "bad_request"},
	{"a query on /tools", text("POST /tools/ok?a=b HTTP/1.1\nHost: LISTENER\nContent-Length: 0\n\n"), 400, "bad_request"},
	// Spellings of a tool's path.
	{"an escaped letter", path("/%6fk"), 400, "bad_request"},
	{"an escaped slash", path("/ok%2f"), 400, "bad_request"},
	{"an escaped dot", path("/%2e/ok"), 400, "bad_request"},
	{"an escaped escape", path("/%256fk"), 400, "bad_request"},
	{"an escaped NUL", path("/ok%00"), 400, "bad_request"},
	{"a backslash", path("/ok%5c"), 400, "bad_request"},
	{"dots", path("/x/../ok"), 400, "bad_request"},
	{"a dot", path("/./ok"), 400, "bad_request"},
	{"two slashes", path("//ok"), 400, "bad_request"},
	{"a parameter", path("/ok;v=1"), 400, "bad_request"},
	{"another case", path("/OK"), 400, "bad_request"},
	{"a trailing slash", path("/ok/"), 400, "bad_request"},
	// Arguments.
	{"half an object", body("{"), 400, "arguments_unparseable"},
	{"no JSON", body("hello"), 400, "arguments_unparseable"},
	{"NaN", body(`{"a":NaN}`), 400, "arguments_unparseable"},
	{"single quotes", body(`{'a':1}`), 400, "arguments_unparseable"},
	{"a member twice", body(`{"a":1,"a":1}`), 400, "arguments_unparseable"},
	{"a member twice, escaped", body(`{"\u0061":1,"a":1}`), 400, "arguments_unparseable"},
	{"a member twice, deep", body(`{"a":[{"b":1,"b":1}]}`), 400, "arguments_unparseable"},
	{"a byte order mark", body("\ufeff{}"), 400, "arguments_unparseable"},
	{"bytes behind", body(`{} {}`), 400, "arguments_unparseable"},
	{"no UTF-8", body("{\"a\":\"\xff\"}"), 400, "arguments_unparseable"},
	{"a lone surrogate", body(`{"a":"\ud800"}`), 400, "arguments_unparseable"},
	{"65 levels", body(strings.Repeat("[", 65) + strings.Repeat("]", 65)), 400, "arguments_unparseable"},
	{"65 digits", body(`{"a":` + strings.Repeat("1", 65) + `}`), 400, "arguments_unparseable"},
	{"a large exponent", body(`{"a":1e1000000}`), 400, "arguments_unparseable"},
	{"a control character", body("{\"a\":\"\n\"}"), 400, "arguments_unparseable"},
	// Keys, hints.
	{"no key where one is required", toTool("required", "{}"), 400, "idempotency_key_required"},
	{"a long key", body("{}", "Idempotency-Key", strings.Repeat("k", 256)), 400, "idempotency_key_malformed"},
	{"an open quote", body("{}", "Idempotency-Key", `"open`), 400, "idempotency_key_malformed"},
	{"an empty key", body("{}", "Idempotency-Key", `""`), 400, "idempotency_key_malformed"},
	{"a negative spend", body("{}", "X-OnceOnly-Spend-Usd", "-1"), 400, "bad_request"},
	{"no number to spend", body("{}", "X-OnceOnly-Spend-Usd", "much"), 400, "bad_request"},
	{"a hint that disagrees", body("{}", "X-OnceOnly-Tool", "blocked"), 400, "bad_request"},
	// Policy and places.
	{"blocked", toTool("blocked", "{}"), 403, "tool_explicitly_blocked"},
	{"not in the list", toTool("unlisted", "{}"), 403, "tool_not_in_allowed_list"},
	{"disabled", toTool("off", "{}"), 403, "tool_disabled"},
	{"not registered", toTool("ok-but-missing", "{}"), 403, "tool_not_registered"},
	{"not registered, forwarded", path("/elsewhere"), 403, "tool_not_registered"},
	{"another method, forwarded", text("DELETE http://TOOLHOST/ok HTTP/1.1\nHost: TOOLHOST\nContent-Length: 0\n\n"), 403, "tool_not_registered"},
	{"a repeat by force", body("{}", "X-OnceOnly-Force-New", "again"), 403, "force_new_denied"},
	{"an Origin", body("{}", "Origin", "http://evil.test"), 403, "browser_request_denied"},
	{"an Origin of null", body("{}", "Origin", "null"), 403, "browser_request_denied"},
	{"Sec-Fetch-Site", body("{}", "Sec-Fetch-Site", "cross-site"), 403, "browser_request_denied"},
	{"a rebound name", text("POST /tools/ok HTTP/1.1\nHost: evil.test\nContent-Length: 0\n\n"), 403, "browser_request_denied"},
	{"metadata", text("POST http://169.254.169.254/latest HTTP/1.1\nHost: 169.254.169.254\nContent-Length: 0\n\n"), 403, "tool_not_registered"},
	{"a tool at the metadata address", toTool("ok-metadata", "{}"), 403, "destination_denied"},
	{"a tool at a private name", toTool("ok-local", "{}"), 403, "destination_denied"},
	{"a tool at the api", text("POST http://API/x HTTP/1.1\nHost: API\nContent-Length: 0\n\n"), 403, "destination_denied"},
	{"another path", text("GET / HTTP/1.1\nHost: LISTENER\n\n"), 404, "not_found"},
	{"no name", text("POST /tools/ HTTP/1.1\nHost: LISTENER\nContent-Length: 0\n\n"), 404, "not_found"},
	{"GET", text("GET /tools/ok HTTP/1.1\nHost: LISTENER\n\n"), 405, "method_not_allowed"},
	{"DELETE", text("DELETE /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 0\n\n"), 405, "method_not_allowed"},
	// Sizes and what is not here.
	{"a large body", body(strings.Repeat("x", 65<<10)), 413, "request_too_large"},
	{"a large chunked body", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Type: application/json\nTransfer-Encoding: chunked\n\n10400\n" + strings.Repeat("x", 0x10400) + "\n0\n\n"), 413, "request_too_large"},
	{"an announced large body", text("POST /tools/ok HTTP/1.1\nHost: LISTENER\nContent-Length: 999999999\n\n{"), 413, "request_too_large"},
	{"a long header", body("{}", "X-Long", strings.Repeat("x", 40<<10)), 431, "headers_too_large"},
	{"many headers", body("{}", slices.Repeat([]string{"X-Many", strings.Repeat("x", 20)}, 2000)...), 431, "headers_too_large"},
	{"an expectation", body("{}", "Expect", "a-miracle"), 417, "expectation_failed"},
	{"WebSocket", text("GET http://TOOLHOST/get HTTP/1.1\nHost: TOOLHOST\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n"), 501, "not_supported"},
}

// TestBadInput: everything gets the status and code of the contract, nothing reaches the tool, and the same process
// serves the next call.
func TestBadInput(t *testing.T) {
	t.Parallel()
	a, api := act(t, ok), stand.FreeAddr(t)
	s := start(t, []settings{
		a.tool("ok", nil), a.tool("blocked", nil), a.tool("unlisted", nil), a.tool("off", settings{"enabled": false}), a.tool("required", settings{"dedup": settings{"mode": "required"}}),
		a.tool("get", settings{"match": []settings{{"methods": []string{"GET"}, "url": a.URL + "/get"}}}),
		{"name": "ok-metadata", "url": "http://169.254.169.254/x", "private": true}, {"name": "ok-local", "url": "http://localhost:" + port(a.URL) + "/x"}, {"name": "ok-api", "url": "http://elsewhere.test/x", "match": []settings{{"methods": []string{"POST"}, "url": "http://" + api + "/x"}}},
	}, settings{
		"proxy":    settings{"max_request_bytes": "64KiB", "allow_private": []string{}},
		"api":      settings{"listen": api},
		"policies": []settings{{"agent_id": "e2e-agent", "allowed_tools": []string{"ok*", "blocked", "off", "required", "get"}, "blocked_tools": []string{"blocked"}}},
	})
	s.api = api
	served := 0
	next := func(after string) {
		t.Helper()
		served++
		if r := s.invoke("ok", fmt.Sprintf(`{"served":%d}`, served)); r.status != 200 || r.replayed() {
			t.Fatalf("after %s: %d %s", after, r.status, r.body)
		}
	}
	next("the start")
	pid := s.cmd.Process.Pid
	for _, b := range badInput {
		raw := b.raw(s, a)
		r := s.say(raw)
		problem(t, b.name, r, b.status, b.code)
		if r.decision() != "blocked" || r.header.Get("X-OnceOnly-Outcome") != "not_sent" {
			t.Errorf("%s: decision %q, outcome %q", b.name, r.decision(), r.header.Get("X-OnceOnly-Outcome"))
		}
		next(b.name)
		if ran := a.ran(""); ran != served {
			t.Fatalf("%s reached the tool: %q", b.name, a.requests("")[ran-1].raw)
		}
	}
	if s.cmd.Process.Pid != pid || s.cmd.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("the process has changed")
	}
	s.stop()
	s.verify()
}

// TestPipelinedBehindBadInput: what stands behind an ambiguous request is nobody's next request.
func TestPipelinedBehindBadInput(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", nil)}, nil)
	for _, b := range badInput {
		if b.name == "a cut body" {
			break // from here on there is no doubt where the request ends
		}
		c := s.dial()
		_, _ = io.WriteString(c, b.raw(s, a)+s.post("ok", `{"smuggled":true}`))
		_ = c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c)
		if n := len(regexp.MustCompile(`HTTP/1\.1 [1-5]`).FindAll(all, -1)); n > 1 || a.ran("") != 0 {
			t.Fatalf("%s: %d answers, ran %d: %q", b.name, n, a.ran(""), all)
		}
	}
	both := s.post("ok", `{"n":1}`) + s.post("ok", `{"n":2}`)
	c := s.dial()
	_, _ = io.WriteString(c, both)
	r := bufio.NewReader(c)
	if one, two := listen(r, "POST"), listen(r, "POST"); one.status != 200 || two.status != 200 || a.ran("") != 2 {
		t.Errorf("two good ones: %d and %d, ran %d", one.status, two.status, a.ran(""))
	}
}

// TestRefusalsOfCalls: the refusals that need more than one request, each with all its members.
func TestRefusalsOfCalls(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 4), make(chan bool)
	a := act(t, func(x *scene) {
		switch x.name() {
		case "slow", "narrow":
			began <- true
			<-goOn
			ok(x)
		case "reset":
			x.reset()
		case "huge":
			x.answer(200, strings.Repeat("x", 2<<20))
		default:
			ok(x)
		}
	})
	users := settings{"one": "token-of-agent-one", "hour": "token-of-agent-hour", "tool": "token-of-agent-tool", "spend": "token-of-agent-spend"}
	s := start(t, []settings{
		a.tool("ok", settings{"price_usd": "0.10"}), a.tool("slow", settings{"dedup": settings{"wait": "50ms"}}), a.tool("narrow", settings{"max_in_flight": 1, "dedup": settings{"wait": "50ms"}}), a.tool("reset", nil), a.tool("huge", nil),
		{"name": "dead", "url": "http://" + stand.FreeAddr(t) + "/x", "max_retries": 0},
	}, settings{
		"agent":    settings{"id": "e2e-agent", "proxy_users": users},
		"policies": []settings{{"agent_id": "hour", "max_actions_per_hour": 0}, {"agent_id": "tool", "max_calls_per_tool": settings{"ok": 0}}, {"agent_id": "spend", "max_spend_usd_per_day": "0.05"}},
	})
	as := func(agent, name, body string, more ...string) answer {
		return s.invoke(name, body, append(more, "Proxy-Authorization", basic(agent, users[agent].(string)))...)
	}
	problem(t, "no token", s.invoke("ok", "{}"), 407, "proxy_auth_required")
	problem(t, "a wrong token", s.invoke("ok", "{}", "Proxy-Authorization", basic("one", "token-of-agent-two")), 407, "proxy_auth_required")
	problem(t, "nobody's token", s.invoke("ok", "{}", "Proxy-Authorization", basic("nobody", "token-of-agent-one")), 407, "proxy_auth_required")
	if r := s.invoke("ok", `{"by":"Authorization"}`, "Authorization", basic("one", "token-of-agent-one")); r.status != 200 || a.requests("ok")[0].get("Authorization") != "" {
		t.Errorf("Authorization: Basic with a configured id: %d %s; the tool got %q", r.status, r.code(), a.requests("ok")[0].get("Authorization"))
	}
	for _, agent := range []string{"hour", "tool", "spend"} {
		code := map[string]string{"hour": "max_actions_per_hour_exceeded", "tool": "max_calls_per_tool_exceeded", "spend": "max_spend_usd_per_day_exceeded"}[agent]
		r := as(agent, "ok", "{}")
		problem(t, agent, r, 429, code)
		checkEdge(t, r, code)
	}
	problem(t, "reset", as("one", "reset", "{}"), 504, "upstream_outcome_unknown")
	problem(t, "reset again", as("one", "reset", "{}"), 409, "outcome_unknown")
	as("one", "huge", "{}")
	problem(t, "huge again", as("one", "huge", "{}"), 410, "result_not_kept")
	problem(t, "dead", as("one", "dead", "{}"), 502, "upstream_unreachable")
	as("one", "ok", `{"n":1}`, "Idempotency-Key", "k")
	problem(t, "reused", as("one", "ok", `{"n":2}`, "Idempotency-Key", "k"), 422, "idempotency_key_reused")
	first, other := later(func() answer { return as("one", "slow", `{"n":1}`) }), later(func() answer { return as("one", "narrow", `{"n":1}`) })
	got(t, "a tool was called", began)
	got(t, "the other tool was called", began)
	problem(t, "in flight", as("one", "slow", `{"n":1}`), 409, "in_flight")
	problem(t, "overloaded", as("one", "narrow", `{"n":2}`), 503, "overloaded")
	close(goOn)
	got(t, "the first ended", first)
	got(t, "the other ended", other)
}

// TestBoundsOfTheStore: past them new claims are refused, and what is known is still answered.
func TestBoundsOfTheStore(t *testing.T) {
	t.Parallel()
	a := act(t, func(x *scene) {
		if x.name() == "reset" {
			x.reset()
			return
		}
		ok(x)
	})
	s := start(t, []settings{a.tool("ok", nil), a.tool("reset", nil), a.tool("read", settings{"effect": "read", "dedup": settings{"mode": "off"}})},
		settings{"store": settings{"embedded": settings{"dir": filepath.Join(t.TempDir(), "store"), "max_keys": 5, "max_unknown": 2}}})
	for i := range 3 {
		s.invoke("ok", fmt.Sprintf(`{"n":%d}`, i))
		s.invoke("reset", fmt.Sprintf(`{"n":%d}`, i))
	}
	problem(t, "past max_unknown", s.invoke("reset", `{"n":9}`), 503, "store_unavailable")
	problem(t, "another past it", s.invoke("ok", `{"n":9}`), 503, "store_unavailable")
	if r := s.invoke("ok", `{"n":0}`); !r.replayed() {
		t.Errorf("a replay past the bounds: %d %s", r.status, r.code())
	}
	if r := s.invoke("read", `{"n":0}`); r.status != 200 {
		t.Errorf("a read past the bounds: %d %s", r.status, r.code())
	}
	if ran := a.ran("reset"); ran != 2 {
		t.Errorf("reset ran %d times", ran)
	}
	if r := s.send("GET", "http://"+s.health+"/readyz", ""); r.status != 503 {
		t.Errorf("readyz says %d", r.status)
	}
	if r := s.send("GET", "http://"+s.health+"/livez", ""); r.status != 200 {
		t.Errorf("livez says %d", r.status)
	}
}
