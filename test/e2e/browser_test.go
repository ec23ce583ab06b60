package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

//go:embed browser_page.js
var pageScript string

// site is the attacker's server: it serves the page, takes its reports, and is, as the control, a server on loopback that
// nobody protects.
type site struct {
	*httptest.Server
	rebound atomic.Bool
	reports chan report

	mu   sync.Mutex
	hits []string // guarded by mu: requests of the page for what would be a tool here
}

type report struct {
	phase string
	seen  map[string]string
}

func newSite(t testing.TB) *site {
	a := &site{reports: make(chan report, 8)}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	switch r.URL.Path {
	case "/page":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>A page</title><body><script src="/page.js?%s"></script>`, strings.ReplaceAll(r.URL.RawQuery, "&", "&amp;"))
	case "/page.js":
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = io.WriteString(w, pageScript)
	case "/report":
		var rows [][2]string
		_ = json.Unmarshal(body, &rows)
		got := report{r.URL.Query().Get("phase"), map[string]string{}}
		for _, row := range rows {
			got.seen[row[0]] = row[1]
		}
		a.reports <- got
	case "/rebound":
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if a.rebound.Load() {
			_, _ = io.WriteString(w, "yes")
		}
	case "/tools/ok":
		a.mu.Lock()
		a.hits = append(a.hits, r.Method+" "+r.Header.Get("Content-Type")+" "+r.URL.RawQuery+" "+r.Header.Get("Upgrade"))
		a.mu.Unlock()
	default:
		http.NotFound(w, r)
	}
}

// relay is the place that the attacker's name leads to: first the site, later, once the name is rebound, the sidecar.
type relay struct {
	net.Listener
	to    atomic.Pointer[string]
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func newRelay(t testing.TB, to string) *relay {
	r := &relay{Listener: loopback(t)}
	r.to.Store(&to)
	t.Cleanup(func() { r.Close() })
	go func() {
		for {
			c, err := r.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", *r.to.Load())
			if err != nil {
				c.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, c, far)
			r.mu.Unlock()
			for a, b := range map[net.Conn]net.Conn{c: far, far: c} {
				go func() {
					_, _ = io.Copy(a, b)
					a.Close()
				}()
			}
		}
	}()
	return r
}

// rebind leads the name somewhere else; what is connected is cut, as a browser's pool would run out.
func (r *relay) rebind(to string) {
	r.to.Store(&to)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
}

// browse opens a page in headless Chromium until the test ends. Every name but loopback's leads nowhere, the attacker's to
// where rules say.
func browse(t testing.TB, page, rules string) {
	t.Helper()
	cmd := exec.Command(stand.Program(t, "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--no-proxy-server", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--host-resolver-rules="+rules, "--remote-debugging-port=0", page)
	cmd.Env = append(cleanEnv(), "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var log strings.Builder
	cmd.Stderr = &log // its children have it too: Wait waits for all of them, so that nobody writes what is being removed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("chromium said: %.2000s", log.String())
		}
	})
}

// TestWebPages: a page in the user's browser reaches loopback, and cannot make the sidecar call a tool.
func TestWebPages(t *testing.T) {
	stand.Program(t, "chromium")
	a := act(t, ok)
	s := start(t, []settings{a.tool("ok", settings{"match": []settings{{"methods": []string{"GET", "POST"}, "url": a.URL + "/ok"}}, "headers": settings{"Authorization": "Bearer the-real-credential"}})}, nil)
	attacker := newSite(t)
	name := newRelay(t, strings.TrimPrefix(attacker.URL, "http://"))
	evil := "evil.test:" + port(name.Addr().String())
	query := func(phase string) string {
		return url.Values{"phase": {phase}, "control": {attacker.URL}, "proxy": {"http://" + s.proxy}, "api": {"http://" + s.api}, "health": {"http://" + s.health}}.Encode()
	}
	rules := "MAP evil.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
	if r := s.invoke("ok", `{"from":"the agent"}`); r.status != 200 || a.ran("") != 1 {
		t.Fatalf("the tool does not work: %d", r.status)
	}

	t.Run("cross", func(t *testing.T) {
		browse(t, "http://"+evil+"/page?"+query("cross"), rules)
		r := slow(t, attacker.reports)
		if r.phase != "cross" || len(r.seen) != 4*8 {
			t.Fatalf("the page reported %v", r)
		}
		attacker.mu.Lock()
		hits := strings.Join(attacker.hits, "\n")
		attacker.mu.Unlock()
		for _, want := range []string{"POST text/plain", "POST application/x-www-form-urlencoded", "GET  image", "websocket"} {
			if !strings.Contains(hits, want) {
				t.Errorf("the control was not reached by %q: the page cannot do what it should be kept from:\n%s", want, hits)
			}
		}
		for what, saw := range r.seen {
			if !strings.HasPrefix(what, "control") && (strings.Contains(saw, " 200 ") || saw == "open" || strings.HasSuffix(what, "image") && saw == "loaded") {
				t.Errorf("%s: the page saw %q", what, saw)
			}
		}
	})

	t.Run("rebound", func(t *testing.T) {
		browse(t, "http://"+evil+"/page?"+query("rebound"), rules)
		if r := slow(t, attacker.reports); r.phase != "loaded" {
			t.Fatalf("the page reported %v", r)
		}
		name.rebind(s.proxy)
		attacker.rebound.Store(true)
		r := slow(t, attacker.reports)
		if r.phase != "rebound" || !strings.Contains(r.seen["rebound fetch"], "browser_request_denied") || !strings.Contains(r.seen["rebound get"], "browser_request_denied") {
			t.Errorf("the page reported %v", r)
		}
	})

	if ran := a.ran(""); ran != 1 {
		t.Errorf("the tool was called %d times: %q", ran, a.requests("")[ran-1].raw)
	}
	denied := 0
	for _, r := range s.records() {
		if r.Reason == "browser_request_denied" {
			denied++
		} else if r.Decision != "executed" {
			t.Logf("a record of %s, %s", r.Decision, r.Reason)
		}
	}
	if denied < 10 {
		t.Errorf("only %d requests of the pages are recorded as denied", denied)
	}
}

// slow is got for a browser, which takes its time.
func slow(t testing.TB, from <-chan report) report {
	t.Helper()
	select {
	case r := <-from:
		return r
	case <-time.After(90 * time.Second):
		t.Fatal("the page reported nothing in 90 s")
		panic("unreachable")
	}
}
