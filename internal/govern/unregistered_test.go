package govern_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// TestUnmatched is what becomes of a forwarded call that matches no tool.
func TestUnmatched(t *testing.T) {
	const (
		passed  = "200 executed ok -" // handed on as it comes
		light   = "200 executed ok done"
		deny    = "403 blocked tool_not_registered not_sent"
		noClear = "403 blocked destination_denied not_sent"
	)
	for _, v := range []struct {
		method, url         string
		deny, pass, lightly string
	}{
		{"POST", "https://free.test/things", deny, passed, light},
		{"PUT", "https://free.test/things", deny, passed, light},
		{"PATCH", "https://free.test/things", deny, passed, light},
		{"DELETE", "http://free.test:8080/things", deny, passed, light},
		{"GET", "https://free.test/things", deny, passed, passed},
		{"HEAD", "https://free.test/things", deny, passed, passed},
		{"OPTIONS", "https://free.test/things", deny, passed, passed},
		{"POST", "https://model.test/v1/chat", passed, passed, passed},
		{"GET", "https://t.test/other", deny, passed, passed},
		{"GET", "http://t.test/other", noClear, noClear, noClear},
		{"POST", "http://t.test:443/run", light, light, light}, // the upgrade
		{"POST", "http://t.test/run", light, light, light},
	} {
		for mode, want := range map[govern.Unregistered]string{govern.Deny: v.deny, govern.Pass: v.pass, govern.Lightly: v.lightly} {
			s := oneTool(nil)
			s.unregistered, s.passthrough = mode, "model.test"
			in(t, s, func(w *world) {
				r := w.ask(forwarded(t, v.method, v.url, map[bool]string{true: "{}"}[v.method == "POST"]))
				if r.want(t, want); t.Failed() {
					t.Fatalf("%s %s, mode %d", v.method, v.url, mode)
				}
				rec := w.record(r)
				if named := want == light; (rec.Tool != "") != named || (rec.Host == "") != named {
					t.Errorf("%s %s is recorded as tool %q, host %q", v.method, v.url, rec.Tool, rec.Host)
				}
				if strings.Contains(v.url, "t.test/run") && (w.stage.last().Target.Scheme != "https" || rec.Tool != "t") {
					t.Errorf("%s went to %v", v.url, w.stage.last().Target)
				}
			})
		}
	}
}

func lightly() setting { return setting{unregistered: govern.Lightly} }

func TestUnregisteredNames(t *testing.T) {
	for url, name := range map[string]string{
		"https://free.test/a": "POST:free.test", "http://free.test/b": "POST:free.test", "https://free.test:8443/": "POST:free.test:8443", "http://[::1]:8443/": "POST:[::1]:8443",
	} {
		in(t, lightly().under(policy.Config{BlockedTools: []string{name}}), func(w *world) {
			r := w.ask(forwarded(t, "POST", url, "{}"))
			r.want(t, "403 blocked tool_explicitly_blocked not_sent")
			if rec := w.record(r); rec.Tool != name {
				t.Errorf("%s is recorded as %q", url, rec.Tool)
			}
		})
	}
	hour := int64(1)
	in(t, lightly().under(policy.Config{MaxActionsPerHour: &hour}), func(w *world) {
		w.ask(forwarded(t, "POST", "https://free.test/token", "{}")).want(t, "200 executed ok done")
		w.ask(forwarded(t, "POST", "https://free.test/token", "{}")).want(t, "429 blocked max_actions_per_hour_exceeded not_sent")
		w.ask(forwarded(t, "GET", "https://free.test/token", "")).want(t, "200 executed ok -")
	})
}

// TestNeverDeduplicated: calls whose equal repetition is how their protocol works.
func TestNeverDeduplicated(t *testing.T) {
	for _, v := range []struct{ path, body string }{
		{"/token", "{}"}, {"/oauth/token", "{}"}, {"/graphql", "{}"}, {"/graphql/", "{}"}, {"/v1/search", "{}"}, {"/query", "{}"},
		{"/mcp", `{"jsonrpc":"2.0","method":"tools/call","id":1}`}, {"/mcp", `[{"jsonrpc":"2.0"}]`},
		{"/mcp", `{"params":"` + strings.Repeat("x", 100<<10) + `","jsonrpc":"2.0"}`},
		{"/things", `{"a":1,"a":2}`}, {"/things", `{`}, {"/things", `{"n":1e9999999}`}, {"/things", "\xef\xbb\xbf{}"}, {"/things", "\"\xff\""},
	} {
		in(t, lightly(), func(w *world) {
			for range 2 {
				r := w.ask(forwarded(t, "POST", "https://free.test"+v.path, v.body))
				r.want(t, "200 executed ok done")
				if rec := w.record(r); rec.Fence == 0 || rec.Key != "" {
					t.Errorf("recorded as %+v", rec)
				}
				if string(w.stage.last().Body) != v.body {
					t.Errorf("%s was sent as %q", v.body, w.stage.last().Body)
				}
			}
			if n := w.stage.sends(); n != 2 {
				t.Errorf("%s %.40s was sent %d times", v.path, v.body, n)
			}
			if got := w.usage("POST:free.test"); got != "2 0 2" {
				t.Errorf("charged %q", got)
			}
		})
	}
	in(t, lightly(), func(w *world) { // near misses
		for i, path := range []string{"/tokens", "/research", "/token/x", "/"} {
			for range 2 {
				w.ask(forwarded(t, "POST", "https://free.test"+path, `{"json":"rpc"}`))
			}
			if n := w.stage.sends(); n != i+1 {
				t.Errorf("%s was sent twice", path)
			}
		}
	})
}

// TestUndelivered: an equal call is a duplicate for a minute, and for longer only if its answer did not arrive.
func TestUndelivered(t *testing.T) {
	for name, act := range map[string]act{"an answer": answers(200, "a"), "a stream": streams(200, nil, "a")} {
		in(t, lightly(), func(w *world) {
			w.stage.then(act)
			call := func() *asking { return forwarded(t, "POST", "https://free.test/things", "{}") }
			left := call()
			left.hangsUp = true
			w.ask(left)
			time.Sleep(2 * time.Hour)
			left = call()
			left.hangsUp = true
			w.ask(left).Reply.Body = nil // the replay does not arrive either
			time.Sleep(2 * time.Hour)
			w.ask(call()).want(t, "200 dedup tool_idempotency done") // now it has
			w.ask(call()).want(t, "200 executed ok done")
			if n := w.stage.sends(); n != 2 {
				t.Errorf("%s: sent %d times", name, n)
			}
		})
	}
}

// TestCookies: an answer that sets a cookie is for those who wait already.
func TestCookies(t *testing.T) {
	cookie := tool.Header{Name: "Set-Cookie", Value: "session=secret"}
	for name, act := range map[string]act{"an answer": answers(200, "welcome", cookie, jsonType), "a large one": answers(200, strings.Repeat("x", 65), cookie)} {
		in(t, lightly(), func(w *world) {
			gate := make(chan struct{})
			call := func() *asking { return forwarded(t, "POST", "https://free.test/login", "{}") }
			w.stage.then(at(gate, act))
			all := w.together(five(call())...)
			close(gate)
			got := all()
			if got[0].header["Set-Cookie"] == "" {
				t.Errorf("%s: the caller did not get its cookie", name)
			}
			for _, r := range got[1:] {
				if name == "an answer" {
					r.want(t, "200 dedup tool_idempotency done")
				}
				if r.header["Set-Cookie"] != "" || r.Decision != govern.Dedup {
					t.Errorf("%s: a waiter got %+v", name, r.Reply)
				}
			}
			w.ask(call()).want(t, "200 executed ok done")
			if n := w.stage.sends(); n != 2 {
				t.Errorf("%s: sent %d times", name, n)
			}
		})
	}
	in(t, oneTool(nil), func(w *world) { // a tool's is kept, without the cookie
		w.stage.then(answers(200, "welcome", cookie, jsonType))
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
		r := w.ask(named("t", "{}"))
		r.want(t, "200 dedup tool_idempotency done")
		if r.header["Set-Cookie"] != "" || r.header["Content-Type"] != "application/json" {
			t.Errorf("replayed with %v", r.header)
		}
	})
}

// TestUnregisteredRequest: nothing is known of the other end, so the agent's own key goes on.
func TestUnregisteredRequest(t *testing.T) {
	in(t, lightly(), func(w *world) {
		a := forwarded(t, "POST", "https://free.test/things?q=1", "{}").with(func(r *govern.Request) {
			r.Header = []tool.Header{{Name: "idempotency-key", Value: `"mine"`}, jsonType, {Name: "Accept-Encoding", Value: "br"}, {Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}}
			r.IdempotencyKey = []string{`"mine"`}
		})
		w.ask(a).want(t, "200 executed ok done")
		got := w.stage.last()
		want := []tool.Header{{Name: "idempotency-key", Value: `"mine"`}, jsonType, {Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}, {Name: "Accept-Encoding", Value: "identity"}}
		if fmt.Sprint(got.Header) != fmt.Sprint(want) || got.Timeout != 120*time.Second || got.Target.Query != "q=1" {
			t.Errorf("sent %v within %v to %v", got.Header, got.Timeout, got.Target)
		}
		w.ask(forwarded(t, "POST", "https://free.test/things?q=2", "{}").with(func(r *govern.Request) { r.IdempotencyKey = []string{"mine"} })).
			want(t, "422 blocked idempotency_key_reused not_sent")
	})
}

// TestManyHosts: an agent that walks the net does not fill the memory.
func TestManyHosts(t *testing.T) {
	in(t, lightly(), func(w *world) {
		for i := range 1100 {
			w.ask(forwarded(t, "POST", fmt.Sprintf("https://h%d.test/things", i), "{}")).want(t, "200 executed ok done")
		}
		gate := make(chan struct{})
		w.stage.then(at(gate, answers(200, "a"))) // a stand-in that is made anew each time is still one tool
		all := w.together(five(forwarded(t, "POST", "https://h1099.test/things", `"new"`))...)
		close(gate)
		for _, r := range all()[1:] {
			r.want(t, "200 dedup tool_idempotency done")
		}
		synctest.Wait()
	})
}

// TestPassed: nothing of a passed call is touched or kept.
func TestPassed(t *testing.T) {
	s := setting{passthrough: "model.test", policies: []policy.Config{{AgentID: "ag", BlockedTools: []string{"*"}, MaxActionsPerHour: new(int64)}}}
	call := func() *asking {
		return forwarded(t, "POST", "https://model.test/v1/chat", `{"a":1,"a":2}`).with(func(r *govern.Request) {
			r.Header = []tool.Header{{Name: "Idempotency-Key", Value: "mine"}, {Name: "Accept-Encoding", Value: "br"}, {Name: "Authorization", Value: "Bearer k"}, jsonType}
			r.IdempotencyKey = []string{"mine", "and \x00 whatever"}
			r.ForceNew, r.Spend = "x", "much"
		})
	}
	in(t, s, func(w *world) {
		for i := range 2 {
			w.stage.then(answers(200, "told", tool.Header{Name: "Set-Cookie", Value: "c"}))
			r := w.ask(call())
			r.want(t, "200 executed ok -")
			if r.body != "told" || r.header["Set-Cookie"] != "c" || r.Stream == nil || r.header["X-OnceOnly-Key"] != "" {
				t.Errorf("answered %+v", r.Reply)
			}
			if rec := w.record(r); rec.Outcome != "done" || rec.UpstreamStatus != 200 || rec.Attempt != 1 || rec.Host != "model.test:443" || rec.Tool != "" || rec.SpendUSD != "0" {
				t.Errorf("recorded as %+v", rec)
			}
			got := w.stage.last()
			if fmt.Sprint(got.Header) != fmt.Sprint(call().Header) || string(got.Body) != `{"a":1,"a":2}` || got.Tool != nil {
				t.Errorf("sent %v %s", got.Header, got.Body)
			}
			if n := w.stage.sends(); n != i+1 {
				t.Errorf("sent %d times", n)
			}
		}
		if got := w.usage(""); got != "0 0 0" {
			t.Errorf("charged %q", got)
		}
	})
	for name, v := range map[string]struct {
		act                 act
		told, write, readIs string // the outcomes recorded of a POST and of a GET
	}{
		"a refusal":               {answers(404, "a"), "404 executed ok -", "failed", "failed"},
		"a failure":               {answers(500, "a"), "500 executed ok -", "failed", "failed"},
		"a cut stream":            {streams(200, errDisk, "a"), "200 executed ok -", "unknown", "failed"},
		"no answer":               {loses(govern.Flushed, govern.ErrBroken), "504 executed upstream_outcome_unknown %s", "unknown", "failed"},
		"a refused dial":          {loses(govern.Queued, govern.ErrUnreachable), "502 executed upstream_unreachable not_sent", "not_sent", "not_sent"},
		"a forbidden address":     {loses(govern.Queued, govern.ErrDestination), "403 blocked destination_denied not_sent", "not_sent", "not_sent"},
		"a wrong certificate":     {loses(govern.Queued, govern.ErrUntrusted), "502 executed upstream_untrusted not_sent", "not_sent", "not_sent"},
		"a panic":                 {panics, "500 executed internal %s", "unknown", "failed"},
		"a stream nobody listens": {streams(200, nil, "a"), "200 executed ok -", "done", "done"},
	} {
		for method, outcome := range map[string]string{"POST": v.write, "GET": v.readIs} {
			in(t, s, func(w *world) {
				w.stage.then(v.act)
				r := w.ask(forwarded(t, method, "https://model.test/v1", ""))
				r.want(t, strings.Replace(v.told, "%s", outcome, 1))
				if rec := w.record(r); rec.Outcome != outcome {
					t.Errorf("%s %s is recorded as %+v", method, name, rec)
				}
				if n := w.stage.sends(); n != 1 || w.stage.leaked() != 0 {
					t.Errorf("%s: sent %d times, %d answers left open", name, n, w.stage.leaked())
				}
			})
		}
	}
	in(t, s, func(w *world) { // an agent that hangs up ends what nobody else wants
		w.stage.then(streams(200, nil, strings.Split(strings.Repeat("x", 100), "")...))
		a := call()
		a.hangsUp = true
		if rec := w.record(w.ask(a)); rec.Outcome != "unknown" || len(w.stage.bodies[0].pieces) != 99 {
			t.Errorf("recorded as %+v, %d pieces left", rec, len(w.stage.bodies[0].pieces))
		}
	})
}
