package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// virtual is the Python of the virtual environment in which the SDKs are installed.
func virtual(t testing.TB) string {
	t.Helper()
	python := stand.Installed(t, "venv", "bin", "python")
	if exec.Command(python, "-c", "import onceonly").Run() != nil {
		stand.Missing(t, "bin/venv has no onceonly-sdk; make tools installs it")
	}
	return python
}

// python runs a scenario of the real SDK and returns what it printed and how it ended.
func (s *sidecar) python(scenario, key string) (out map[string]any, code int, errs string) {
	s.t.Helper()
	cmd := exec.Command(virtual(s.t), "sdk.py", scenario, s.base(), key)
	cmd.Env = append(cleanEnv(), "PYTHONSAFEPATH=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	_ = json.Unmarshal(stdout.Bytes(), &out)
	return out, cmd.ProcessState.ExitCode(), stderr.String()
}

// base is where the SDK's clients find the API: the witness, where there is one.
func (s *sidecar) base() string {
	if s.witness != nil {
		return s.witness.URL
	}
	return "http://" + s.api
}

// sdk runs a scenario that must hold.
func (s *sidecar) sdk(scenario, key string) map[string]any {
	s.t.Helper()
	out, code, errs := s.python(scenario, key)
	if code != 0 {
		s.t.Fatalf("%s: exit %d\n%s\n%s", scenario, code, errs, s.log)
	}
	return out
}

// till is the tools that the SDK's scenarios call: it counts what reaches it.
type till struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string]int // by path; guarded by mu
	ids   atomic.Int64
	slow  chan struct{} // a call of /slow waits until it is closed
	in    chan struct{} // gets a token when one waits
}

func newTill(t *testing.T) *till {
	c := &till{calls: map[string]int{}, slow: make(chan struct{}), in: make(chan struct{}, 100)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		c.mu.Lock()
		c.calls[r.URL.Path]++
		c.mu.Unlock()
		switch r.URL.Path {
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
			return
		case "/slow":
			c.in <- struct{}{}
			<-c.slow
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"ch_%d"}`, c.ids.Add(1))
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *till) count(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[path]
}

const limitedKey = "oo_test_limited_key_1234"

// startForSDK is a sidecar with the tools and policies of the scenarios, on the embedded store.
func startForSDK(t *testing.T) (*sidecar, *till) {
	t.Helper()
	return startForSDKOn(t, "embedded")
}

func startForSDKOn(t *testing.T, kind string) (*sidecar, *till) {
	virtual(t)
	c := newTill(t)
	var tools []settings
	for _, name := range []string{"charge", "mail", "refund", "other", "broken", "slow"} {
		tools = append(tools, settings{"name": name, "url": c.URL + "/" + name})
	}
	s := start(t, tools, settings{
		"store": kinds[kind](t),
		"api": settings{"keys": []settings{
			{"name": "ops", "role": "operator", "key": operatorKey},
			{"name": "agent", "role": "agent", "agent_id": "sdk-agent", "key": agentKey},
			{"name": "limited", "role": "agent", "agent_id": "sdk-agent", "key": limitedKey, "rate": "1/s"},
		}},
		"policies": []settings{{
			"agent_id": "sdk-agent", "allowed_tools": []string{"charge", "mail", "broken", "refund"}, "blocked_tools": []string{"refund"},
			"max_spend_usd_per_day": "2.00", "max_calls_per_tool": map[string]int{"mail": 2},
		}},
	})
	return s, c
}

// TestPythonSDK runs the SDK from PyPI, as it is, against the program.
func TestPythonSDK(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) { pythonSDK(t, kind) })
	}
}

func pythonSDK(t *testing.T, kind string) {
	s, c := startForSDKOn(t, kind)
	for _, scenario := range []string{"decorated", "decorated_ai"} { // a thousand callers: the witness would be what is tested
		if away, _ := s.sdk(scenario, operatorKey)["away"].(float64); away > 0 {
			t.Logf("%s: %v answers were 503", scenario, away) // a thousand threads may keep Redis from the processor for 250 ms
			if kind == "embedded" {
				t.Errorf("%s: the embedded store was away", scenario)
			}
		}
	}
	s.witness = s.witnessed(t)
	for _, scenario := range []string{"check_lock", "check_lock_async", "run_fn"} {
		s.sdk(scenario, operatorKey)
	}
	s.sdk("tools", operatorKey)
	if n := c.count("/charge"); n != 2 {
		t.Errorf("charge ran %d times, want 2", n)
	}
	if n := c.count("/mail") + c.count("/refund") + c.count("/other"); n != 2 {
		t.Errorf("%d calls that were to be refused reached their tools", n-2)
	}
	s.sdk("jobs", operatorKey)
	if n := c.count("/charge"); n != 4 {
		t.Errorf("charge ran %d times, want 4", n)
	}
	s.sdk("as_another", agentKey)
	s.sdk("limited", limitedKey)
	if _, errs, code := s.cli("agent", "disable", "sdk-agent", "--reason", "test"); code != 0 {
		t.Fatal(errs)
	}
	if out := s.sdk("stopped_agent", agentKey); out["allowed"] != false || out["reason"] != "agent_disabled" {
		t.Errorf("%v", out)
	}
	if out, _, code := s.cli("audit", "verify"); code != 0 {
		t.Errorf("audit verify: %s", out)
	}
}

// TestAWorkerDiesBetweenWorkAndComplete: while its lease holds nobody else works; then the next one does, and knows by
// the version that it is the second.
func TestAWorkerDiesBetweenWorkAndComplete(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *sidecar, _ *till) {
		if _, code, errs := s.python("work_and_die", agentKey); code != 9 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		s.kill()
		s.run() // the lease outlives the sidecar too
		if out := s.sdk("take_over", agentKey); out["version"].(float64) < 2 {
			t.Errorf("%v", out)
		}
	})
}

// TestTheSidecarIsKilledInAJob: started again it goes on with the job, and runs nothing twice.
func TestTheSidecarIsKilledInAJob(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *sidecar, c *till) {
		s.sdk("start_job", operatorKey)
		<-c.in
		s.kill()
		s.run()
		close(c.slow)
		out := s.sdk("end_of_job", operatorKey)
		if out["ok"] != false || out["code"] != "outcome_unknown" || !strings.HasPrefix(fmt.Sprint(out["decisions"]), "[executed") {
			t.Errorf("%v", out)
		}
		if c.count("/charge") != 1 || c.count("/slow") != 1 {
			t.Errorf("charge ran %d times, slow %d times", c.count("/charge"), c.count("/slow"))
		}
	})
}

// TestTheSidecarIsStopped: the SDK's own rules then. No store is asked.
func TestTheSidecarIsStopped(t *testing.T) {
	s, _ := startForSDK(t)
	s.stop()
	s.sdk("stopped", operatorKey)
}

// onEachStore runs a test with a sidecar of the scenarios on each kind of store.
func onEachStore(t *testing.T, f func(*testing.T, *sidecar, *till)) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			s, c := startForSDKOn(t, kind)
			f(t, s, c)
		})
	}
}
