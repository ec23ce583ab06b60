package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// TestOneRecordEach: every request of a mixed run leaves exactly one record, whatever became of it and although the
// sidecar was killed while ten calls ran.
func TestOneRecordEach(t *testing.T) {
	t.Parallel()
	began, never := make(chan bool, 16), make(chan bool)
	t.Cleanup(func() { close(never) })
	a := act(t, func(x *scene) {
		switch x.name() {
		case "hang":
			began <- true
			<-never
		case "reset":
			x.reset()
		case "stream":
			x.say(sseHead + chunk("data: one\n\n") + "0\r\n\r\n")
		case "declined":
			x.answer(402, "declined")
		default:
			ok(x)
		}
	})
	s := start(t, []settings{a.tool("ok", nil), a.tool("hang", settings{"timeout": "60s"}), a.tool("reset", nil), a.tool("stream", nil), a.tool("declined", nil), a.tool("blocked", nil), a.tool("read", settings{"effect": "read"}),
		{"name": "dead", "url": "http://" + stand.FreeAddr(t) + "/x", "max_retries": 0}},
		settings{"policies": []settings{{"agent_id": "e2e-agent", "blocked_tools": []string{"blocked"}}}, "proxy": settings{"unregistered": "pass"}})
	elsewhere := act(t, ok)

	// What each request was answered is what its record must say.
	said := map[string]answer{}
	kinds := []func(i int) answer{
		func(i int) answer { return s.invoke("ok", fmt.Sprintf(`{"n":%d}`, i/3)) }, // a third of them run
		func(i int) answer { return s.forward("POST", a.URL+"/ok", fmt.Sprintf(`{"n":%d}`, i/3)) },
		func(i int) answer { return s.invoke("reset", fmt.Sprintf(`{"n":%d}`, i/2)) },
		func(i int) answer { return s.invoke("stream", fmt.Sprintf(`{"n":%d}`, i)) },
		func(i int) answer { return s.invoke("declined", fmt.Sprintf(`{"n":%d}`, i)) },
		func(i int) answer { return s.invoke("read", fmt.Sprintf(`{"n":%d}`, i)) },
		func(i int) answer { return s.invoke("dead", fmt.Sprintf(`{"n":%d}`, i)) },
		func(i int) answer { return s.forward("GET", elsewhere.URL+"/page", "") },
	}
	refusals := []func() answer{
		func() answer { return s.invoke("blocked", "{}") },
		func() answer { return s.invoke("missing", "{}") },
		func() answer { return s.invoke("ok", "{") },
		func() answer { return s.invoke("ok", "{}", "Origin", "http://evil.test") },
		func() answer { return s.say("GET / HTTP/9.9\r\n\r\n") },
		func() answer { return s.say("hello\r\n\r\n") },
		func() answer { return s.say("GET /nothing HTTP/1.1\r\nHost: " + s.proxy + "\r\n\r\n") },
	}
	note := func(r answer) {
		id := r.header.Get("X-Request-Id")
		if _, twice := said[id]; twice || id == "" {
			t.Errorf("request id %q twice or missing: %d %s", id, r.status, r.body)
		}
		said[id] = r
	}
	run := func() {
		for _, r := range many(200, 16, func(i int) answer { return kinds[i%len(kinds)](len(said) + i/len(kinds)) }) {
			note(r)
		}
		for _, refuse := range refusals { // few: above 100 a second they would share a record
			note(refuse())
		}
	}
	run()
	var hanging []<-chan error
	for i := range 10 {
		hanging = append(hanging, later(func() error {
			_, err := trySend("POST", "http://"+s.proxy+"/tools/hang", fmt.Sprintf(`{"n":%d}`, i))
			return err
		}))
	}
	for range 10 {
		got(t, "the tool was called", began)
	}
	s.kill()
	for _, h := range hanging {
		if err := got(t, "a hanging call ended", h); err == nil {
			t.Error("a call was answered although the sidecar was killed")
		}
	}
	s.run()
	for i := range 10 {
		r := s.invoke("hang", fmt.Sprintf(`{"n":%d}`, i))
		r.is(t, "hang again", 409, "outcome_unknown", "dedup", "unknown")
		note(r)
	}
	run()
	checkRecords(t, s.records(), said, 10)
	s.verify()
}

// checkRecords holds the audit against the answers. killed calls got none, and have a record all the same.
func checkRecords(t testing.TB, all []record, said map[string]answer, killed int) {
	t.Helper()
	seen, recovered, before := map[string]int{}, 0, uint64(0)
	for _, r := range all {
		seen[r.Request]++
		if r.Seq <= before {
			t.Errorf("record %d stands behind %d", r.Seq, before)
		}
		before = r.Seq
		a, is := said[r.Request]
		if !is {
			recovered++
			if r.Tool != "hang" || r.Decision != "executed" || r.Reason != "upstream_outcome_unknown" || r.Outcome != "unknown" {
				t.Errorf("a record that no answer stands for: %+v", r)
			}
			continue
		}
		outcome := a.header.Get("X-OnceOnly-Outcome")
		if r.Decision != a.decision() || r.Reason != a.header.Get("X-OnceOnly-Reason") || outcome != "" && r.Outcome != outcome || r.Count > 1 {
			t.Errorf("the answer says %s, %s, %s; its record %+v", a.decision(), a.header.Get("X-OnceOnly-Reason"), outcome, r)
		}
	}
	for id, a := range said {
		if seen[id] != 1 {
			t.Errorf("request %s (%d %s) has %d records", id, a.status, a.code(), seen[id])
		}
	}
	if len(all) != len(said)+killed || recovered != killed {
		t.Errorf("%d records of %d requests; %d of %d killed calls have one", len(all), len(said)+killed, recovered, killed)
	}
}

// TestLoopingAgentCannotFillTheDisk: refusals above a hundred a second share records, which count them all.
func TestLoopingAgentCannotFillTheDisk(t *testing.T) {
	t.Parallel()
	const n = 3000
	a := act(t, ok)
	s := start(t, []settings{a.tool("blocked", nil)}, settings{"policies": []settings{{"agent_id": "e2e-agent", "blocked_tools": []string{"blocked"}}}})
	for _, r := range many(n, 32, func(i int) answer { return s.call("blocked", fmt.Sprintf(`{"n":%d}`, i)) }) {
		if r.code() != "tool_explicitly_blocked" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	records, sum := s.records(), 0
	for _, r := range records {
		sum += max(r.Count, 1)
		if r.Decision != "blocked" || r.Reason != "tool_explicitly_blocked" {
			t.Errorf("%+v", r)
		}
	}
	if sum != n || len(records) > n/2 {
		t.Errorf("%d refusals are %d records that count %d", n, len(records), sum)
	}
}

// TestAuditTellsNoArguments: nor does what an agent sends break a line of it.
func TestAuditTellsNoArguments(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", nil)}, nil)
	s.invoke("ok", `{"card":"4242424242424242","note":"evil\"\n{\"forged\":1}"}`, "X-OnceOnly-Run-Id", `run"},{"forged":1`)
	s.forward("POST", a.URL+"/missing?token=4242424242424242", `{"forged":1}`)
	out := s.export()
	if n := strings.Count(out, "\n"); n != 2 || strings.Contains(out, "4242424242424242") || strings.Contains(out, `{"forged":1}`) || strings.Contains(out, `{"forged":1`+"\n") {
		t.Errorf("%d lines: %s", n, out)
	}
	s.verify()
}
