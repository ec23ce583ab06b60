package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api/apitest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// finished is the result of a job once it is completed or failed.
func (h *house) finished(key string) got {
	h.t.Helper()
	var g got
	until(h.t, "the job ends", func() bool {
		g = h.get("/v1/ai/result?key=" + key)
		return g.status == 200 && g.body["status"] != "in_progress"
	})
	return g
}

func TestAJob(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a"), charge("/b")}})
	c := &apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}
	actions := []any{
		map[string]any{"tool": "a", "args": map[string]any{"n": 1}},
		map[string]any{"tool": "b", "spend_usd": 0.5},
	}
	r, err := c.RunAndWait("nightly", map[string]any{"run_id": "run 1", "actions": actions})
	if err != nil || !r.OK || r.Status != "completed" {
		t.Fatalf("%+v %v", r, err)
	}
	want := `{"ok":true,"actions":[{"tool":"a","decision":"executed","policy_reason":"ok","result":{"id":"ch_1"}},{"tool":"b","decision":"executed","policy_reason":"ok","result":{"id":"ch_1"}}]}`
	if g := h.get("/v1/ai/result?key=nightly"); !strings.Contains(g.text, `"result":`+want) {
		t.Errorf("%s", g.text)
	}
	if got := strings.Join(h.line("run 1"), " "); got != "run_started:started tool_call:start tool_result:executed tool_call:start tool_result:executed run_finished:completed" {
		t.Error(got)
	}
	again := h.post("/v1/ai/run", `{"key":"nightly"}`)
	again.is(t, 200, map[string]any{"status": "completed", "charged": 0, "lease_id": nil})
	if !strings.Contains(again.text, want) || strings.Contains(again.text, `"allowed"`) {
		t.Error(again.text)
	}
	if h.tool.calls("/a") != 1 || h.tool.calls("/b") != 1 {
		t.Error("an action ran twice")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.moments) == 0 || h.moments[1].AgentID != "support_bot" || h.moments[1].Step != 1 || h.moments[3].Step != 2 {
		t.Errorf("%+v", h.moments)
	}
}

// TestAJobWithoutActions ends at once: the SDKs' examples poll for it.
func TestAJobWithoutActions(t *testing.T) {
	h := newHouse(t, setup{})
	for i, body := range []string{`{"key":"0"}`, `{"key":"1","metadata":{"demo":true}}`, `{"key":"2","metadata":{"actions":[]}}`, `{"key":"3","metadata":{"actions":null}}`} {
		g := h.post("/v1/ai/run", body)
		g.is(t, 200, map[string]any{"ok": true, "status": "acquired", "version": 1, "charged": 1})
		for _, word := range []string{"allowed", "decision"} {
			if _, ok := g.body[word]; ok {
				t.Errorf("%s: a job's answer has %s", body, word)
			}
		}
		h.finished(fmt.Sprint(i)).is(t, 200, map[string]any{"ok": true, "status": "completed", "result": map[string]any{"ok": true, "actions": []any{}}})
	}
	if line := strings.Join(h.line("0"), " "); line != "run_started:started run_finished:completed" {
		t.Errorf("the run of a job is named by its key: %s", line)
	}
}

func TestJobsThatFail(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a"), charge("/b"), charge("/bad")}, policies: []policy.Config{{AgentID: "default", BlockedTools: []string{"b"}}}})
	h.tool.on("/bad", say(422, `{"error":"no"}`))
	for name, code := range map[string]string{"b": "policy_blocked", "bad": "tool_error", "nobody": "tool_not_found"} {
		h.post("/v1/ai/run", fmt.Sprintf(`{"key":%q,"metadata":{"actions":[{"tool":"a"},{"tool":%q},{"tool":"a","args":{"never":1}}]}}`, name, name)).is(t, 200, map[string]any{"status": "acquired"})
		g := h.finished(name)
		g.is(t, 200, map[string]any{"ok": false, "status": "failed", "error_code": code})
		r, _ := g.body["result"].(map[string]any)
		if list, _ := r["actions"].([]any); r["ok"] != false || len(list) != 2 || list[1].(map[string]any)["decision"] != "blocked" {
			t.Errorf("%s", g.text)
		}
		h.post("/v1/ai/run", fmt.Sprintf(`{"key":%q}`, name)).is(t, 200, map[string]any{"ok": false, "status": "failed", "error_code": code})
	}
	if n := h.tool.calls("/a"); n != 1 { // the same call of the same agent, whichever job it is in
		t.Errorf("a ran %d times", n)
	}
}

func TestOnlyFiftyActions(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a")}})
	var list []string
	for i := range 60 {
		list = append(list, fmt.Sprintf(`{"tool":"a","args":{"n":%d}}`, i))
	}
	h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[`+strings.Join(list, ",")+`]}}`).is(t, 200, nil)
	g := h.finished("k")
	g.is(t, 200, map[string]any{"status": "completed"})
	if n := h.tool.calls("/a"); n != 50 {
		t.Errorf("%d actions ran", n)
	}
}

func TestADryRun(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a"), charge("/b")}, policies: []policy.Config{{AgentID: "default", BlockedTools: []string{"b"}}}})
	h.post("/v1/ai/run", `{"key":"good","metadata":{"dry_run":"true","actions":[{"tool":"a"},{"tool":"a"}]}}`).is(t, 200, nil)
	g := h.finished("good")
	g.is(t, 200, map[string]any{"status": "completed"})
	if strings.Count(g.text, `"dry_run":true`) != 2 {
		t.Error(g.text)
	}
	h.post("/v1/ai/run", `{"key":"bad","metadata":{"dry_run":1,"actions":[{"tool":"a"},{"tool":"b"}]}}`).is(t, 200, nil)
	h.finished("bad").is(t, 200, map[string]any{"status": "failed", "error_code": "policy_blocked"})
	if h.tool.calls("/a")+h.tool.calls("/b") != 0 {
		t.Error("a dry run called a tool")
	}
}

// hang has a path answer only once the gate is closed, and says when it was reached.
func (s *shop) hang(path string) (reached chan struct{}, gate chan struct{}) {
	reached, gate = make(chan struct{}, 10), make(chan struct{})
	s.on(path, func(w http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-gate
		say(200, `{"id":"late"}`)(w, r)
	})
	return reached, gate
}

func TestACanceledJobStops(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a"), charge("/b")}})
	reached, gate := h.tool.hang("/a")
	g := h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[{"tool":"a"},{"tool":"b"}]}}`)
	<-reached
	h.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "in_progress", "retry_after_sec": 1, "lease_id": nil})
	h.post("/v1/ai/run", `{"key":"k"}`).is(t, 200, map[string]any{"status": "polling", "lease_id": nil})
	h.step("cancel", "k", g.body["lease_id"].(string)).is(t, 200, nil)
	close(gate)
	h.api.Drain(t.Context())
	if h.tool.calls("/b") != 0 {
		t.Error("a cancelled job went on")
	}
	h.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "failed", "error_code": "canceled"})
}

// TestAJobOutlivesTheSidecar: killed between two actions, or while one runs, it goes on where the ledger says, and no
// action runs twice.
func TestAJobOutlivesTheSidecar(t *testing.T) {
	copiesJournal(t)
	tools := []tool.Config{charge("/a"), charge("/b"), charge("/c")}
	tools[0].Dedup.Mode = "off" // of a only the job itself knows that it ran
	h := newHouse(t, setup{tools: tools})
	reached, gate := h.tool.hang("/b")
	defer close(gate)
	h.post("/v1/ai/run", `{"key":"k","ttl":10,"metadata":{"run_id":"r","actions":[{"tool":"a"},{"tool":"b"},{"tool":"c"}]}}`).is(t, 200, map[string]any{"status": "acquired"})
	<-reached

	next := newHouse(t, setup{dir: h.die(), tools: tools, tool: h.tool})
	next.clock.advance(time.Minute) // and the lease has expired meanwhile
	next.api.ResumeJobs()
	g := next.finished("k")
	// b was being sent: nobody can tell whether it ran, so nobody runs it again.
	g.is(t, 200, map[string]any{"status": "failed", "error_code": "outcome_unknown"})
	if !strings.Contains(g.text, `{"tool":"a","decision":"executed"`) || !strings.Contains(g.text, `{"tool":"b","decision":"blocked","policy_reason":"outcome_unknown"`) || h.tool.calls("/a") != 1 || h.tool.calls("/b") != 1 || h.tool.calls("/c") != 0 {
		t.Errorf("%s; %v", g.text, h.tool.bodies)
	}
}

// TestAJobGoesOnWithWhatRan: the action had ended when the sidecar died, and only the job did not know yet.
func TestAJobGoesOnWithWhatRan(t *testing.T) {
	copiesJournal(t)
	tools := []tool.Config{charge("/a"), charge("/b")}
	h := newHouse(t, setup{tools: tools})
	var dir string
	var once sync.Once
	h.tool.on("/b", func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { dir = h.die() })
		say(200, `{"id":"b1"}`)(w, r)
	})
	h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[{"tool":"a"},{"tool":"b"}]}}`).is(t, 200, nil)
	h.finished("k").is(t, 200, map[string]any{"status": "completed"})

	// The ledger of the moment in which b was running, and then an operator who knows that it did not.
	next := newHouse(t, setup{dir: dir, tools: tools, tool: h.tool})
	if jobs := next.store.Jobs(); len(jobs) != 1 || len(jobs[0].Job.Answers) != 1 || !jobs[0].Job.Begun {
		t.Fatalf("%+v", jobs)
	}
	for _, u := range next.store.Unknowns() {
		next.resolveUnsent(u.Key, u.Fence)
	}
	next.api.ResumeJobs()
	next.finished("k").is(t, 200, map[string]any{"ok": true, "status": "completed"})
	if h.tool.calls("/a") != 1 || h.tool.calls("/b") != 2 {
		t.Errorf("%v", h.tool.bodies)
	}
}

// TestAnActionThatNothingRemembers: a tool whose calls are never the same leaves nothing to ask, so an action that may
// have been sent is not sent again; one that certainly was not is.
func TestAnActionThatNothingRemembers(t *testing.T) {
	copiesJournal(t)
	for effect, code := range map[string]string{"mutating": "outcome_unknown", "read": ""} {
		off := charge("/off")
		off.Dedup.Mode, off.Effect = "off", effect
		h := newHouse(t, setup{tools: []tool.Config{off}})
		reached, gate := h.tool.hang("/off")
		h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[{"tool":"off"}]}}`).is(t, 200, nil)
		<-reached
		dir := h.die()
		close(gate)
		next := newHouse(t, setup{dir: dir, tools: []tool.Config{off}, tool: h.tool})
		next.api.ResumeJobs()
		g := next.finished("k")
		if got, _ := g.body["error_code"].(string); got != code {
			t.Errorf("%s: %s", effect, g.text)
		}
	}
}

// TestAJobStopsWithTheSidecar between two actions, and the next one goes on.
func TestAJobStopsWithTheSidecar(t *testing.T) {
	copiesJournal(t)
	tools := []tool.Config{charge("/a"), charge("/b")}
	tools[1].Dedup.Mode = "off" // once begun it could not be repeated
	h := newHouse(t, setup{tools: tools})
	reached, gate := h.tool.hang("/a")
	h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[{"tool":"a"},{"tool":"b"}]}}`).is(t, 200, nil)
	<-reached
	h.gov.Draining.Store(true)
	close(gate)
	h.api.Drain(t.Context())
	if h.tool.calls("/b") != 0 {
		t.Fatal("a draining sidecar begins another action")
	}
	h.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "in_progress"})
	next := newHouse(t, setup{dir: h.die(), tools: tools, tool: h.tool})
	next.api.ResumeJobs()
	next.finished("k").is(t, 200, map[string]any{"ok": true, "status": "completed"})
	if h.tool.calls("/a") != 1 || h.tool.calls("/b") != 1 {
		t.Errorf("%v", h.tool.bodies)
	}
}

// TestManyCallersOneJob: one of them starts it, and all read its result.
func TestManyCallersOneJob(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a")}})
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			r, err := (&apitest.SDK{Description: openapi, Base: h.http.URL, Key: botKey}).RunAndWait("k", map[string]any{"actions": []any{map[string]any{"tool": "a"}}})
			if err != nil || !r.OK || r.Status != "completed" {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
	all.Wait()
	if n := h.tool.calls("/a"); n != 1 {
		t.Errorf("the action ran %d times", n)
	}
}

// TestAJobHoldsItsLease: at work it extends its lease, and after a restart it takes it up again although it has expired.
func TestAJobHoldsItsLease(t *testing.T) {
	copiesJournal(t)
	t.Parallel()
	read := charge("/read")
	read.Effect = "read"
	h := newHouse(t, setup{tools: []tool.Config{read}})
	reached, gate := h.tool.hang("/read")
	h.post("/v1/ai/run", `{"key":"k","ttl":10,"metadata":{"actions":[{"tool":"read"}]}}`).is(t, 200, map[string]any{"version": 1})
	<-reached
	dir := h.die()
	until(t, "the lease is extended", func() bool { return h.get("/v1/ai/status?key=k").body["version"] == 2.0 })
	next := newHouse(t, setup{dir: dir, tools: []tool.Config{read}, tool: h.tool})
	next.clock.advance(time.Hour)
	next.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "failed", "error_code": "lease_expired"})
	next.api.ResumeJobs()
	<-reached
	next.get("/v1/ai/status?key=k").is(t, 200, map[string]any{"status": "in_progress", "version": 2})
	close(gate)
	next.finished("k").is(t, 200, map[string]any{"status": "completed"})
	h.finished("k")
}

// TestEachActionIsACallOfItsOwn: to a tool that goes by the client's key two equal actions of a job are two calls.
func TestEachActionIsACallOfItsOwn(t *testing.T) {
	explicit := charge("/a")
	explicit.Dedup.Mode = "explicit"
	h := newHouse(t, setup{tools: []tool.Config{explicit}})
	h.post("/v1/ai/run", `{"key":"k","metadata":{"actions":[{"tool":"a"},{"tool":"a"}]}}`).is(t, 200, nil)
	h.finished("k").is(t, 200, map[string]any{"status": "completed"})
	if n := h.tool.calls("/a"); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// TestJobsAreBounded: past the bound nothing is acquired, and the caller is told to come again.
func TestJobsAreBounded(t *testing.T) {
	h := newHouse(t, setup{tools: []tool.Config{charge("/a")}})
	_, gate := h.tool.hang("/a")
	defer h.api.Drain(t.Context())
	defer close(gate)
	spec := `,"metadata":{"actions":[{"tool":"a"}]}}`
	for i := range 1024 {
		h.post("/v1/ai/run", fmt.Sprintf(`{"key":"k%d"`, i)+spec).is(t, 200, map[string]any{"status": "acquired"})
	}
	g := h.post("/v1/ai/run", `{"key":"one too many"`+spec)
	if g.status != 429 || g.header.Get("Retry-After") != "1" || g.detail() != "rate_limited" {
		t.Errorf("%d %s", g.status, g.text)
	}
	h.get("/v1/ai/status?key=one+too+many").is(t, 404, nil)
	h.gov.Draining.Store(true)
}
