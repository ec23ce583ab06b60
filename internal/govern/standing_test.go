package govern_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// oneTool is a world with one tool named t.
func oneTool(change func(*tool.Config)) setting {
	c := tool.Config{Name: "t"}
	if change != nil {
		change(&c)
	}
	return setting{tools: []tool.Config{c}}
}

func (s setting) under(p policy.Config) setting {
	p.AgentID = "ag"
	s.policies = append(s.policies, p)
	return s
}

// together makes the requests at the same time. The first is at the tool before the others are made, and the function
// that is returned waits for all answers.
func (w *world) together(asks ...*asking) func() []*reply {
	got := make([]*reply, len(asks))
	var all sync.WaitGroup
	for i, a := range asks {
		all.Go(func() { got[i] = w.ask(a) })
		synctest.Wait()
	}
	return func() []*reply { all.Wait(); return got }
}

func five(a *asking) []*asking { return []*asking{a, a, a, a, a} }

func TestWaitersGetWhatTheHolderGets(t *testing.T) {
	for _, v := range []struct {
		does    string
		act     act
		first   string
		waiters string
	}{
		{"an answer", answers(200, "body", jsonType), "200 executed ok done", "200 dedup tool_idempotency done"},
		{"a refusal that is kept", answers(404, "no"), "404 executed ok failed", "404 dedup tool_idempotency failed"},
		{"a refusal that is released", answers(429, "later"), "429 executed ok failed", "429 dedup tool_idempotency failed"},
		{"an answer that says nothing", answers(500, "oops"), "500 executed ok unknown", "409 dedup outcome_unknown unknown"},
		{"no answer", loses(govern.Flushed, govern.ErrBroken), "504 executed upstream_outcome_unknown unknown", "409 dedup outcome_unknown unknown"},
		{"a refused dial", loses(govern.Queued, govern.ErrUnreachable), "502 executed upstream_unreachable not_sent", "502 dedup upstream_unreachable not_sent"},
		{"a stream", streams(200, nil, "bo", "dy"), "200 executed ok -", "200 dedup tool_idempotency done"},
		{"a stream that is cut", streams(200, context.Canceled, "bo"), "200 executed ok -", "409 dedup outcome_unknown unknown"},
		{"a stream too large to keep", streams(200, nil, strings.Repeat("x", 65)), "200 executed ok -", "410 dedup result_not_kept done"},
	} {
		t.Run(v.does, func(t *testing.T) {
			in(t, oneTool(nil), func(w *world) {
				gate := make(chan struct{})
				w.stage.then(at(gate, v.act))
				all := w.together(five(named("t", "{}"))...)
				time.Sleep(10 * time.Second)
				close(gate)
				got := all()
				got[0].want(t, v.first)
				for _, r := range got[1:] {
					r.want(t, v.waiters)
					if r.Decision == govern.Dedup && r.Status < 300 && r.body != got[0].body {
						t.Errorf("a waiter got %q, the holder %q", r.body, got[0].body)
					}
					if rec := w.record(r); rec.FirstID != got[0].id || rec.SpendUSD != "0" {
						t.Errorf("recorded as %+v", rec)
					}
				}
				if n := w.stage.sends(); n != 1 {
					t.Errorf("sent %d times", n)
				}
			})
		})
	}
}

func TestWaitersHavePatienceAndBounds(t *testing.T) {
	limited := oneTool(func(c *tool.Config) { c.Timeout = time.Minute })
	limited.waiters = 2
	in(t, limited, func(w *world) {
		gate := make(chan struct{})
		w.stage.then(at(gate, answers(200, "a")))
		api := named("t", "{}").with(func(r *govern.Request) { r.Wait = 4 * time.Second })
		all := w.together(named("t", "{}"), named("t", "{}"), api)
		start := time.Now()
		w.ask(named("t", "{}")).want(t, "409 dedup in_flight -")
		if time.Since(start) != 0 {
			t.Error("one more than may wait was not refused at once")
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		another := w.together(named("t", "{}")) // the place of the impatient one is free
		time.Sleep(20 * time.Second)
		w.ask(named("t", "{}")).want(t, "409 dedup in_flight -")
		time.Sleep(time.Second)
		synctest.Wait()
		close(gate)
		got := append(all(), another()...)
		for i, told := range []string{"200 executed ok done", "409 dedup in_flight -", "409 dedup in_flight -", "200 dedup tool_idempotency done"} {
			got[i].want(t, told)
		}
		for _, r := range got[1:3] {
			if r.header["Retry-After"] == "" || !strings.Contains(r.body, `"retryable":true`) {
				t.Errorf("in_flight is %v %s", r.header, r.body)
			}
		}
	})
}

func TestWaitersLookAgain(t *testing.T) {
	const done = "200 executed ok done"
	block := setting{tools: []tool.Config{{Name: "t"}}, policies: []policy.Config{{AgentID: "ag", BlockedTools: []string{"t"}}}}
	shared := oneTool(func(c *tool.Config) { c.Dedup.Scope = "global" })
	other := named("t", "{}").with(func(r *govern.Request) { r.Agent = "other" })
	for _, v := range []struct {
		while   string
		s       setting
		waiter  *asking
		do      func(*world)
		waiters string
	}{
		{"the agent is switched off", oneTool(nil), named("t", "{}"), func(w *world) { w.off("ag") }, "403 blocked agent_disabled not_sent"},
		{"all are switched off", oneTool(nil), named("t", "{}"), func(w *world) { w.off("*") }, "403 blocked agent_disabled not_sent"},
		{"the tool is blocked", oneTool(nil), named("t", "{}"), func(w *world) { w.use(block) }, "403 blocked tool_explicitly_blocked not_sent"},
		{"the holder's agent is switched off", shared, other, func(w *world) { w.off("ag") }, "200 dedup tool_idempotency done"},
		{"another agent is switched off", oneTool(nil), named("t", "{}"), func(w *world) { w.off("other") }, "200 dedup tool_idempotency done"},
	} {
		t.Run(v.while, func(t *testing.T) {
			in(t, v.s, func(w *world) {
				gate := make(chan struct{})
				w.stage.then(at(gate, answers(200, "a")))
				all := w.together(named("t", "{}"), v.waiter)
				v.do(w)
				close(gate)
				got := all()
				got[0].want(t, done)
				got[1].want(t, v.waiters)
			})
		})
	}
}

func TestTheAgentsKey(t *testing.T) {
	keyed := func(key, args string) *asking {
		return named("t", args).with(func(r *govern.Request) {
			if key != "" {
				r.IdempotencyKey = []string{key}
				r.Header = append([]tool.Header{{Name: "Idempotency-Key", Value: key}}, r.Header...)
			}
		})
	}
	type step struct{ key, args, told string }
	const (
		done   = "200 executed ok done"
		replay = "200 dedup tool_idempotency done"
		reused = "422 blocked idempotency_key_reused not_sent"
	)
	for mode, steps := range map[string][]step{
		"window": {
			{"a", `{"n":1}`, done}, {"a", `{"n":1}`, replay}, {`"a"`, `{"n":1.0}`, replay}, {"b", `{"n":1}`, replay}, {"", `{"n":1}`, replay},
			{"a", `{"n":2}`, reused}, {"c", `{"n":2}`, done}, {"", `{"n":3}`, done},
		},
		"explicit": {
			{"a", `{"n":1}`, done}, {"a", `{"n":1}`, replay}, {"a", `{"n":2}`, reused}, {"b", `{"n":1}`, done},
			{"", `{"n":1}`, done}, {"", `{"n":1}`, done},
		},
		"required": {
			{"a", `{"n":1}`, done}, {"a", `{"n":1}`, replay}, {"a", `{"n":2}`, reused}, {"", `{"n":1}`, "400 blocked idempotency_key_required not_sent"},
		},
		"off": {{"a", `{"n":1}`, done}, {"a", `{"n":1}`, done}, {"", `{"n":1}`, done}},
	} {
		t.Run(mode, func(t *testing.T) {
			in(t, oneTool(func(c *tool.Config) { c.Dedup.Mode = mode }), func(w *world) {
				upstream := map[string]bool{}
				for i, s := range steps {
					before := w.stage.sends()
					w.ask(keyed(s.key, s.args)).want(t, s.told)
					if sent := w.stage.sends() - before; (sent == 1) != (s.told == done) {
						t.Errorf("step %d was sent %d times", i, sent)
					} else if sent == 1 {
						upstream[w.stage.last().key] = true
					}
				}
				if len(upstream) != w.stage.sends() {
					t.Errorf("%d runs had %d upstream keys", w.stage.sends(), len(upstream))
				}
			})
		})
	}
	in(t, oneTool(nil), func(w *world) { // the key that is shown is that of the call, and not of the one in its way
		w.ask(keyed("a", "1"))
		reused := w.ask(keyed("a", "2"))
		if run := w.ask(named("t", "2")); run.Key != reused.Key || run.Decision != govern.Executed {
			t.Errorf("refused as %s, run as %s", reused.Key, run.Key)
		}
	})
	in(t, oneTool(nil), func(w *world) {
		for _, key := range []string{"", "a b", strings.Repeat("x", 256), `"a`, "ä"} {
			w.ask(named("t", "{}").with(func(r *govern.Request) { r.IdempotencyKey = []string{key} })).want(t, "400 blocked idempotency_key_malformed not_sent")
		}
		w.ask(named("t", "{}").with(func(r *govern.Request) { r.IdempotencyKey = []string{"a", "a"} })).want(t, "400 blocked idempotency_key_malformed not_sent")
	})
}

func TestWhatIsNotKept(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		body := strings.Repeat("x", 65)
		w.stage.then(streams(201, nil, body))
		w.ask(named("t", "{}")).want(t, "201 executed ok -")
		r := w.ask(named("t", "{}"))
		r.want(t, "410 dedup result_not_kept done")
		want := fmt.Sprintf(`"upstream_status":201,"length":65,"sha256":"%x"`, sha256.Sum256([]byte(body)))
		if !strings.Contains(r.body, want) || !strings.HasSuffix(r.body, "}\n") {
			t.Errorf("the body is %s and lacks %s", r.body, want)
		}
		if rec := w.record(r); rec.UpstreamStatus != 201 {
			t.Errorf("recorded as %+v", rec)
		}
		time.Sleep(24*time.Hour + time.Second)
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
	})
}

func TestAnOperatorResolves(t *testing.T) {
	lost := loses(govern.Flushed, govern.ErrBroken)
	resolve := func(w *world, r dedup.Resolution) {
		w.Helper()
		open := w.store.Unknowns()
		if len(open) != 1 {
			w.Fatalf("%d calls are unknown", len(open))
		}
		r.Key, r.Fence, r.Why, r.Who = open[0].Key, open[0].Fence, "looked", "operator"
		if err := w.store.Resolve(context.Background(), &r, w.shown(r.Key)); err != nil {
			w.Fatal(err)
		}
	}
	charge := oneTool(func(c *tool.Config) { c.Price = tool.USD / 2 })
	for _, v := range []struct {
		word dedup.Resolution
		told string
		cost string
		body string
	}{
		{dedup.Resolution{Outcome: dedup.Done}, "410 dedup result_not_kept done", charged, `"code":"result_not_kept"`},
		{dedup.Resolution{Outcome: dedup.Done, Answer: &dedup.Answer{Status: 201, Body: []byte("it"), Size: 2, Kept: true}}, "201 dedup tool_idempotency done", charged, "it"},
		{dedup.Resolution{Outcome: dedup.NotSent}, "200 executed ok done", charged, ""},
	} {
		in(t, charge, func(w *world) {
			w.stage.then(lost)
			w.ask(named("t", "{}")).want(t, "504 executed upstream_outcome_unknown unknown")
			blocked := w.ask(named("t", "{}"))
			blocked.want(t, "409 dedup outcome_unknown unknown")
			if blocked.header["Retry-After"] != "" || !strings.Contains(blocked.body, `"retryable":false`) {
				t.Errorf("outcome_unknown invites a retry: %v %s", blocked.header, blocked.body)
			}
			one := w.stage.last()
			time.Sleep(time.Minute) // the tool is not at it any more
			resolve(w, v.word)
			r := w.ask(named("t", "{}"))
			r.want(t, v.told)
			if got := w.usage("t"); got != v.cost || !strings.Contains(r.body, v.body) {
				t.Errorf("charged %q, want %q; the body is %s", got, v.cost, r.body)
			}
			if strings.Contains(r.body, "upstream_status") {
				t.Errorf("what nobody knows is said: %s", r.body)
			}
			if v.word.Outcome == dedup.NotSent && w.stage.last().key != one.key {
				t.Error("the tool could not recognise the call if it ran after all")
			}
		})
	}
}

func TestIntendedRepeats(t *testing.T) {
	forced := func(label string) *asking {
		return named("t", "{}").with(func(r *govern.Request) { r.ForceNew = label })
	}
	in(t, oneTool(nil), func(w *world) {
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
		r := w.ask(forced("again"))
		r.want(t, "403 blocked force_new_denied not_sent")
		if rec := w.record(r); rec.RiskLevel != "medium" {
			t.Errorf("the risk is %q", rec.RiskLevel)
		}
	})
	allowed := oneTool(func(c *tool.Config) { c.Price = tool.USD / 2 }).under(policy.Config{AllowForceNew: true})
	in(t, allowed, func(w *world) {
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
		one := w.stage.last()
		r := w.ask(forced("again"))
		r.want(t, "200 executed ok done")
		if rec := w.record(r); rec.RiskLevel != "high" || rec.ForceNew != "again" || rec.SpendUSD != "0.5" {
			t.Errorf("recorded as %+v", rec)
		}
		if two := w.stage.last(); two.key == one.key {
			t.Error("an intended repeat has the upstream key of the first call")
		}
		w.ask(forced("again")).want(t, "200 dedup tool_idempotency done")
		w.ask(forced("once more")).want(t, "200 executed ok done")
		if got := w.usage("t"); got != "3 1.5 3" {
			t.Errorf("charged %q", got)
		}
		w.ask(forced(strings.Repeat("x", 256))).want(t, "400 blocked bad_request not_sent")
	})
	in(t, allowed, func(w *world) {
		gate := make(chan struct{})
		w.stage.then(at(gate, loses(govern.Flushed, govern.ErrBroken)))
		all := w.together(named("t", "{}"))
		r := w.ask(forced("while it runs"))
		r.want(t, "409 dedup in_flight -")
		close(gate)
		all()
		r = w.ask(forced("while nobody knows"))
		r.want(t, "409 dedup outcome_unknown unknown")
		if open := w.store.Unknowns(); len(open) != 1 || !strings.HasPrefix(w.shown(open[0].Key), r.Key) {
			t.Errorf("the refusal shows %s; an operator sees %+v", r.Key, open)
		}
		if n := w.stage.sends(); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}

func TestLimits(t *testing.T) {
	n := int64(2)
	spend := tool.USD
	half := func(c *tool.Config) { c.Price = tool.USD / 2 }
	for _, v := range []struct {
		limit  policy.Config
		reason string
		after  string // seconds
		rule   string
	}{
		{policy.Config{MaxActionsPerHour: &n}, "max_actions_per_hour_exceeded", "3630", "max_actions_per_hour: 2 (file)"},
		{policy.Config{MaxCallsPerTool: map[string]int64{"t": 2}}, "max_calls_per_tool_exceeded", "43170", "max_calls_per_tool: t: 2 (file)"},
		{policy.Config{MaxSpendUSDPerDay: &spend}, "max_spend_usd_per_day_exceeded", "43170", "max_spend_usd_per_day: 1 (file)"},
		{policy.Config{MaxActionsPerHour: new(int64)}, "max_actions_per_hour_exceeded", "3600", "max_actions_per_hour: 0 (file)"},
	} {
		in(t, oneTool(half).under(v.limit), func(w *world) {
			for i := range 2 {
				if v.after == "3600" {
					break
				}
				w.ask(named("t", fmt.Sprint(i))).want(t, "200 executed ok done")
			}
			before := w.usage("t")
			for range 3 {
				r := w.ask(named("t", `"another"`))
				r.want(t, "429 blocked "+v.reason+" not_sent")
				if r.header["Retry-After"] != v.after || !strings.Contains(r.body, `"retry_after_s":`+v.after+`,`) {
					t.Errorf("Retry-After is %q, want %s: %s", r.header["Retry-After"], v.after, r.body)
				}
				if rec := w.record(r); rec.Rule != v.rule || rec.Fence != 0 {
					t.Errorf("recorded as %+v", rec)
				}
			}
			if v.after != "3600" {
				w.ask(named("t", "1")).want(t, "200 dedup tool_idempotency done") // free
			}
			if after := w.usage("t"); after != before {
				t.Errorf("refusals and duplicates were charged: %s, then %s", before, after)
			}
		})
		v.limit.Mode = "shadow"
		in(t, oneTool(half).under(v.limit), func(w *world) {
			var r *reply
			for i := range 3 {
				r = w.ask(named("t", fmt.Sprint(i)))
				r.want(t, "200 executed ok done")
			}
			if rec := w.record(r); rec.ShadowReason != v.reason {
				t.Errorf("shadow_reason is %q", rec.ShadowReason)
			}
		})
	}
}

func TestShadowOfTheLists(t *testing.T) {
	in(t, oneTool(nil).under(policy.Config{BlockedTools: []string{"t"}, Mode: "shadow"}), func(w *world) {
		r := w.ask(named("t", "{}"))
		r.want(t, "200 executed ok done")
		if rec := w.record(r); rec.ShadowReason != "tool_explicitly_blocked" || rec.Rule != "blocked_tools: t (file)" {
			t.Errorf("recorded as %+v", rec)
		}
	})
}

func TestDeclaredSpend(t *testing.T) {
	for spend, want := range map[string]string{"": "0.5", "0": "0.5", "0.49": "0.5", "0.75": "0.75", "7.5e-1": "0.75", "0.5000001": "0.500001"} {
		in(t, oneTool(func(c *tool.Config) { c.Price = tool.USD / 2 }), func(w *world) {
			r := w.ask(named("t", "{}").with(func(r *govern.Request) { r.Spend = spend }))
			r.want(t, "200 executed ok done")
			if rec := w.record(r); rec.SpendUSD != want || w.usage("t") != "1 "+want+" 1" {
				t.Errorf("a declared %q is charged as %s (%s)", spend, rec.SpendUSD, w.usage("t"))
			}
			w.ask(named("t", "{}").with(func(r *govern.Request) { r.Spend = "9" })).want(t, "200 dedup tool_idempotency done")
		})
	}
	in(t, oneTool(nil), func(w *world) {
		for _, bad := range []string{"-1", "NaN", "1,5", "0x1"} {
			w.ask(named("t", "{}").with(func(r *govern.Request) { r.Spend = bad })).want(t, "400 blocked bad_request not_sent")
		}
	})
}
