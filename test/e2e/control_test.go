package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const sidecarKey = "oo_test_sidecar_key_12345"

// plane starts an oo-sidecar that is the control plane of others.
func plane(t testing.TB, tools []settings, more settings) *sidecar {
	t.Helper()
	all := settings{"api": settings{"keys": []settings{
		{"name": "ops", "role": "operator", "key": operatorKey},
		{"name": "agent", "role": "agent", "agent_id": "e2e-agent", "key": agentKey},
		{"name": "fleet", "role": "sidecar", "key": sidecarKey},
	}}}
	for section, over := range more {
		all[section] = over
	}
	return start(t, tools, all)
}

// under starts a sidecar whose control plane is at base.
func under(t testing.TB, base string, control, more settings) *sidecar {
	t.Helper()
	section := settings{"base_url": base, "api_key": sidecarKey, "poll": "300ms", "max_stale": "60s", "timeout": "1s"}
	for k, v := range control {
		section[k] = v
	}
	all := settings{"control": section}
	for k, v := range more {
		all[k] = v
	}
	return start(t, nil, all)
}

// ready is /readyz?verbose.
func (s *sidecar) ready() answer {
	s.t.Helper()
	return s.send("GET", "http://"+s.health+"/readyz?verbose", "")
}

// serves says whether the process answers, ready or not.
func (s *sidecar) serves() bool {
	r, err := trySend("GET", "http://"+s.health+"/livez", "")
	return err == nil && r.status == 200
}

// metric is the value of a series without labels.
func (s *sidecar) metric(name string) string {
	s.t.Helper()
	for line := range strings.Lines(s.send("GET", "http://"+s.health+"/metrics", "").body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// arrives measures how long it takes after act until every sidecar shows what is.
func arrives(t testing.TB, what string, fleet []*sidecar, act func(), is func(*sidecar, int) bool) time.Duration {
	t.Helper()
	acted := time.Now()
	act()
	worst := many(len(fleet), len(fleet), func(i int) time.Duration {
		for n := 0; time.Since(acted) < 10*time.Second; n++ {
			if is(fleet[i], n) {
				return time.Since(acted)
			}
			time.Sleep(2 * time.Millisecond) // polling another process: there is nothing to wait on
		}
		t.Errorf("%s never arrived at sidecar %d\n%s", what, i, fleet[i].log)
		return 0
	})
	return max(worst[0], worst[1], worst[2])
}

// TestControlPush: what an operator changes at the control plane binds at three sidecars at once.
func TestControlPush(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", nil)}, nil)
	var fleet []*sidecar
	for range 3 {
		fleet = append(fleet, under(t, p.base(), nil, nil))
	}
	for i, s := range fleet {
		if r := s.call("pay", fmt.Sprintf(`{"first":%d}`, i)); r.status != 200 {
			t.Fatalf("sidecar %d does not know the control plane's tool: %d %s\n%s", i, r.status, r.body, s.log)
		}
	}
	unique := func(s *sidecar, n int) string {
		return fmt.Sprintf(`{"at":%q,"n":%d,"t":%d}`, s.proxy, n, time.Now().UnixNano())
	}
	check := func(what string, took time.Duration) {
		t.Helper()
		t.Logf("%s arrived at three sidecars within %s (wanted: 100ms)", what, took.Round(100*time.Microsecond))
		if took > time.Second {
			t.Errorf("%s took %s", what, took)
		}
	}
	check("a policy", arrives(t, "a policy", fleet, func() {
		if r := p.admin("POST", "/entries/policies", `{"agent_id":"e2e-agent","blocked_tools":["pay"]}`); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}, func(s *sidecar, n int) bool { return s.call("pay", unique(s, n)).code() == "tool_explicitly_blocked" }))
	check("a policy's end", arrives(t, "a policy's end", fleet, func() {
		if r := p.admin("DELETE", "/entries/policies/e2e-agent", ""); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}, func(s *sidecar, n int) bool { return s.call("pay", unique(s, n)).status == 200 }))
	check("a tool", arrives(t, "a tool", fleet, func() {
		if r := p.admin("POST", "/entries/tools", fmt.Sprintf(`{"name":"refund","url":%q}`, a.URL+"/refund")); r.status != 200 {
			t.Fatal(r.status, r.body)
		}
	}, func(s *sidecar, n int) bool { return s.call("refund", unique(s, n)).status == 200 }))
	check("the kill switch", arrives(t, "the kill switch", fleet, func() { p.turn("e2e-agent", "disable") },
		func(s *sidecar, n int) bool { return s.call("pay", unique(s, n)).code() == "agent_disabled" }))
	if out, errs, code := fleet[0].cli("agent", "ls"); code != 0 || !strings.Contains(out, "the control plane's switch") {
		t.Errorf("agent ls at a sidecar: exit %d: %s%s", code, out, errs)
	}
	check("the kill switch's end", arrives(t, "the kill switch's end", fleet, func() { p.turn("e2e-agent", "enable") },
		func(s *sidecar, n int) bool { return s.call("pay", unique(s, n)).status == 200 }))
	s := fleet[0]
	if r := s.admin("POST", "/entries/tools", fmt.Sprintf(`{"name":"pay","url":%q}`, a.URL+"/elsewhere")); r.status != 422 || !strings.Contains(r.body, "control plane") {
		t.Errorf("a sidecar changes what its control plane owns: %d %s", r.status, r.body)
	}
	for _, want := range []string{"control: followed", "changes are pushed", "an older version is refused"} {
		if r := s.ready(); r.status != 200 || !strings.Contains(r.body, want) {
			t.Errorf("/readyz does not say %q: %s", want, r.body)
		}
	}
}

// TestControlKeys: what a sidecar's key may do at its control plane, and what nobody else's may.
func TestControlKeys(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	secret := settings{"auth": settings{"type": "hmac_sha256", "secrets": []string{"a-signing-secret-of-pay"}}, "headers": settings{"X-Credential": "a-credential-of-pay"}}
	wide := settings{"match": []settings{{"url": a.URL + "/wide"}, {"url": "http://elsewhere.test/wide"}}}
	for k, v := range secret {
		wide[k] = v
	}
	p := plane(t, []settings{a.tool("pay", secret), a.tool("wide", wide)}, nil)
	ask := func(method, path, key string) answer {
		return p.send(method, p.base()+"/v1"+path, "{}", "Authorization", "Bearer "+key)
	}
	for _, path := range []string{"GET /policies", "POST /policies/x", "GET /tools", "POST /tools", "POST /agents/x/disable", "GET /agents/x/logs", "GET /runs", "GET /events", "POST /ai/run", "POST /check-lock"} {
		method, path, _ := strings.Cut(path, " ")
		if r := ask(method, path, sidecarKey); r.status != 403 {
			t.Errorf("%s %s by a sidecar: %d %s", method, path, r.status, r.body)
		}
	}
	for key, own := range map[string]string{sidecarKey: "oo1h_of_a_call", agentKey: "an-agents-own-work"} {
		for other, status := range map[string]int{own: 200, "oo1s_of_a_call": 403, "an-agents-work": 403} {
			if other != own && (other[:3] == own[:3]) {
				continue
			}
			for _, act := range []string{"lease", "complete"} {
				body := fmt.Sprintf(`{"key":%q,"lease_id":"lease_of_somebody_else_x"}`, other)
				r := p.send("POST", p.base()+"/v1/ai/"+act, body, "Authorization", "Bearer "+key)
				if act == "lease" && r.status != status || act == "complete" && (r.status == 403) != (status == 403) {
					t.Errorf("%s of %s by %s: %d %s", act, other, key, r.status, r.body)
				}
			}
			if r := ask("GET", "/ai/result?key="+other, key); r.status != status {
				t.Errorf("the result of %s by %s: %d %s", other, key, r.status, r.body)
			}
		}
	}
	if r := p.send("GET", p.base()+"/v1/audit", "", "Authorization", "Bearer "+sidecarKey); r.status != 403 {
		t.Errorf("a sidecar reads the audit: %d", r.status)
	}
	if r := ask("GET", "/snapshot", agentKey); r.status != 403 {
		t.Errorf("an agent reads the snapshot: %d %s", r.status, r.body)
	}
	r := ask("GET", "/snapshot", sidecarKey)
	if r.status != 200 || strings.Contains(r.body, "a-signing-secret") || strings.Contains(r.body, "a-credential") || !strings.Contains(r.body, "X-Credential") {
		t.Errorf("the snapshot: %d %s", r.status, r.body)
	}
	bare := under(t, p.base(), nil, nil)
	if r := bare.call("pay", "{}"); r.status != 403 || r.code() != "tool_secret_missing" {
		t.Errorf("without its secret: %d %s", r.status, r.body)
	}
	host := strings.TrimPrefix(a.URL, "http://")
	own := settings{"tool": "pay", "host": host, "secrets": []string{"another-secret-of-pay"}, "headers": settings{"X-Credential": "another-credential"}}
	widely := settings{"tool": "wide", "host": host, "secrets": own["secrets"], "headers": own["headers"]}
	with := under(t, p.base(), settings{"credentials": []settings{own, widely}}, nil)
	if r := with.call("wide", "{}"); r.code() != "tool_secret_missing" {
		t.Errorf("a tool that forwarded calls reach on another host too: %d %s", r.status, r.body)
	}
	if r := with.call("pay", "{}"); r.status != 200 {
		t.Errorf("with its secret: %d %s", r.status, r.body)
	}
	if got := a.sent(t, "/pay"); got.get("X-Credential") != "another-credential" || got.get("X-OnceOnly-Signature") == "" {
		t.Errorf("the tool was sent %s", got.raw)
	}
	own["host"] = "elsewhere.test"
	entries := filepath.Join(t.TempDir(), "pay.yaml")
	if err := os.WriteFile(entries, []byte("version: 1\ntools: [{name: pay, url: \"http://127.0.0.1:1/\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := with.cli("apply", "-f", entries); code == 0 || !strings.Contains(errs, "control plane owns") {
		t.Errorf("apply of what the control plane owns: %d %s %s", code, out, errs)
	}
	own["host"] = "elsewhere.test"
	astray := under(t, p.base(), settings{"credentials": []settings{own}}, nil)
	if r := astray.call("pay", "{}"); r.status != 403 || r.code() != "tool_secret_missing" {
		t.Errorf("with the secret of another host: %d %s", r.status, r.body)
	}
}

// sent is the last request for a target.
func (a *actor) sent(t testing.TB, target string) heard {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.heard) - 1; i >= 0; i-- {
		if a.heard[i].target == target {
			return a.heard[i]
		}
	}
	t.Errorf("the tool got no %s", target)
	return heard{}
}

// TestControlAway: the control plane is gone. What it said holds for max_stale, through a restart too; then calls with
// effects are refused and reads go on; when it is back all goes on by itself.
func TestControlAway(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	p := plane(t, []settings{a.tool("pay", nil), a.tool("look", settings{"effect": "read"})}, nil)
	p.admin("POST", "/entries/policies", `{"agent_id":"e2e-agent","blocked_tools":["drop"]}`)
	s := under(t, p.base(), settings{"max_stale": "3s"}, nil)
	if r := s.call("pay", `{"n":0}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	p.turn("e2e-agent", "disable")
	eventually(t, "the switch arrived", func() bool { return s.call("pay", `{"n":1}`).code() == "agent_disabled" })
	p.kill()
	s.stop()
	if info, err := os.Stat(filepath.Join(s.dir, "store", "control", "snapshot.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kept snapshot: %v %v", info, err)
	}
	s.launch()
	eventually(t, "it serves", func() bool {
		r, err := trySend("GET", "http://"+s.health+"/livez", "")
		return err == nil && r.status == 200
	})
	if r := s.call("pay", `{"n":2}`); r.code() != "agent_disabled" {
		t.Errorf("after a restart without the control plane: %d %s", r.status, r.body)
	}
	p.run()
	p.turn("e2e-agent", "enable")
	eventually(t, "the switch is back", func() bool { return s.call("pay", `{"n":2}`).status == 200 })
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, "the policies are stale", func() bool { return s.ready().status == 503 })
	ran := a.ran("pay")
	r := s.call("pay", `{"n":3}`)
	r.is(t, "a call with effects", 503, "policy_stale", "blocked", "not_sent")
	if r.header.Get("Retry-After") == "" || !strings.Contains(s.ready().body, "[-] control") {
		t.Errorf("%v %s", r.header, s.ready().body)
	}
	if r := s.call("look", `{"n":4}`); r.status != 200 {
		t.Errorf("a read: %d %s", r.status, r.body)
	}
	if r := s.call("drop", `{}`); r.code() != "tool_explicitly_blocked" {
		t.Errorf("what is blocked: %d %s", r.status, r.code())
	}
	if a.ran("pay") != ran {
		t.Error("a call ran under stale policies")
	}
	if age, err := strconv.ParseFloat(s.metric("oo_sidecar_policy_snapshot_age_seconds"), 64); err != nil || age < 3 {
		t.Errorf("policy_snapshot_age_seconds is %v %v", age, err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, "it goes on", func() bool { return s.call("pay", `{"n":3}`).status == 200 })
}

// stub is a control plane of a test's own, on net/http.
type stub struct {
	*httptest.Server
	mu    sync.Mutex
	serve func(w http.ResponseWriter, r *http.Request) // guarded by mu
}

func newStub(t testing.TB, serve func(w http.ResponseWriter, r *http.Request)) *stub {
	s := &stub{serve: serve}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		serve := s.serve
		s.mu.Unlock()
		serve(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *stub) be(serve func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// TestControlRollback: an older version is refused and told of, what held holds, and a newer one is taken.
func TestControlRollback(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	version := func(n int, blocked string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/v1/snapshot") {
				say(w, 404, settings{"detail": "Not Found"})
				return
			}
			if r.URL.Query().Get("after") == fmt.Sprint(n) {
				say(w, 200, settings{"version": n, "unchanged": true})
				return
			}
			say(w, 200, settings{"version": n, "tools": []settings{{"spec": settings{"name": "pay", "url": a.URL + "/pay"}}, {"spec": settings{"name": "drop", "url": a.URL + "/drop"}}},
				"policies": []settings{{"agent_id": "e2e-agent", "blocked_tools": []string{blocked}}}, "agents": []settings{}})
		}
	}
	p := newStub(t, version(7, "drop"))
	s := under(t, p.URL, settings{"poll": "100ms"}, nil)
	if r := s.call("drop", "{}"); r.code() != "tool_explicitly_blocked" {
		t.Fatalf("version 7: %d %s", r.status, r.code())
	}
	p.be(version(6, "pay"))
	eventually(t, "the older version is told of", func() bool { return number(s.metric("oo_sidecar_policy_rollback_refused_total")) > 0 })
	if r := s.call("drop", "{}"); r.code() != "tool_explicitly_blocked" {
		t.Errorf("an older version was taken: %d %s", r.status, r.code())
	}
	if r := s.ready(); !strings.Contains(r.body, "older than version 7") {
		t.Errorf("/readyz does not tell: %s", r.body)
	}
	s.stop()
	s.launch()
	eventually(t, "it serves", s.serves)
	eventually(t, "it is refused after a restart too", func() bool { return number(s.metric("oo_sidecar_policy_rollback_refused_total")) > 0 })
	if r := s.call("drop", "{}"); r.code() != "tool_explicitly_blocked" {
		t.Errorf("an older version was taken after a restart: %d %s", r.status, r.code())
	}
	p.be(version(8, "pay"))
	eventually(t, "a newer one is taken", func() bool { return s.call("pay", "{}").code() == "tool_explicitly_blocked" })
	p.be(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/snapshot") {
			say(w, 200, settings{"version": 9, "tools": []settings{{"spec": settings{"name": "bad name", "url": "x"}}}, "policies": []settings{}})
			return
		}
		say(w, 404, settings{"detail": "Not Found"})
	})
	eventually(t, "an invalid one is told of", func() bool { return strings.Contains(s.ready().body, "does not hold here") })
	if r := s.call("pay", "{}"); r.code() != "tool_explicitly_blocked" {
		t.Errorf("half of an invalid version was taken: %d %s", r.status, r.code())
	}
}
