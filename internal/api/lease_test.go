package api_test

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"

	"github.com/oo-sidecar/oo-sidecar/policy"
)

func TestLeaseOnTheWire(t *testing.T) {
	h := newHouse(t, setup{})
	a := h.ask(botKey, "POST", "/v1/ai/lease", `{"key":"support_chat_001","ttl":1800,"metadata":{"run_id":"r","agent_id":"support_bot"}}`)
	at := `"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"`
	match := func(g got, pattern string) {
		t.Helper()
		if g.status != 200 || !regexp.MustCompile("^"+pattern+"$").MatchString(g.text) {
			t.Fatalf("%d %s\nwant %s", g.status, g.text, pattern)
		}
	}
	match(a, `\{"ok":true,"status":"acquired","key":"support_chat_001","ttl":1800,"ttl_left":null,"lease_id":"lease_[0-9a-f]{32}","version":1,"first_seen_at":`+at+
		`,"done_at":null,"result_hash":null,"error_code":null,"retry_after_sec":null,"usage":1,"limit":10000000,"charged":1\}`)
	id, _ := a.body["lease_id"].(string)
	match(h.post("/v1/ai/lease", `{"key":"support_chat_001"}`), `\{"ok":true,"status":"polling","key":"support_chat_001","ttl":1800,"ttl_left":1(799|800),"lease_id":null,"version":1,"first_seen_at":`+at+
		`,"done_at":null,"result_hash":null,"error_code":null,"retry_after_sec":5,"usage":0,"limit":10000000,"charged":0\}`)
	match(h.get("/v1/ai/status?key=support_chat_001"), `\{"ok":true,"status":"in_progress","key":"support_chat_001","ttl_left":1(799|800),"lease_id":null,"version":1,"first_seen_at":`+at+
		`,"done_at":null,"result_hash":null,"error_code":null,"retry_after_sec":5\}`)
	match(h.get("/v1/ai/result?key=support_chat_001"), `\{"ok":true,"status":"in_progress","key":"support_chat_001","result":null,"result_hash":null,"error_code":null,"done_at":null\}`)
	match(h.post("/v1/ai/extend", `{"key":"support_chat_001","lease_id":"`+id+`"}`), `\{"ok":true,"status":"extended","key":"support_chat_001","ttl":1800,"version":2\}`)
	match(h.post("/v1/ai/complete", `{"key":"support_chat_001","lease_id":"`+id+`","result":{"x": 1.0}}`),
		`\{"ok":true,"status":"completed","key":"support_chat_001","version":2,"done_at":`+at+`,"result_hash":"5041bf1f713df204784353e82f6a4a535931cb64f1f4b4a5aeaffcb720918b22"\}`)
	match(h.get("/v1/ai/result?key=support_chat_001"), `\{"ok":true,"status":"completed","key":"support_chat_001","result":\{"x":1.0\},"result_hash":"5041[0-9a-f]{60}","error_code":null,"done_at":`+at+`\}`)
	match(h.post("/v1/ai/lease", `{"key":"support_chat_001"}`), `\{"ok":true,"status":"completed","key":"support_chat_001","ttl":1800,"ttl_left":null,"lease_id":null,"version":2,"first_seen_at":`+at+
		`,"done_at":`+at+`,"result_hash":"5041[0-9a-f]{60}","error_code":null,"retry_after_sec":null,"usage":0,"limit":10000000,"charged":0\}`)
	if got := strings.Join(h.heard(), " "); got != "ai_acquired ai_in_progress ai_extended ai_completed ai_finished" {
		t.Error(got)
	}
}

// TestStepsThatCannotBeTaken is the table of §2.2 as statuses and codes.
func TestStepsThatCannotBeTaken(t *testing.T) {
	h := newHouse(t, setup{})
	prepare := map[string]func(key string) string{
		"absent": func(string) string { return "lease_none" },
		"held":   func(key string) string { return h.lease(key) },
		"completed": func(key string) string {
			id := h.lease(key)
			h.step("complete", key, id).is(t, 200, nil)
			return id
		},
		"failed": func(key string) string {
			id := h.lease(key)
			h.step("fail", key, id).is(t, 200, map[string]any{"status": "failed", "error_code": "e"})
			return id
		},
		"canceled": func(key string) string {
			id := h.lease(key)
			h.step("cancel", key, id).is(t, 200, map[string]any{"ok": true, "status": "canceled", "key": key})
			return id
		},
	}
	for state, want := range map[string]map[string]string{
		"absent":    {"extend": "404 not_found", "complete": "404 not_found", "fail": "404 not_found", "cancel": "404 not_found"},
		"held":      {"extend": "200 ", "complete": "200 ", "fail": "200 ", "cancel": "200 "},
		"completed": {"extend": "409 already_completed", "complete": "200 ", "fail": "409 already_completed", "cancel": "409 already_completed"},
		"failed":    {"extend": "409 already_failed", "complete": "409 already_failed", "fail": "200 ", "cancel": "409 already_failed"},
		"canceled":  {"extend": "409 already_canceled", "complete": "409 already_canceled", "fail": "409 already_canceled", "cancel": "200 "},
	} {
		for act, want := range want {
			key := state + " " + act
			id := prepare[state](key)
			before := strings.Count(strings.Join(h.heard(), " "), " ")
			g := h.step(act, key, id)
			if got := fmt.Sprint(g.status, " ", g.detail()); got != want {
				t.Errorf("%s: %s, want %s", key, got, want)
			}
			if state == "absent" {
				continue
			}
			if want == "200 " && state != "held" && strings.Count(strings.Join(h.heard(), " "), " ") != before {
				t.Errorf("%s: a repetition was noted again", key)
			}
			if g := h.step(act, key, "lease_of_somebody_else"); g.status != 409 || g.detail() != "lease_mismatch" {
				t.Errorf("%s by a stranger: %d %s", key, g.status, g.text)
			}
		}
	}
}

// lease acquires the key for 60 s and returns the lease's id.
func (h *house) lease(key string) string {
	h.t.Helper()
	g := h.post("/v1/ai/lease", fmt.Sprintf(`{"key":%q,"ttl":60}`, key))
	g.is(h.t, 200, map[string]any{"status": "acquired"})
	id, _ := g.body["lease_id"].(string)
	return id
}

func (h *house) step(act, key, id string) got {
	h.t.Helper()
	return h.post("/v1/ai/"+act, fmt.Sprintf(`{"key":%q,"lease_id":%q,"error_code":"e"}`, key, id))
}

func TestAWorkerThatDies(t *testing.T) {
	h := newHouse(t, setup{})
	dead := h.lease("k")
	h.clock.advance(time.Minute)
	h.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"ok": false, "status": "failed", "error_code": "lease_expired", "retry_after_sec": nil, "ttl_left": nil})
	h.step("extend", "k", dead).is(t, 409, nil)
	next := h.post("/v1/ai/lease", `{"key":"k"}`)
	next.is(t, 200, map[string]any{"status": "acquired", "version": 2, "charged": 1})
	if next.body["lease_id"] == dead {
		t.Fatal("the same lease twice")
	}
	if g := h.step("complete", "k", dead); g.status != 409 || g.detail() != "lease_lost" {
		t.Fatalf("%d %s", g.status, g.text)
	}
	h.step("complete", "k", next.body["lease_id"].(string)).is(t, 200, nil)
	if got := strings.Join(h.heard(), " "); got != "ai_acquired ai_failed ai_acquired ai_completed" && got != "ai_acquired ai_acquired ai_failed ai_completed" {
		t.Error(got)
	}
}

// TestALateCompleteCounts: the side effect happened; to refuse the word of it would invite a second one.
func TestALateCompleteCounts(t *testing.T) {
	h := newHouse(t, setup{})
	id := h.lease("k")
	h.clock.advance(time.Hour)
	h.post("/v1/ai/complete", `{"key":"k","lease_id":"`+id+`","result":{"late":true}}`).is(t, 200, map[string]any{"status": "completed"})
	h.get("/v1/ai/result?key=k").is(t, 200, map[string]any{"ok": true, "result": map[string]any{"late": true}})
	h.clock.advance(7*24*time.Hour - time.Second)
	h.post("/v1/ai/lease", `{"key":"k"}`).is(t, 200, map[string]any{"status": "completed"})
	h.clock.advance(2 * time.Second)
	if g := h.get("/v1/ai/status?key=k"); g.status != 404 || g.detail() != "not_found" {
		t.Fatalf("%d %s", g.status, g.text)
	}
}

func TestCanceledKeysAreFree(t *testing.T) {
	h := newHouse(t, setup{})
	id := h.lease("k")
	h.post("/v1/ai/cancel", `{"key":"k","lease_id":"`+id+`","reason":"changed my mind"}`).is(t, 200, nil)
	h.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "failed", "error_code": "canceled"})
	h.post("/v1/ai/lease", `{"key":"k"}`).is(t, 200, map[string]any{"status": "acquired", "version": 2})
}

// TestAResultThatIsTooLarge: the work was done, whatever it brought.
func TestAResultThatIsTooLarge(t *testing.T) {
	h := newHouse(t, setup{})
	id := h.lease("k")
	body := `{"key":"k","lease_id":"` + id + `","result":{"x":"` + strings.Repeat("x", 2<<20) + `"}}`
	h.post("/v1/ai/complete", body).is(t, 200, map[string]any{"status": "completed", "result_kept": false})
	g := h.get("/v1/ai/result?key=k")
	g.is(t, 200, map[string]any{"ok": true, "status": "completed", "result": nil})
	if hash, _ := g.body["result_hash"].(string); len(hash) != 64 {
		t.Error(g.text)
	}
}

func TestOddKeys(t *testing.T) {
	h := newHouse(t, setup{})
	for _, key := range []string{"a/b:c d", "käy/ä", "日本", "%2F", "a+b&key=c", `"quoted"`} {
		id := h.lease(key)
		g := h.get("/v1/ai/status?key=" + url.QueryEscape(key))
		g.is(t, 200, map[string]any{"key": key, "status": "in_progress"})
		h.step("complete", key, id).is(t, 200, nil)
	}
	for _, path := range []string{"/v1/ai/status", "/v1/ai/result?key=", "/v1/ai/status?key=%ff", "/v1/ai/result?key=" + strings.Repeat("x", 257)} {
		if g := h.get(path); g.status != 422 || !strings.Contains(g.text, `"loc":["query","key"]`) {
			t.Errorf("%s: %d %s", path, g.status, g.text)
		}
	}
}

// TestRunFn: with any number of workers of a key one does the work, and all get its result.
func TestRunFn(t *testing.T) {
	h := newHouse(t, setup{})
	for _, typed := range []bool{false, true} {
		var ran atomic.Int64
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				c := &apitest.SDK{Description: openapi, Base: h.http.URL + "/", Key: botKey, Typed: typed}
				r, err := c.RunFn(fmt.Sprint("job", typed), 60, func() (map[string]any, error) {
					return map[string]any{"n": ran.Add(1)}, nil
				})
				if err != nil || !r.OK || r.Status != "completed" || r.Result["n"] != 1.0 {
					t.Errorf("%+v %v", r, err)
				}
			})
		}
		all.Wait()
		if ran.Load() != 1 {
			t.Fatalf("the work was done %d times", ran.Load())
		}
	}
}

func TestRunFnThatFails(t *testing.T) {
	h := newHouse(t, setup{})
	c := &apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}
	if _, err := c.RunFn("k", 60, func() (map[string]any, error) { return nil, errors.New("no") }); err == nil {
		t.Fatal("no error")
	}
	r, err := c.RunFn("k", 60, func() (map[string]any, error) { t.Error("a failed key ran again"); return nil, nil })
	if err != nil || r.OK || r.Status != "failed" || r.ErrorCode != "fn_error" {
		t.Fatalf("%+v %v", r, err)
	}
}

// TestWorkOutlivesTheSidecar: killed and started again, it knows who holds what.
func TestWorkOutlivesTheSidecar(t *testing.T) {
	copiesJournal(t)
	h := newHouse(t, setup{})
	held := h.lease("held")
	done := h.lease("done")
	h.post("/v1/ai/complete", `{"key":"done","lease_id":"`+done+`","result":{"x":1}}`).is(t, 200, nil)
	h.post("/v1/check-lock", `{"key":"lock"}`).is(t, 200, map[string]any{"status": "locked"})
	next := newHouse(t, setup{dir: h.die()})
	next.post("/v1/ai/lease", `{"key":"held"}`).is(t, 200, map[string]any{"status": "polling", "version": 1})
	next.get("/v1/ai/result?key=done").is(t, 200, map[string]any{"status": "completed", "result": map[string]any{"x": 1}})
	next.post("/v1/check-lock", `{"key":"lock"}`).is(t, 200, map[string]any{"status": "duplicate"})
	next.step("complete", "held", held).is(t, 200, map[string]any{"status": "completed"})
}

func TestAStoreThatCannot(t *testing.T) {
	h := newHouse(t, setup{})
	id := h.lease("k")
	if err := h.store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range []got{h.post("/v1/ai/lease", `{"key":"x"}`), h.step("complete", "k", id), h.post("/v1/ai/run", `{"key":"x"}`)} {
		if g.status != 503 || g.header.Get("Retry-After") != "1" || g.detail() != "store_unavailable" {
			t.Errorf("%d %s", g.status, g.text)
		}
	}
}

// TestAnAgentIsItself: an agent's key acts for its own agent only.
func TestAnAgentIsItself(t *testing.T) {
	h := newHouse(t, setup{})
	for _, c := range []struct{ path, body string }{
		{"/v1/ai/lease", `{"key":"k","metadata":{"agent_id":"billing"}}`},
		{"/v1/ai/run", `{"key":"k","metadata":{"agent_id":"billing"}}`},
		{"/v1/ai/run", `{"agent_id":"billing","tool":"t"}`},
	} {
		if g := h.ask(botKey, "POST", c.path, c.body); g.status != 403 || g.text != `{"detail":"Forbidden"}` {
			t.Errorf("%s %s: %d %s", c.path, c.body, g.status, g.text)
		}
	}
	if h.tool.calls("/t") != 0 || len(h.heard()) != 0 {
		t.Error("something happened")
	}
}

// TestAClaimBeyondItsBudget: a sidecar's claim that is counted here and has no room is described too.
func TestAClaimBeyondItsBudget(t *testing.T) {
	h := newHouse(t, setup{policies: []policy.Config{{AgentID: "stopped", MaxActionsPerHour: new(int64)}}})
	g := h.post("/v1/ai/lease", `{"key":"counted","budget":{"agent_id":"stopped","tool":"charge"}}`)
	if g.status != 200 || g.body["status"] != "over_limit" || g.body["lease_id"] != nil {
		t.Errorf("%d %s", g.status, g.text)
	}
}
