// Package e2e runs the program as its users do: as a process, with real clients and real tools.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// settings is a configuration file as a tree; JSON is YAML.
type settings map[string]any

const (
	operatorKey = "oo_test_operator_key_1234"
	agentKey    = "oo_test_agent_key_123456"
)

// sidecar is a running oo-sidecar and how to reach it.
type sidecar struct {
	t                  testing.TB
	proxy, api, health string
	dir, config        string
	cmd                *exec.Cmd
	log                *bytes.Buffer
	exited             chan error
	witness            *witness // between the API and its clients; may be nil
}

// start writes the configuration, starts the program and waits until it is ready. It is ended with the test.
func start(t testing.TB, tools []settings, more settings) *sidecar {
	t.Helper()
	s := &sidecar{t: t, proxy: stand.FreeAddr(t), api: stand.FreeAddr(t), health: stand.FreeAddr(t), dir: t.TempDir()}
	conf := settings{
		"version": 1,
		"agent":   settings{"id": "e2e-agent"},
		"proxy":   settings{"listen": s.proxy, "allow_private": []string{"127.0.0.0/8"}},
		"api": settings{"listen": s.api, "keys": []settings{
			{"name": "ops", "role": "operator", "key": operatorKey},
			{"name": "agent", "role": "agent", "agent_id": "e2e-agent", "key": agentKey},
		}},
		"health": settings{"listen": s.health},
		"store":  settings{"kind": "embedded", "embedded": settings{"dir": filepath.Join(s.dir, "store")}},
		"tools":  tools,
	}
	for section, over := range more {
		tree, ok := over.(settings)
		if base, same := conf[section].(settings); ok && same {
			for k, v := range tree {
				base[k] = v
			}
			continue
		}
		conf[section] = over
	}
	s.config = filepath.Join(s.dir, "oo-sidecar.yaml")
	s.write(conf)
	s.run()
	t.Cleanup(s.stop)
	return s
}

func (s *sidecar) write(conf settings) {
	s.t.Helper()
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.config, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// run starts the process and waits until it is ready.
func (s *sidecar) run() {
	s.t.Helper()
	s.launch()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case err := <-s.exited:
			s.t.Fatalf("serve ended: %v\n%s", err, s.log)
		default:
		}
		if resp, err := http.Get("http://" + s.health + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(5 * time.Millisecond) // polling another process: there is nothing to wait on
	}
	s.t.Fatalf("serve was not ready in 20 s:\n%s", s.log)
}

func (s *sidecar) launch() {
	s.t.Helper()
	s.log = &bytes.Buffer{}
	s.cmd = exec.Command(stand.Sidecar(s.t), "serve", "--config", s.config)
	s.cmd.Env = cleanEnv()
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan error, 1)
	s.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(s.cmd)
}

// cleanEnv is the environment without what would change the program or its clients.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		lower := strings.ToLower(name)
		if strings.HasPrefix(name, "OO_") || strings.HasSuffix(lower, "_proxy") {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// kill is kill -9.
func (s *sidecar) kill() {
	_ = s.cmd.Process.Kill()
	s.await()
}

// stop is SIGTERM.
func (s *sidecar) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.await()
}

func (s *sidecar) await() {
	select {
	case err := <-s.exited:
		s.exited <- err
	case <-time.After(40 * time.Second):
		_ = s.cmd.Process.Kill()
		s.t.Errorf("the sidecar did not end:\n%s", s.log)
	}
}

// cli runs a command of the program against this sidecar's configuration.
func (s *sidecar) cli(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, stand.Sidecar(s.t), append(args, "--config", s.config)...)
	cmd.Env = cleanEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) decision() string { return a.header.Get("X-OnceOnly-Decision") }
func (a answer) replayed() bool   { return a.header.Get("Idempotent-Replayed") == "true" }

// code is the refusal's code; empty when the answer is no refusal.
func (a answer) code() string {
	var p struct{ Code string }
	if strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
		_ = json.Unmarshal([]byte(a.body), &p)
	}
	return p.Code
}

// clients is the transport of the Go client: no retries of its own to speak of, since it never sends Idempotency-Key
// over a connection that may be stale.
var clients = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}

// call is POST /tools/{name} with a JSON body.
func (s *sidecar) call(name, body string, headers ...string) answer {
	s.t.Helper()
	return s.send("POST", "http://"+s.proxy+"/tools/"+name, body, headers...)
}

func (s *sidecar) send(method, url, body string, headers ...string) answer {
	s.t.Helper()
	a, err := trySend(method, url, body, headers...)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, url, err)
	}
	return a
}

func trySend(method, url, body string, headers ...string) (answer, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := clients.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

// many runs f for 0…n-1 from as many goroutines as workers and returns the results in order.
func many[T any](n, workers int, f func(i int) T) []T {
	out := make([]T, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				out[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return out
}
