package govern_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// TestOrderOfChecks: of all that is wrong with a call, what comes first in the sequence is said.
func TestOrderOfChecks(t *testing.T) {
	blocks := policy.Config{BlockedTools: []string{"off", "nobody"}}
	s := setting{tools: []tool.Config{
		{Name: "off", Enabled: ptr(false)}, {Name: "gone", Auth: &tool.AuthConfig{Type: "hmac_sha256", Gone: true}},
		{Name: "t", Dedup: tool.DedupConfig{Mode: "required"}}, {Name: "own", Scope: "agent:other"},
	}}
	bad := func(name string) *asking {
		return named(name, `{"a":1,"a":2}`).with(func(r *govern.Request) { r.Spend, r.ForceNew, r.IdempotencyKey = "much", "x", []string{" "} })
	}
	for _, v := range []struct {
		about string
		s     setting
		ask   *asking
		told  string
	}{
		{"a hint that does not agree", s.under(blocks), named("off", "{}").with(func(r *govern.Request) { r.ToolHint = "t" }), "400 blocked bad_request not_sent"},
		{"the lists before the registry", s.under(blocks), named("nobody", "{}"), "403 blocked tool_explicitly_blocked not_sent"},
		{"the lists before enabled", s.under(blocks), bad("off"), "403 blocked tool_explicitly_blocked not_sent"},
		{"the allow-list", s.under(policy.Config{AllowedTools: []string{"a*"}}), bad("t"), "403 blocked tool_not_in_allowed_list not_sent"},
		{"an unknown name", s, bad("nobody"), "403 blocked tool_not_registered not_sent"},
		{"another agent's tool", s, named("own", "{}"), "403 blocked tool_not_registered not_sent"},
		{"force_new", s, bad("off"), "403 blocked force_new_denied not_sent"},
		{"enabled", s.under(policy.Config{AllowForceNew: true}), bad("off"), "403 blocked tool_disabled not_sent"},
		{"the secret", s.under(policy.Config{AllowForceNew: true}), bad("gone"), "403 blocked tool_secret_missing not_sent"},
		{"the spend", s.under(policy.Config{AllowForceNew: true}), bad("t"), "400 blocked bad_request not_sent"},
		{"the key", s, named("t", "[,]").with(func(r *govern.Request) { r.IdempotencyKey = []string{" "} }), "400 blocked idempotency_key_malformed not_sent"},
		{"the arguments", s, named("t", "[,]").with(func(r *govern.Request) { r.IdempotencyKey = []string{"k"} }), "400 blocked arguments_unparseable not_sent"},
		{"no key", s, named("t", "{}"), "400 blocked idempotency_key_required not_sent"},
		{"nothing", s, named("t", "{}").with(func(r *govern.Request) { r.IdempotencyKey = []string{"k"} }), "200 executed ok done"},
	} {
		t.Run(v.about, func(t *testing.T) {
			in(t, v.s, func(w *world) {
				r := w.ask(v.ask)
				r.want(t, v.told)
				if r.Refusal == nil {
					return
				}
				if w.stage.sends() != 0 || w.usage("t") != "0 0 0" {
					t.Error("a refused call was sent or charged")
				}
				var problem map[string]any
				if err := json.Unmarshal(r.Body, &problem); err != nil || problem["tool"] != v.ask.Name || problem["agent_id"] != "ag" || problem["instance"] != "urn:oo-sidecar:request:"+r.id {
					t.Errorf("the body is %s", r.body)
				}
				if r.header["Content-Type"] != "application/problem+json" {
					t.Errorf("the header is %v", r.header)
				}
			})
		})
	}
}

func TestHints(t *testing.T) {
	s := oneTool(nil)
	s.unregistered, s.passthrough = govern.Lightly, "model.test"
	in(t, s, func(w *world) {
		for hint, told := range map[string]string{"t": "200 executed ok done", "u": "400 blocked bad_request not_sent"} {
			w.ask(forwarded(t, "POST", "https://t.test/run", `"`+hint+`"`).with(func(r *govern.Request) { r.ToolHint = hint })).want(t, told)
		}
		for _, url := range []string{"https://model.test/", "https://free.test/", "https://t.test/other"} {
			w.ask(forwarded(t, "POST", url, "{}").with(func(r *govern.Request) { r.ToolHint = "t" })).want(t, "400 blocked bad_request not_sent")
		}
	})
}

// TestTheWireRefuses: what never comes to the sequence leaves its record all the same.
func TestTheWireRefuses(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		refuse := func(code string) *reply {
			r := &govern.Request{ID: "wire " + code, Arrived: time.Now(), Agent: "ag", Name: "t"}
			got := &reply{Reply: w.gov.Refuse(r, code, ""), id: r.ID, header: map[string]string{}}
			for _, h := range got.Header {
				got.header[h.Name] = h.Value
			}
			w.replies[got.id] = got
			return got
		}
		answer := &govern.Request{ID: "the sidecar's own", Arrived: time.Now(), Agent: "ag"}
		w.replies[answer.ID] = &reply{Reply: w.gov.Answer(answer, "probe", "here")}
		if r := w.replies[answer.ID]; r.Status != 200 || string(r.Body) != "here\n" {
			t.Errorf("answered %+v", r.Reply)
		}
		tunnel := &govern.Request{ID: "tunnel", Arrived: time.Now(), Agent: "ag", Target: tool.Target{Authority: "free.test:443"}}
		w.gov.Tunnelled(tunnel)
		w.replies[tunnel.ID] = &reply{Reply: &govern.Reply{Decision: govern.Executed, Reason: "ok"}}
		refuse("bad_request").want(t, "400 blocked bad_request not_sent")
		refuse("request_too_large").want(t, "413 blocked request_too_large not_sent")
	})
}

// TestWhatTheToolGets: the agent's own headers in their order, then ours; what the tool's entry names replaces.
func TestWhatTheToolGets(t *testing.T) {
	from := []tool.Header{
		{Name: "accept", Value: "*/*"}, {Name: "Authorization", Value: "Bearer agent"}, {Name: "Accept-Encoding", Value: "br"}, {Name: "idempotency-key", Value: "mine"},
		jsonType, {Name: "X-A", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "Foreign-Key", Value: "theirs"},
	}
	for _, v := range []struct {
		about  string
		change func(*tool.Config)
		want   string // KEY stands for the upstream key
	}{
		{"plain", nil, "accept=*/* Authorization=Bearer agent Content-Type=application/json X-A=1 x-a=2 Foreign-Key=theirs Accept-Encoding=identity Idempotency-Key=KEY"},
		{"injected", func(c *tool.Config) { c.Headers = map[string]string{"authorization": "Bearer secret"} },
			"accept=*/* Content-Type=application/json X-A=1 x-a=2 Foreign-Key=theirs Accept-Encoding=identity authorization=Bearer secret Idempotency-Key=KEY"},
		{"another header", func(c *tool.Config) { c.UpstreamKey = map[string]any{"header": "foreign-key"} },
			"accept=*/* Authorization=Bearer agent Content-Type=application/json X-A=1 x-a=2 Accept-Encoding=identity foreign-key=KEY"},
		{"none", func(c *tool.Config) { c.UpstreamKey = "none" },
			"accept=*/* Authorization=Bearer agent Content-Type=application/json X-A=1 x-a=2 Foreign-Key=theirs Accept-Encoding=identity"},
	} {
		in(t, oneTool(v.change), func(w *world) {
			w.ask(named("t", `{ "b": 1 }`).with(func(r *govern.Request) { r.Header, r.IdempotencyKey = from, []string{"mine"} })).want(t, "200 executed ok done")
			got := w.stage.last()
			var text []string
			for _, h := range got.Header {
				if strings.HasPrefix(h.Value, "oo_") && len(h.Value) == 67 {
					h.Value = "KEY"
				}
				text = append(text, h.Name+"="+h.Value)
			}
			if s := strings.Join(text, " "); s != v.want || string(got.Body) != `{ "b": 1 }` || !got.HasBody || got.Method != "POST" || got.Target.String() != "https://t.test:443/run" {
				t.Errorf("%s: sent %s %s %s\nwant %s", v.about, got.Target, s, got.Body, v.want)
			}
		})
	}
}

func TestSignedCalls(t *testing.T) {
	const webhook = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	for _, v := range []struct{ scheme, secret string }{{"onceonly", "s1"}, {"standard-webhooks", webhook}} {
		s := oneTool(func(c *tool.Config) {
			c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Scheme: v.scheme, Secrets: []string{v.secret}}
			c.Match = []tool.MatchConfig{{Methods: []string{"PUT"}, URL: "https://t.test/items/{id}"}}
		})
		in(t, s, func(w *world) {
			w.ask(forwarded(t, "PUT", "https://t.test/items/7?x=1", `{"n":1}`).with(func(r *govern.Request) { r.RunID = "run-1" })).want(t, "200 executed ok done")
			got := w.stage.last()
			h := http.Header{}
			for _, f := range got.Header {
				h.Add(f.Name, f.Value)
			}
			for name, want := range map[string]string{
				"X-OnceOnly-Agent-Id": "ag", "X-OnceOnly-Tool": "t", "X-OnceOnly-Run-Id": "run-1", "X-OnceOnly-Attempt": "1",
				"X-Request-Id": fmt.Sprintf("%032d", w.n), "X-OnceOnly-Fence": fmt.Sprint(got.fence),
			} {
				if h.Get(name) != want || want == "0" {
					t.Errorf("%s: %s is %q, want %q", v.scheme, name, h.Get(name), want)
				}
			}
			if tp := h.Get("traceparent"); len(tp) != 55 {
				t.Errorf("%s: traceparent is %q", v.scheme, tp)
			}
			keys, err := hmac.NewKeys(v.scheme, []string{v.secret})
			if err != nil {
				t.Fatal(err)
			}
			received := &hmac.Received{Method: "PUT", Authority: "t.test", Path: "/items/7?x=1", Body: []byte(`{"n":1}`), Get: h.Get}
			if err := keys.Verify(received, time.Now()); err != nil {
				t.Errorf("%s: %v", v.scheme, err)
			}
			if received.Body = []byte(`{"n":2}`); keys.Verify(received, time.Now()) == nil {
				t.Errorf("%s: another body passes", v.scheme)
			}
		})
	}
}

// envelope is the body of a tool that wants one.
type envelope struct {
	Tool, AgentID, RunID, RequestID, IdempotencyKey string
	Args                                            json.RawMessage
	SpendUSD                                        json.Number
	DryRun                                          bool
	TS                                              int64
}

func (e *envelope) UnmarshalJSON(data []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	for name, to := range map[string]any{
		"tool": &e.Tool, "args": &e.Args, "agent_id": &e.AgentID, "run_id": &e.RunID, "request_id": &e.RequestID, "idempotency_key": &e.IdempotencyKey,
		"spend_usd": &e.SpendUSD, "dry_run": &e.DryRun, "ts": &e.TS,
	} {
		if err := json.Unmarshal(m[name], to); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delete(m, name)
	}
	if len(m) > 0 {
		return fmt.Errorf("also %v", m)
	}
	return nil
}

func TestEnvelope(t *testing.T) {
	s := oneTool(func(c *tool.Config) { c.Body, c.Price = "envelope", tool.USD/1000 })
	for args, want := range map[string]string{`{ "to": "a\u00e4", "n": 9007199254740993 }`: `{ "to": "a\u00e4", "n": 9007199254740993 }`, "": "{}", "[1]": "[1]"} {
		in(t, s, func(w *world) {
			r := w.ask(named("t", args).with(func(r *govern.Request) {
				r.RunID, r.HasBody = `r"1`, args != ""
				r.Header = []tool.Header{{Name: "content-type", Value: "application/vnd.x+json; charset=utf-8"}}
			}))
			r.want(t, "200 executed ok done")
			got := w.stage.last()
			var e envelope
			if err := json.Unmarshal(got.Body, &e); err != nil {
				t.Fatalf("%v: %s", err, got.Body)
			}
			if string(e.Args) != want || e.Tool != "t" || e.AgentID != "ag" || e.RunID != `r"1` || e.RequestID != r.id || e.IdempotencyKey != got.key || e.SpendUSD != "0.001" || e.DryRun || e.TS != time.Now().Unix() {
				t.Errorf("sent %s", got.Body)
			}
			if !got.HasBody || header(got.Header, "Content-Type") != "application/json" {
				t.Errorf("sent with %v", got.Header)
			}
		})
	}
}

// TestOnlyScannedBodiesAreSpliced: whatever the strict scanner has not read could break out of what is put around it.
func TestOnlyScannedBodiesAreSpliced(t *testing.T) {
	breaksOut := `1,"agent_id":"admin","x":{}`
	for _, change := range []func(*tool.Config){
		func(c *tool.Config) { c.Body = "envelope" },
		func(c *tool.Config) { c.UpstreamKey = map[string]any{"json": "/key"} },
	} {
		in(t, oneTool(change), func(w *world) {
			for _, v := range []struct{ media, body string }{
				{"", breaksOut}, {"text/plain", breaksOut}, {"text/plain", `{"a`}, {"application/x-www-form-urlencoded", "a=1"}, {"x+json", breaksOut}, {"x+json", `{"a`},
				{"application/json\u00a0", breaksOut}, {"application/json", breaksOut}, {"application/json", `{"a":1,"a":2}`}, {"/+json", `{"a`}, {"multipart/form-data; boundary=b", "{}"},
			} {
				w.ask(named("t", v.body).with(func(r *govern.Request) {
					r.Header = []tool.Header{{Name: "Content-Type", Value: v.media}}
				})).want(t, "400 blocked arguments_unparseable not_sent")
			}
			w.ask(named("t", "{}").with(func(r *govern.Request) {
				r.Header = []tool.Header{jsonType, {Name: "Content-Type", Value: "text/plain"}}
			})).want(t, "400 blocked arguments_unparseable not_sent")
			if w.stage.sends() != 0 || w.usage("t") != "0 0 0" {
				t.Error("something was sent or claimed")
			}
		})
	}
}

func TestKeyInTheBody(t *testing.T) {
	keyAt := func(pointer, body string) setting {
		return oneTool(func(c *tool.Config) { c.UpstreamKey, c.Body = map[string]any{"json": pointer}, body })
	}
	in(t, keyAt("/meta/key", ""), func(w *world) {
		w.ask(named("t", `{"meta": {"key": "mine", "b": 1}}`)).want(t, "200 executed ok done")
		got := w.stage.last()
		var doc struct{ Meta struct{ Key string } }
		if err := json.Unmarshal(got.Body, &doc); err != nil || len(doc.Meta.Key) != 67 || header(got.Header, "Idempotency-Key") != "" {
			t.Errorf("sent %s with %v", got.Body, got.Header)
		}
		w.ask(named("t", `{"meta": {"b": 1}}`)).want(t, "200 dedup tool_idempotency done") // what we write over does not count
		for _, args := range []string{`{}`, `[]`, `{"meta":1}`, ``} {
			w.ask(named("t", args)).want(t, "400 blocked arguments_unparseable not_sent")
		}
	})
	in(t, keyAt("/args/key", "envelope"), func(w *world) {
		w.ask(named("t", `{}`)).want(t, "200 executed ok done")
		var doc struct{ Args struct{ Key string } }
		if err := json.Unmarshal(w.stage.last().Body, &doc); err != nil || len(doc.Args.Key) != 67 {
			t.Errorf("sent %s", w.stage.last().Body)
		}
	})
}

func TestKeptHeaders(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.Dedup.KeepHeaders = []string{"X-Charge"} }), func(w *world) {
		kept := []string{"Content-Type", "Content-Encoding", "Content-Language", "location", "Content-Location", "ETag", "Last-Modified", "LINK", "x-charge"}
		dropped := []string{"Set-Cookie", "Date", "WWW-Authenticate", "X-RateLimit-Remaining", "Server", "X-Other", "Cache-Control"}
		var from []tool.Header
		for _, name := range append(kept, dropped...) {
			from = append(from, tool.Header{Name: name, Value: "v"})
		}
		w.stage.then(answers(200, "a", from...))
		first, again := w.ask(named("t", "{}")), w.ask(named("t", "{}"))
		for _, name := range append(kept, dropped...) {
			if first.header[name] != "v" || (again.header[name] == "v") != slices.Contains(kept, name) {
				t.Errorf("%s: first %q, replayed %q", name, first.header[name], again.header[name])
			}
		}
	})
}

func TestExplain(t *testing.T) {
	s := oneTool(func(c *tool.Config) {
		c.Headers, c.Price, c.Auth = map[string]string{"Authorization": "Bearer secret-value"}, tool.USD/2, fourEffects().tools[0].Auth
	}).under(policy.Config{BlockedTools: []string{"off"}})
	s.passthrough = "model.test"
	in(t, s, func(w *world) {
		off := func(agent string) bool { return agent == "gone" }
		a := named("t", `{"n":1}`).with(func(r *govern.Request) {
			r.Agent, r.Tenant, r.Header = "ag", "default", append(r.Header, tool.Header{Name: "authorization", Value: "Bearer agents"}, tool.Header{Name: "Idempotency-Key", Value: "mine"})
		})
		e := w.gov.Snapshot().Explain(&a.Request, w.shown, off)
		if e.Refusal != nil || e.Tool.Name != "t" || e.Target.String() != "https://t.test:443/run" || e.Cost != tool.USD/2 || e.Policy != "ag" || len(e.Key) != 64 || !e.Call.Keys.Applies {
			t.Errorf("explained as %+v", e)
		}
		if text := fmt.Sprint(e.Header); strings.Contains(text, "secret-value") || strings.Contains(text, "agents") || !strings.Contains(text, "{Authorization ***}") {
			t.Errorf("the headers are shown as %s", text)
		}
		r := w.ask(a)
		if !strings.HasPrefix(e.Key, r.Key) {
			t.Errorf("explained with the key %s, claimed with %s", e.Key, r.Key)
		}
		for _, v := range []struct {
			ask  *asking
			code string
		}{
			{named("t", "{}").with(func(r *govern.Request) { r.Agent = "gone" }), "agent_disabled"},
			{named("off", "{}"), "tool_explicitly_blocked"}, {named("nobody", "{}"), "tool_not_registered"}, {named("t", "[,]"), "arguments_unparseable"},
			{forwarded(t, "POST", "https://free.test/", "{}"), "tool_not_registered"}, {forwarded(t, "POST", "https://model.test/", "{}"), ""},
		} {
			if v.ask.Agent == "" {
				v.ask.Agent = "ag"
			}
			e := w.gov.Snapshot().Explain(&v.ask.Request, w.shown, off)
			if e.Refusal == nil && v.code != "" || e.Refusal != nil && e.Refusal.Code != v.code {
				t.Errorf("%s is explained as %+v, want %q", v.ask.Name, e.Refusal, v.code)
			}
		}
		if w.stage.sends() != 1 {
			t.Error("explaining sent something")
		}
	})
}

// TestUpstreamKeyIsTheRuns: of the claim's key and generation, so that a tool's own records can be matched with ours.
func TestUpstreamKeyIsTheRuns(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		w.ask(named("t", "{}"))
		got := w.stage.last()
		keys, err := dedup.Derive(&tool.Call{
			Tool: w.gov.Snapshot().Registry.Tools()[0], Tenant: "default", Agent: "ag", Method: "POST", Target: got.Target, Header: []tool.Header{jsonType}, Body: []byte("{}"), HasBody: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		fence := w.records("")[0].Fence
		if want := dedup.UpstreamKey(keys.Identities[0].Key, fence); got.key != want {
			t.Errorf("the upstream key is %s, want %s", got.key, want)
		}
	})
}
