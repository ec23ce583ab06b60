package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// routes are the three ways by which a client's call is governed.
var routes = []string{"http", "https", "upgrade"}

// errand is what a client of the matrix is asked to do.
type errand struct {
	Label  string            `json:"label"`
	Routes map[string]string `json:"routes"`
}

func (e errand) body(route string) string {
	return fmt.Sprintf(`{"client": %q, "route": %q}`, e.Label, route)
}

// told is one line that a client prints.
type told struct {
	Route    string `json:"route"`
	Step     string `json:"step"` // call, refusal, piece, streamed, error
	Status   int    `json:"status"`
	Text     string `json:"text"`
	Replayed bool   `json:"replayed"`
}

// matrixClient is one row of the matrix.
type matrixClient struct {
	name    string
	command func(t *testing.T, e errand) []string
	cannot  string // why it cannot work, and the way around; "" where it must
}

func python(client string) func(*testing.T, errand) []string {
	return func(t *testing.T, e errand) []string {
		return []string{stand.Installed(t, "venv", "bin", "python"), "clients.py", client, asJSON(t, e)}
	}
}

func node20(client string) func(*testing.T, errand) []string {
	return func(t *testing.T, e errand) []string {
		return []string{stand.Program(t, "node"), "clients.cjs", client, asJSON(t, e)}
	}
}

func node26(client string) func(*testing.T, errand) []string {
	return func(t *testing.T, e errand) []string {
		return []string{newerNode(t), "clients.cjs", client, asJSON(t, e)}
	}
}

// newerNode is the Node that make tools installs from its registry.
func newerNode(t testing.TB) string {
	t.Helper()
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	return stand.Installed(t, "node", "node_modules", "node-linux-"+arch, "bin", "node")
}

const undiciWay = "reads no proxy variable; setGlobalDispatcher(new EnvHttpProxyAgent()) of undici, or Node 22.21, 24 and later"

var matrix = []matrixClient{
	{"curl", thisProgram("curl"), ""},
	{"Go net/http", thisProgram("go"), ""},
	{"Python urllib", python("urllib"), ""},
	{"Python requests", python("requests"), ""},
	{"Python httpx", python("httpx"), ""},
	{"Python aiohttp, trust_env=True", python("aiohttp-trust-env"), ""},
	{"Python aiohttp", python("aiohttp"), "reads proxy variables with trust_env=True only"},
	{"Node 20 fetch", node20("fetch"), undiciWay},
	{"Node 20 fetch, dispatcher of undici 7", node20("undici-fetch"), ""},
	{"Node 20 undici 7, EnvHttpProxyAgent", node20("undici"), ""},
	{"Node 20 axios", node20("axios"), ""},
	{"Node 26 fetch", node26("fetch"), ""},
	{"Node 26 undici 7, EnvHttpProxyAgent", node26("undici"), ""},
	{"Node 26 axios", node26("axios"), ""},
}

// thisProgram is a client that is part of this test's binary.
func thisProgram(client string) func(*testing.T, errand) []string {
	return func(t *testing.T, e errand) []string {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		return []string{exe, client}
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// shop is the upstream of the matrix: it counts, and its stream waits for the client to have read the first piece.
type shop struct {
	mu      sync.Mutex
	calls   map[string]int           // guarded by mu; by path and body
	waiting map[string]chan struct{} // guarded by mu; by body
}

func (s *shop) gate(body string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[body] == nil {
		s.waiting[body] = make(chan struct{})
	}
	return s.waiting[body]
}

func (s *shop) ran(path, body string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[path+" "+body]
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	var sent map[string]string
	_ = json.Unmarshal(data, &sent)
	body := asKey(sent)
	s.mu.Lock()
	s.calls[r.URL.Path+" "+body]++
	n := s.calls[r.URL.Path+" "+body]
	s.mu.Unlock()
	if r.URL.Path != "/stream" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"charge":"%s %d"}`, body, n)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	io.WriteString(w, "data: one\n\n")
	_ = http.NewResponseController(w).Flush()
	select {
	case <-s.gate(body):
		io.WriteString(w, "data: two\n\n")
	case <-time.After(20 * time.Second):
	}
}

// asKey names a client's calls on a route however it writes JSON.
func asKey(sent map[string]string) string { return sent["client"] + "/" + sent["route"] }

// shops starts the upstream twice, in the clear and over TLS, and the configuration through which it is called.
func shops(t *testing.T) (s *shop, config string, bases map[string]string) {
	t.Helper()
	s = &shop{calls: map[string]int{}, waiting: map[string]chan struct{}{}}
	authority := newAuthority(t)
	plain := httptest.NewServer(s)
	t.Cleanup(plain.Close)
	over := httptest.NewUnstartedServer(s)
	over.TLS = &tls.Config{Certificates: []tls.Certificate{authority.issue("pay.test", time.Now().Add(time.Hour))}}
	over.StartTLS()
	t.Cleanup(over.Close)
	bases = map[string]string{
		"http": "http://plain.test:" + port(plain.URL), "https": "https://pay.test:" + port(over.URL), "upgrade": "http://pay.test:" + port(over.URL),
	}
	var tools []settings
	for _, base := range []string{"http", "https"} {
		for _, path := range []string{"charge", "blocked", "stream"} {
			tools = append(tools, settings{"name": base + "." + path, "url": bases[base] + "/" + path})
		}
	}
	return s, configured(t, tools, settings{
		"proxy":    settings{"resolve": settings{"plain.test": "127.0.0.1", "pay.test": "127.0.0.1"}, "upstream_ca": authority.file},
		"policies": []settings{{"agent_id": "e2e-agent", "blocked_tools": []string{"http.blocked", "https.blocked"}}},
	}), bases
}

// configured writes a configuration on free ports for a sidecar that is not started.
func configured(t *testing.T, tools []settings, more settings) (file string) {
	t.Helper()
	dir := t.TempDir()
	conf := settings{
		"version": 1, "agent": settings{"id": "e2e-agent"},
		"proxy":  settings{"listen": stand.FreeAddr(t), "allow_private": []string{"127.0.0.0/8"}},
		"api":    settings{"listen": stand.FreeAddr(t)},
		"health": settings{"listen": stand.FreeAddr(t)},
		"store":  settings{"embedded": settings{"dir": filepath.Join(dir, "store")}},
		"tools":  tools,
	}
	for section, over := range more {
		base, same := conf[section].(settings)
		tree, ok := over.(settings)
		if !ok || !same {
			conf[section] = over
			continue
		}
		for k, v := range tree {
			base[k] = v
		}
	}
	file = filepath.Join(dir, "oo-sidecar.yaml")
	if err := os.WriteFile(file, []byte(asJSON(t, conf)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestClientMatrix: each client, unmodified and under `oo-sidecar run` alone, is governed over http, over https by
// interception and by the upgrade: one execution of two identical calls, a refusal whose reason it can read, and a
// stream that arrives in pieces. The upstream does not go on before the client has told the first piece.
func TestClientMatrix(t *testing.T) {
	t.Parallel()
	s, config, bases := shops(t)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 8, 1, ' ', tabwriter.Debug)
	fmt.Fprintln(w, "client\thttp\thttps, intercepted\thttp → https\tremark")
	for _, c := range matrix {
		t.Run(c.name, func(t *testing.T) {
			e := errand{Label: c.name, Routes: bases}
			said := s.send(t, config, c, e)
			cells := []string{c.name}
			for _, route := range routes {
				fault := judged(s, e, route, said)
				if (fault == "") != (c.cannot == "") {
					t.Errorf("%s: %s", route, fault)
				}
				if fault == "" {
					fault = "yes"
				} else if c.cannot != "" {
					fault = "no"
				}
				cells = append(cells, fault)
			}
			fmt.Fprintln(w, strings.Join(append(cells, c.cannot), "\t"))
		})
	}
	w.Flush()
	t.Logf("clients under `oo-sidecar run`:\n%s", table.String())
}

// send runs a client under `oo-sidecar run` and releases the streams whose first piece it tells.
func (s *shop) send(t *testing.T, config string, c matrixClient, e errand) (said []told) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, stand.Sidecar(t), append([]string{"run", "--config", config, "--"}, c.command(t, e)...)...)
	cmd.Env = append(cleanEnv(), "OO_NODE_MODULES="+filepath.Join(stand.Installed(t, "node"), "node_modules"), "OO_ERRAND="+asJSON(t, e), "PYTHONSAFEPATH=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var line told
		if !strings.HasPrefix(lines.Text(), "{") || json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		said = append(said, line)
		if line.Step == "piece" {
			close(s.gate(e.Label + "/" + line.Route))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, errs.String())
	}
	return said
}

// judged says what is wrong with what a client told of one route; "" when nothing is.
func judged(s *shop, e errand, route string, said []told) string {
	var steps []string
	var calls []told
	for _, line := range said {
		if line.Route != route {
			continue
		}
		steps = append(steps, line.Step)
		switch {
		case line.Step == "error":
			return line.Text
		case line.Step == "call":
			calls = append(calls, line)
		case line.Step == "refusal" && (line.Status != 403 || !strings.Contains(line.Text, `"code":"tool_explicitly_blocked"`)):
			return fmt.Sprintf("refusal: %d %.200s", line.Status, line.Text)
		case line.Step == "piece" && line.Text != "data: one\n\n", line.Step == "streamed" && line.Text != "data: one\n\ndata: two\n\n":
			return fmt.Sprintf("%s: %q", line.Step, line.Text)
		}
	}
	key := e.Label + "/" + route
	switch {
	case strings.Join(steps, " ") != "call call refusal piece streamed":
		return "it did " + strings.Join(steps, ", ")
	case calls[0].Status != 200 || calls[0].Replayed || !calls[1].Replayed || calls[1].Text != calls[0].Text:
		return fmt.Sprintf("two identical calls: %+v", calls)
	case s.ran("/charge", key) != 1 || s.ran("/blocked", key) != 0 || s.ran("/stream", key) != 1:
		return fmt.Sprintf("ran %d, blocked %d, streamed %d times", s.ran("/charge", key), s.ran("/blocked", key), s.ran("/stream", key))
	}
	return ""
}
