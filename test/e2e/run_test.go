package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// shelf is a tool for programs under `run`: /ok is counted, /cut is counted and never answered.
type shelf struct {
	url    string // with a name, since loopback is never called through a proxy
	config string
	proxy  string
	ran    atomic.Int64
}

func newShelf(t *testing.T, more settings) *shelf {
	t.Helper()
	s := &shelf{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ran.Add(1)
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "done")
	}))
	t.Cleanup(server.Close)
	s.url = "http://plain.test:" + port(server.URL)
	s.proxy = stand.FreeAddr(t)
	conf := settings{
		"proxy":    settings{"listen": s.proxy, "allow_private": []string{"127.0.0.0/8"}, "resolve": settings{"plain.test": "127.0.0.1"}},
		"policies": []settings{{"agent_id": "*", "blocked_tools": []string{"blocked"}}},
	}
	for section, over := range more {
		conf[section] = over
	}
	var tools []settings
	for _, name := range []string{"ok", "cut", "blocked"} {
		tools = append(tools, settings{"name": name, "url": s.url + "/" + name, "max_retries": 0})
	}
	s.config = configured(t, tools, conf)
	return s
}

// post is a shell's command that calls a path and prints the status.
func (s *shelf) post(path, body string) string {
	return `curl -q -s -o /dev/null -w '%{http_code}\n' -d '` + body + `' ` + s.url + path + "\n"
}

// under runs a shell script under `run` and gives what it and `run` said.
func (s *shelf) under(t *testing.T, script string, flags ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := s.command(t, script, flags...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok {
		code = ended.ExitCode()
	}
	return out.String(), errs.String(), code
}

func (s *shelf) command(t *testing.T, script string, flags ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"run", "--config", s.config}, flags...)
	cmd := exec.Command(stand.Sidecar(t), append(args, "--", "sh", "-c", script)...)
	cmd.Env = cleanEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

// held is a program under `run` that waits until it is told to end.
type held struct {
	cmd   *exec.Cmd
	user  *url.URL // its proxy, with its credentials
	in    io.WriteCloser
	lines *bufio.Scanner
}

func (s *shelf) hold(t *testing.T, flags ...string) *held {
	t.Helper()
	h := &held{cmd: s.command(t, `echo "$http_proxy"; read line`, flags...)}
	h.cmd.Stderr = os.Stderr
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.lines = bufio.NewScanner(out)
	if !h.lines.Scan() {
		t.Fatalf("it said nothing: %v", h.cmd.Wait())
	}
	if h.user, err = url.Parse(h.lines.Text()); err != nil || h.user.User == nil {
		t.Fatalf("its proxy is %q", h.lines.Text())
	}
	return h
}

// tunnel is a connection to the tool through a CONNECT as this user.
type tunnel struct {
	net.Conn
	r *bufio.Reader
}

func (h *held) tunnel(t *testing.T, s *shelf) *tunnel {
	t.Helper()
	c, err := net.Dial("tcp", s.proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	token, _ := h.user.User.Password()
	host := strings.TrimPrefix(s.url, "http://")
	io.WriteString(c, "CONNECT "+host+" HTTP/1.1\r\nProxy-Authorization: "+basic(h.user.User.Username(), token)+"\r\n\r\n")
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	return &tunnel{c, r}
}

func (c *tunnel) ask(s *shelf) int {
	io.WriteString(c, plain("POST", "/ok", strings.TrimPrefix(s.url, "http://"), "1"))
	return listen(c.r, "POST").status
}

func (h *held) end(t *testing.T) {
	t.Helper()
	h.in.Close()
	_ = h.cmd.Wait()
}

// status is what a call through the proxy, as this user, comes to; 0 when nobody answers.
func (s *shelf) status(t *testing.T, user *url.Userinfo) int {
	t.Helper()
	proxy := &url.URL{Scheme: "http", Host: s.proxy, User: user}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	resp, err := client.Post(s.url+"/ok", "text/plain", strings.NewReader("a"))
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestRunEndsAsItsChild: exit codes, signals, and what was never run.
func TestRunEndsAsItsChild(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 128 + 15, "kill -KILL $$": 128 + 9} {
		if _, errs, code := s.under(t, script); code != want {
			t.Errorf("%s: exit %d, wanted %d: %s", script, code, want, errs)
		}
	}
	for command, want := range map[string]int{"no-such-command": 127, s.config: 126, "": 2} {
		args := []string{"run", "--config", s.config, "--"}
		if command != "" {
			args = append(args, command)
		}
		cmd := exec.Command(stand.Sidecar(t), args...)
		cmd.Env = cleanEnv()
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("run -- %s: exit %d, wanted %d", command, code, want)
		}
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGKILL} {
		cmd := s.command(t, `trap 'echo told; exit 40' TERM; trap 'exit 41' INT; trap 'exit 42' HUP; trap 'exit 43' USR1; echo ready; while :; do sleep 0.02; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("it said nothing")
		}
		_ = cmd.Process.Signal(signal)
		if signal == syscall.SIGKILL { // nobody is left to pass it on: the child is told by the kernel
			if !lines.Scan() || lines.Text() != "told" {
				t.Errorf("the child of a killed run goes on: %q", lines.Text())
			}
			_ = cmd.Wait()
			continue
		}
		_ = cmd.Wait()
		want := map[syscall.Signal]int{syscall.SIGTERM: 40, syscall.SIGINT: 41, syscall.SIGHUP: 42, syscall.SIGUSR1: 43}[signal]
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%v: exit %d, wanted the child's %d", signal, code, want)
		}
	}
}

// TestRunSumsUp: what was executed, replayed, refused and left unknown, of this child alone.
func TestRunSumsUp(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	other := s.hold(t)
	defer other.end(t)
	if s.status(t, other.user.User) != 200 {
		t.Error("the other run's call did not pass")
	}
	script := s.post("/ok", "b") + s.post("/ok", "b") + s.post("/ok", "c") + s.post("/blocked", "d") + s.post("/cut", "e") + s.post("/cut", "e") + s.post("/elsewhere", "f")
	out, errs, _ := s.under(t, script)
	if got := strings.Fields(out); strings.Join(got, " ") != "200 200 200 403 504 409 403" {
		t.Errorf("answers: %v", got)
	}
	want := "executed 2, replayed 1, refused 3 (outcome_unknown 1, tool_explicitly_blocked 1, tool_not_registered 1), left unknown 1"
	if !strings.Contains(errs, want) || !strings.Contains(errs, "of cut nobody knows") {
		t.Errorf("it summed up %q, wanted %q", errs, want)
	}
	if !strings.Contains(errs, "guards against accidents, not against the agent") {
		t.Errorf("it did not say what it is worth: %s", errs)
	}
	if s.ran.Load() != 4 {
		t.Errorf("the tool ran %d times", s.ran.Load())
	}
}

// TestRunsShareASidecar: several at once have one sidecar and a proxy user each; one that is killed takes its user with
// it and nothing else; the last one takes the sidecar with it.
func TestRunsShareASidecar(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	runs := many(5, 5, func(int) *held { return s.hold(t) })
	seen := map[string]bool{}
	for _, r := range runs {
		seen[r.user.User.String()] = true
		if r.user.Host != s.proxy || s.status(t, r.user.User) != 200 {
			t.Errorf("%s does not pass", r.user)
		}
	}
	if len(seen) != 5 || s.ran.Load() != 1 {
		t.Errorf("%d proxy users, %d executions", len(seen), s.ran.Load())
	}
	if got := s.status(t, nil); got != 407 {
		t.Errorf("a call without a user: %d", got)
	}
	if got := s.status(t, url.UserPassword(runs[0].user.User.Username(), "guessed")); got != 407 {
		t.Errorf("a call with a wrong token: %d", got)
	}
	killed := runs[0]
	_ = killed.cmd.Process.Kill()
	_ = killed.cmd.Wait()
	killed.in.Close() // its child, which is nobody's now
	eventually(t, "the killed run's user is refused", func() bool { return s.status(t, killed.user.User) == 407 })
	through := runs[1].tunnel(t, s)
	if got := through.ask(s); got != 200 {
		t.Errorf("through a tunnel: %d", got)
	}
	for _, r := range runs[1:4] {
		r.end(t)
	}
	if got := through.ask(s); got != 407 {
		t.Errorf("through the tunnel of one that has ended: %d", got)
	}
	if got := s.status(t, runs[4].user.User); got != 200 {
		t.Errorf("the last one's call: %d", got)
	}
	runs[4].end(t)
	eventually(t, "the sidecar has ended", func() bool { return s.status(t, runs[4].user.User) == 0 })
	again := s.hold(t)
	if got := s.status(t, again.user.User); got != 200 || s.ran.Load() != 2 {
		t.Errorf("under the next sidecar: %d, ran %d times", got, s.ran.Load())
	}
	again.end(t)
}

// TestRunUsesARunningSidecar of the same configuration as it is, and no other.
func TestRunUsesARunningSidecar(t *testing.T) {
	t.Parallel()
	const token = "token-of-sixteen-characters"
	users := settings{"id": "one", "proxy_users": settings{"one": token, "two": token + "-2"}}
	s := newShelf(t, settings{"agent": users})
	serve(t, s.config)
	for _, agent := range []string{"one", "two"} {
		out, errs, code := s.under(t, `echo "$http_proxy"; `+s.post("/ok", "a"), "--agent", agent)
		if !strings.HasPrefix(out, "http://"+agent+":") || !strings.HasSuffix(out, "\n200\n") || code != 0 {
			t.Errorf("--agent %s: exit %d, %q, %s", agent, code, out, errs)
		}
		if !strings.Contains(errs, "does not intercept") {
			t.Errorf("it did not say that https is not governed: %s", errs)
		}
	}
	if s.ran.Load() != 2 {
		t.Errorf("two agents' calls ran %d times", s.ran.Load())
	}
	if _, errs, code := s.under(t, "exit 9", "--agent", "three"); code != 2 || !strings.Contains(errs, "proxy_users") {
		t.Errorf("an agent that is none: exit %d, %s", code, errs)
	}
	other, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.config = filepath.Join(t.TempDir(), "other.yaml")
	changed := bytes.Replace(other, []byte(`"blocked_tools":["blocked"]`), []byte(`"blocked_tools":["ok"]`), 1)
	if err := os.WriteFile(s.config, changed, 0o600); err != nil || bytes.Equal(changed, other) {
		t.Fatal(err, "nothing was changed")
	}
	if _, errs, code := s.under(t, "exit 9"); code != 2 || !strings.Contains(errs, "another configuration") {
		t.Errorf("another configuration: exit %d, %s", code, errs)
	}
	if err := os.WriteFile(s.config, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.under(t, "exit 9"); code != 9 {
		t.Errorf("the same configuration in another file: exit %d, %s", code, errs)
	}
}

// TestRunSaysWhyThereIsNoSidecar where one cannot be started.
func TestRunSaysWhyThereIsNoSidecar(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	taken, err := net.Listen("tcp", s.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, errs, code := s.under(t, "exit 9"); code != 1 || !strings.Contains(errs, "proxy.listen") || !strings.Contains(errs, "in use") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// serve runs a sidecar of a configuration that configured wrote until the test ends.
func serve(t *testing.T, config string) {
	t.Helper()
	cmd := exec.Command(stand.Sidecar(t), "serve", "--config", config)
	cmd.Env = cleanEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if address := healthLine.FindStringSubmatch(lines.Text()); address != nil {
			eventually(t, "the sidecar is ready", func() bool {
				resp, err := http.Get(address[1] + "/readyz")
				if err != nil {
					return false
				}
				resp.Body.Close()
				return resp.StatusCode == 200
			})
			go io.Copy(io.Discard, out)
			return
		}
	}
	t.Fatal("serve said nothing of its health listener")
}

var healthLine = regexp.MustCompile(`^health\s+(\S+)`)

// TestRunKeepsWhatTheUserHad: roots and exceptions of the environment are added to, not replaced.
func TestRunKeepsWhatTheUserHad(t *testing.T) {
	t.Parallel()
	s, mine := newShelf(t, nil), newAuthority(t)
	cmd := s.command(t, `cat "$SSL_CERT_FILE"; echo ===; cat "$NODE_EXTRA_CA_CERTS"; echo ===; echo "$NO_PROXY|$no_proxy|$SSL_CERT_FILE|$REQUESTS_CA_BUNDLE|$NODE_EXTRA_CA_CERTS"`)
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+mine.file, "NODE_EXTRA_CA_CERTS="+mine.file, "no_proxy=intern.test, *, localhost", "NO_PROXY=other.test")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(out), "===\n")
	certificate, err := os.ReadFile(mine.file)
	if err != nil || len(parts) != 3 {
		t.Fatal(err, len(parts))
	}
	own, err := os.ReadFile(filepath.Join(filepath.Dir(s.config), "store", "ca", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for i, what := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"} {
		if !strings.Contains(parts[i], string(certificate)) || !strings.Contains(parts[i], string(own)) {
			t.Errorf("%s lacks what it named or the local CA", what)
		}
	}
	if strings.Count(parts[1], "BEGIN CERTIFICATE") != 2 || strings.Count(parts[0], "BEGIN CERTIFICATE") < 3 {
		t.Errorf("%d and %d certificates", strings.Count(parts[0], "BEGIN"), strings.Count(parts[1], "BEGIN"))
	}
	values := strings.Split(strings.TrimSpace(parts[2]), "|")
	if want := "127.0.0.1,localhost,::1,other.test,intern.test"; values[0] != want || values[1] != want {
		t.Errorf("NO_PROXY %q, wanted %q", values[0], want)
	}
	if values[2] != values[3] || values[2] == values[4] {
		t.Errorf("files %v", values[2:])
	}
}

// TestRunOfJava: its clients send no proxy credentials, so who runs one is told beforehand what to do.
func TestRunOfJava(t *testing.T) {
	t.Parallel()
	s := newShelf(t, nil)
	java := filepath.Join(t.TempDir(), "java")
	if err := os.WriteFile(java, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	say := func(program string) string {
		cmd := exec.Command(stand.Sidecar(t), "run", "--config", s.config, "--", program)
		cmd.Env = cleanEnv()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := say(java); !strings.Contains(out, "Java's own clients send no proxy credentials") || !strings.Contains(out, "oo-sidecar serve") {
		t.Errorf("a sidecar that run started: %s", out)
	}
	if out := say("true"); strings.Contains(out, "Java's") {
		t.Errorf("no Java: %s", out)
	}
	serve(t, s.config)
	if out := say(java); strings.Contains(out, "Java's") {
		t.Errorf("a sidecar that asks for no credentials: %s", out)
	}
}
