package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

const (
	operatorKey = "once_live_operator_for_tests"
	agentKey    = "once_live_agent_for_tests"
)

// backend keeps in memory what a store would, and decides resolutions by dedup's own transition.
type backend struct {
	t      *testing.T
	mu     sync.Mutex
	agents map[string]Switch
	open   []Unknown
	states map[dedup.Key]dedup.State
	done   []dedup.Resolution
	who    []string
	tools  []Entry
	down   error
	now    time.Time
}

func (b *backend) Switches() []Switch {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Switch
	for _, s := range b.agents {
		all = append(all, s)
	}
	return all
}

func (b *backend) Disable(_ context.Context, agent, reason, who string) (Switch, error) {
	return b.set(Switch{AgentID: agent, Off: true, Reason: reason, Since: b.now}, who)
}

func (b *backend) Enable(_ context.Context, agent, _, who string) (Switch, error) {
	return b.set(Switch{AgentID: agent}, who)
}

func (b *backend) set(s Switch, who string) (Switch, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if who == "" {
		b.t.Error("a change without a name")
	}
	if b.down != nil {
		return Switch{}, b.down
	}
	b.agents[s.AgentID] = s
	b.who = append(b.who, who)
	return s, nil
}

func (b *backend) Unknowns() ([]Unknown, error) { return b.open, b.down }

func (b *backend) Resolve(_ context.Context, r *dedup.Resolution) error {
	if r.Who == "" || r.Why == "" {
		b.t.Error("a resolution without name or reason")
	}
	_, _, err := dedup.Resolve(b.states[r.Key], r, b.now)
	if err == nil {
		b.done = append(b.done, *r)
	}
	return err
}

func (b *backend) Tools() []Entry    { return b.tools }
func (b *backend) Policies() []Entry { return nil }
func (b *backend) Keys() []Entry     { return nil }

func (b *backend) Put(_ context.Context, kind Kind, spec []byte, who string) (Entry, error) {
	var named struct{ Name string }
	if json.Unmarshal(spec, &named); named.Name == "" {
		return Entry{}, fmt.Errorf("put: %w", &Invalid{"tools[0].name: is missing"})
	}
	b.who = append(b.who, who)
	return Entry{Name: named.Name, Source: "api", Spec: spec}, nil
}

func (b *backend) PutTool(context.Context, string, string, map[string]json.RawMessage, string, string) error {
	return ErrNotFound // whoever wants tools with secrets tests with the real registry
}

func (b *backend) Delete(_ context.Context, _ Kind, name, _, _ string) error {
	if name != "mine" {
		return ErrNotFound
	}
	return nil
}

func serve(t *testing.T) (*httptest.Server, *backend) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := &backend{t: t, agents: map[string]Switch{}, states: map[dedup.Key]dedup.State{}, now: now}
	for i, shown := range []string{"abcd1111", "abcd2222", "ef"} {
		key := dedup.Key{byte(i + 1)}
		s := dedup.State{Held: true, Outcome: dedup.Unknown, Fence: uint64(i + 10), Sent: now.Add(-time.Hour), Timeout: time.Minute}
		if i == 1 {
			s.Sent = now // young
		}
		b.states[key] = s
		b.open = append(b.open, Unknown{Key: key, Shown: shown + strings.Repeat("0", 64-len(shown)), Tool: "charge", Agent: "billing", Fence: s.Fence, Attempt: 1, Claimed: now.Add(-time.Hour), Ended: now, Timeout: s.Timeout, SpendUSD: "0.5"})
	}
	api := &Server{Switches: b, Unknowns: b, Registry: b, Log: slog.New(slog.DiscardHandler), Hosts: []string{"sidecar.test"},
		Status: func() Status { return Status{Version: "v1", Agent: "billing"} },
		Audit: func(_ context.Context, q audit.Query) ([]audit.Row, error) {
			if q.Agent == "broken" {
				return nil, errors.New("segment 3: secret path")
			}
			r := audit.Record{Seq: q.After + 1, AgentID: q.Agent, Tool: "charge\"\n"}
			return []audit.Row{{Record: &r}, {Change: &audit.Change{Seq: uint64(q.Limit)}}}, nil
		},
	}
	ring, err := NewKeyring([]KeyConfig{
		{Name: "ops", Role: "operator", Key: operatorKey},
		{Name: "agent", Role: "agent", AgentID: "billing", Key: agentKey},
		{Name: "slow", Role: "operator", Key: "once_live_slow_for_tests", Rate: "2/h"},
	})
	if err != nil {
		t.Fatal(err)
	}
	api.UseKeys(ring)
	s := httptest.NewServer(api.Handler())
	t.Cleanup(s.Close)
	return s, b
}

// ask sends a request; header is pairs of name and value.
func ask(t *testing.T, s *httptest.Server, method, path, body string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := openapi.Judge(r, resp.StatusCode, data); err != nil && r.Host == r.URL.Host { // other Hosts are refused before the API
		t.Error(err)
	}
	if resp.StatusCode/100 == 3 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%s %s: %d %v", method, path, resp.StatusCode, resp.Header)
	}
	return resp.StatusCode, strings.TrimSpace(string(data))
}

// openapi is what every answer is held against.
var openapi = func() *apitest.Description {
	d, err := apitest.Read(description)
	if err != nil {
		panic(err)
	}
	return d
}()

func as(key string) []string { return []string{"Authorization", "Bearer " + key} }

func TestWhoMayDoWhat(t *testing.T) {
	s, b := serve(t)
	const path = "/v1/agents/billing/disable"
	for name, c := range map[string]struct {
		method, path string
		header       []string
		status       int
		body         string
	}{
		"no key":         {"POST", path, nil, 401, `{"detail":"Missing Authorization Bearer token"}`},
		"basic":          {"POST", path, []string{"Authorization", "Basic b3BzOng="}, 401, `{"detail":"Missing Authorization Bearer token"}`},
		"empty":          {"POST", path, []string{"Authorization", "Bearer "}, 401, `{"detail":"Missing Authorization Bearer token"}`},
		"two":            {"POST", path, append(as(agentKey), as(operatorKey)...), 401, `{"detail":"Missing Authorization Bearer token"}`},
		"wrong":          {"POST", path, as("wrong"), 403, `{"detail":"Invalid API key"}`},
		"prefix":         {"POST", path, as(operatorKey[:27]), 403, `{"detail":"Invalid API key"}`},
		"agent":          {"POST", path, as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent on v1":    {"POST", "/v1/agents/billing/disable", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent enables":  {"POST", "/v1/agents/billing/enable", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent lists":    {"GET", "/v1/agents", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent resolves": {"POST", "/v1/unknown/resolve", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent reads":    {"GET", "/v1/audit", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"agent puts":     {"POST", "/v1/entries/policies", as(agentKey), 403, `{"detail":"Forbidden"}`},
		"nowhere":        {"GET", "/v1/nothing", as(operatorKey), 404, `{"detail":"Not Found"}`},
		"nowhere, no key": {"GET", "/v1/nothing", nil, 401,
			`{"detail":"Missing Authorization Bearer token"}`},
		"method":          {"GET", path, as(operatorKey), 405, `{"detail":"Method Not Allowed"}`},
		"slash":           {"POST", path + "/", as(operatorKey), 404, `{"detail":"Not Found"}`},
		"double slash":    {"POST", "//v1/agents", as(operatorKey), 404, `{"detail":"Not Found"}`},
		"dots":            {"POST", "/v1/../v1/agents", as(operatorKey), 404, `{"detail":"Not Found"}`},
		"raw slash":       {"POST", "/v1/agents/a/b/disable", as(operatorKey), 404, `{"detail":"Not Found"}`},
		"rebound":         {"POST", path, append(as(operatorKey), "Host", "evil.example"), 403, ""},
		"page":            {"POST", path, append(as(operatorKey), "Origin", "http://evil.example"), 403, ""},
		"page, get":       {"GET", "/v1/agents", append(as(operatorKey), "Sec-Fetch-Site", "cross-site"), 403, ""},
		"page, preflight": {"OPTIONS", path, []string{"Origin", "http://evil.example", "Access-Control-Request-Method", "POST"}, 401, ""},
	} {
		status, body := ask(t, s, c.method, c.path, `{"reason":"x"}`, c.header...)
		if status != c.status || c.body != "" && body != c.body {
			t.Errorf("%s: %d %s, want %d %s", name, status, body, c.status, c.body)
		}
	}
	if len(b.agents) != 0 {
		t.Errorf("something was changed: %v", b.agents)
	}
}

func TestAgentsAreSwitchedInTheWordsOfTheAPI(t *testing.T) {
	s, b := serve(t)
	for _, c := range []struct{ path, body, want string }{
		{"/v1/agents/support_bot/disable", `{"reason":"loops"}`, `{"agent_id":"support_bot","is_enabled":false,"disabled_reason":"loops","disabled_at":"2026-01-02T03:04:05Z"}`},
		{"/v1/agents/a%2Fb%20c/disable", `{}`, `{"agent_id":"a/b c","is_enabled":false,"disabled_reason":"","disabled_at":"2026-01-02T03:04:05Z"}`},
		{"/v1/agents/%2A/disable", `{"reason":"all","later":1}`, `{"agent_id":"*","is_enabled":false,"disabled_reason":"all","disabled_at":"2026-01-02T03:04:05Z"}`},
		{"/v1/agents/support_bot/enable", "", `{"agent_id":"support_bot","is_enabled":true,"disabled_reason":null,"disabled_at":null}`},
	} {
		if status, body := ask(t, s, "POST", c.path, c.body, as(operatorKey)...); status != 200 || body != c.want {
			t.Errorf("%s: %d %s, want %s", c.path, status, body, c.want)
		}
	}
	if fmt.Sprint(b.who) != "[ops ops ops ops]" || !b.agents["*"].Off || b.agents["support_bot"].Off {
		t.Errorf("by %v: %v", b.who, b.agents)
	}
	if status, body := ask(t, s, "POST", "/v1/agents/a/disable", "{", as(operatorKey)...); status != 422 {
		t.Errorf("half a body: %d %s", status, body)
	}
	if status, _ := ask(t, s, "POST", "/v1/agents/a/disable", strings.Repeat(" ", maxBody+1), as(operatorKey)...); status != 413 {
		t.Errorf("a large body: %d", status)
	}
	b.down = fmt.Errorf("disk /secret/path is full: %w", ErrStore)
	if status, body := ask(t, s, "POST", "/v1/agents/a/disable", "", as(operatorKey)...); status != 503 || strings.Contains(body, "secret") {
		t.Errorf("without a store: %d %s", status, body)
	}
	b.down = errors.New("secret")
	if status, body := ask(t, s, "POST", "/v1/agents/a/disable", "", as(operatorKey)...); status != 500 || body != `{"detail":"Internal Server Error"}` {
		t.Errorf("an unknown error: %d %s", status, body)
	}
}

func TestResolveUnknown(t *testing.T) {
	s, b := serve(t)
	for name, c := range map[string]struct {
		body   string
		status int
		want   string // part of the answer
	}{
		"ambiguous":      {`{"key":"abcd","outcome":"done","why":"seen"}`, 404, "give more of the key"},
		"short":          {`{"key":"ef","outcome":"done","why":"seen"}`, 422, "at least 4 digits"},
		"nobody":         {`{"key":"ffff","outcome":"done","why":"seen"}`, 404, "unknown ls"},
		"no why":         {`{"key":"abcd1","outcome":"done","why":" "}`, 422, "how you know"},
		"no outcome":     {`{"key":"abcd1","why":"seen"}`, 422, "neither done nor not-executed"},
		"answer not run": {`{"key":"abcd1","outcome":"not-executed","why":"seen","answer":{"body":"e30="}}`, 422, "has none"},
		"answer status":  {`{"key":"abcd1","outcome":"done","why":"seen","answer":{"status":500}}`, 422, "status 500"},
		"answer header":  {`{"key":"abcd1","outcome":"done","why":"seen","answer":{"content_type":"a\r\nb: c"}}`, 422, "malformed"},
		"moved":          {`{"key":"abcd1","fence":9,"outcome":"done","why":"seen"}`, 409, "moved"},
		"young":          {`{"key":"abcd2","outcome":"not-executed","why":"seen"}`, 409, "too_young"},
	} {
		if status, body := ask(t, s, "POST", "/v1/unknown/resolve", c.body, as(operatorKey)...); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d %q", name, status, body, c.status, c.want)
		}
	}
	if len(b.done) != 0 {
		t.Fatalf("resolved %v", b.done)
	}
	for _, body := range []string{
		`{"key":"ABCD1","fence":10,"outcome":"done","why":"seen in the dashboard","answer":{"content_type":"application/json","body":"e30="}}`,
		`{"key":"abcd2","outcome":"not-executed","why":"I know","force":true}`,
		`{"key":"ef00","outcome":"done","why":"seen"}`,
	} {
		if status, answer := ask(t, s, "POST", "/v1/unknown/resolve", body, as(operatorKey)...); status != 200 {
			t.Fatalf("%s: %d %s", body, status, answer)
		}
	}
	first, second := b.done[0], b.done[1]
	if first.Key != (dedup.Key{1}) || first.Outcome != dedup.Done || first.Who != "ops" || !first.Answer.Kept || string(first.Answer.Body) != "{}" ||
		first.Answer.Size != 2 || first.Answer.Status != 200 || first.Answer.Header[0].Value != "application/json" {
		t.Errorf("first: %+v", first)
	}
	if second.Fence != 11 || second.Outcome != dedup.NotSent || !second.Force || second.Answer != nil || b.done[2].Answer != nil {
		t.Errorf("second: %+v", second)
	}
}

func TestUnknownListShowsNoBareKey(t *testing.T) {
	s, _ := serve(t)
	status, body := ask(t, s, "GET", "/v1/unknown?key=ABCD", "", as(operatorKey)...)
	var calls []UnknownCall
	if err := json.Unmarshal([]byte(body), &calls); err != nil || status != 200 || len(calls) != 2 || calls[0].Fence != 10 || calls[0].TimeoutMS != 60000 {
		t.Errorf("%d %s %v", status, body, err)
	}
	if strings.Contains(body, "[1,0") || strings.Contains(body, "AQAA") {
		t.Errorf("the bare key stands in %s", body)
	}
}

func TestRegistryAuditAndStatus(t *testing.T) {
	s, b := serve(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/entries/tools", "", 200, `[]`},
		{"GET", "/v1/entries/policies", "", 200, `[]`},
		{"POST", "/v1/entries/tools", `{"name":"charge"}`, 200, `{"name":"charge","source":"api","spec":{"name":"charge"}}`},
		{"POST", "/v1/entries/tools", `{}`, 422, `tools[0].name: is missing`},
		{"DELETE", "/v1/entries/tools/mine", "", 200, `"deleted":"mine"`},
		{"DELETE", "/v1/entries/policies/other", "", 404, `not_found`},
		{"GET", "/v1/status", "", 200, `"agent_id":"billing"`},
		{"GET", "/v1/audit?agent=a&limit=7&after=41", "", 200, `[{"seq":42,`},
		{"GET", "/v1/audit?limit=0", "", 422, `limit`},
		{"GET", "/v1/audit?from=yesterday", "", 422, `RFC 3339`},
		{"GET", "/v1/audit?after=-1", "", 422, `after`},
		{"GET", "/v1/audit?agent=broken", "", 500, `Internal Server Error`},
	} {
		status, body := ask(t, s, c.method, c.path, c.body, as(operatorKey)...)
		if status != c.status || !strings.Contains(body, c.want) || !json.Valid([]byte(body)) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, body, c.status, c.want)
		}
	}
	if fmt.Sprint(b.who) != "[ops]" {
		t.Errorf("changes by %v", b.who)
	}
}

func TestServerWithoutABackendSaysSo(t *testing.T) {
	api := &Server{Log: slog.New(slog.DiscardHandler)}
	ring, _ := NewKeyring([]KeyConfig{{Name: "ops", Role: "operator", Key: operatorKey}})
	api.UseKeys(ring)
	s := httptest.NewServer(api.Handler())
	defer s.Close()
	for _, path := range []string{"/v1/agents", "/v1/unknown", "/v1/audit", "/v1/entries/tools", "/v1/status"} {
		if status, body := ask(t, s, "GET", path, "", as(operatorKey)...); status != 501 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestAPanicIsAnswered(t *testing.T) {
	s, b := serve(t)
	b.agents = nil // the next write panics
	status, body := ask(t, s, "POST", "/v1/agents/a/disable", "", as(operatorKey)...)
	if status != 500 || body != `{"detail":"Internal Server Error"}` {
		t.Errorf("%d %s", status, body)
	}
}

func TestKeysAndRates(t *testing.T) {
	for _, c := range []KeyConfig{{Role: "operator"}, {Role: "root", Key: "x"}, {Role: "agent", Key: "x", Rate: "5"}, {Role: "agent", Key: "x", Rate: "0/s"}, {Role: "agent", Key: "x", Rate: "1/d"}} {
		if _, err := NewKeyring([]KeyConfig{c}); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	s, _ := serve(t)
	var statuses []int
	for range 3 {
		status, _ := ask(t, s, "GET", "/v1/agents", "", as("once_live_slow_for_tests")...)
		statuses = append(statuses, status)
	}
	if fmt.Sprint(statuses) != "[200 200 429]" {
		t.Errorf("2/h: %v", statuses)
	}
}

func TestBucketNeverLetsMoreThanItsRateAndABurstThrough(t *testing.T) {
	b, err := newBucket("10/s")
	if err != nil {
		t.Fatal(err)
	}
	now, passed := time.Unix(1, 0), 0
	for range 5000 { // five seconds, a request a millisecond
		if b.take(now) == 0 {
			passed++
		}
		now = now.Add(time.Millisecond)
	}
	if passed < 50 || passed > 60 {
		t.Errorf("%d in five seconds at 10/s", passed)
	}
	b.take(now)
	if wait := b.take(now); wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("wait %v", wait)
	}
}

// TestRawRequests speaks to the listener itself, where clients would mend what is sent.
func TestRawRequests(t *testing.T) {
	s, _ := serve(t)
	for request, want := range map[string]string{
		"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n":                    "HTTP/1.1 401",
		"GET /v1/agents HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n":      "HTTP/1.1 400",
		"GET http://evil.example/v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n": "HTTP/1.1 403",
		"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n":              "HTTP/1.1 404",
	} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, request)
		line, _ := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if !strings.HasPrefix(line, want) {
			t.Errorf("%q: %q, want %s", request, line, want)
		}
	}
}

// TestARateGoesOn: who has used up a rate is not let in because keys change, unless the rate does.
func TestARateGoesOn(t *testing.T) {
	api := &Server{Log: slog.New(slog.DiscardHandler)}
	s := httptest.NewServer(api.Handler())
	defer s.Close()
	for i, c := range []struct {
		rate string
		want int
	}{{"1/h", 501}, {"1/h", 429}, {"2/h", 501}, {"2/h", 501}, {"2/h", 429}, {"", 501}, {"1/h", 501}} {
		ring, err := NewKeyring([]KeyConfig{{Name: fmt.Sprint("another", i), Role: "operator", Key: fmt.Sprint(operatorKey, i)}},
			Shared(KeyConfig{Name: "ops", Key: operatorKey, Rate: c.rate}))
		if err != nil {
			t.Fatal(err)
		}
		api.UseKeys(ring)
		if status, body := ask(t, s, "GET", "/v1/agents", "", as(operatorKey)...); status != c.want {
			t.Errorf("step %d, rate %q: %d %s", i, c.rate, status, body)
		}
	}
}
