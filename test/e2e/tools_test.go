package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// daemon starts a real server and waits until url answers. It is ended with the test.
func daemon(t testing.TB, url string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(stand.Program(t, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 500 {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			return
		}
		time.Sleep(20 * time.Millisecond) // polling another process: there is nothing to wait on
	}
	t.Fatalf("%s did not start", name)
}

// counted is a server in front of a real tool that counts what reaches it.
type counted struct {
	*httptest.Server
	calls atomic.Int64
}

func count(t testing.TB, target string) *counted {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{}
	relay := httputil.NewSingleHostReverseProxy(u)
	relay.Transport = &http.Transport{MaxIdleConnsPerHost: 256}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.calls.Add(1)
		// Read first: a relay that still reads while the answer passes may cut the answer.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		relay.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// stripe starts stripe-mock, which validates arguments and does not deduplicate, behind a counter.
func stripe(t testing.TB) *counted {
	t.Helper()
	plain, tls := stand.FreeAddr(t), stand.FreeAddr(t)
	daemon(t, "http://"+plain+"/v1/charges", "stripe-mock", "-http-addr", plain, "-https-addr", tls)
	return count(t, "http://"+plain)
}

// mailbox is a running mailpit: its message count is the count of side effects.
type mailbox struct {
	*counted
	t testing.TB
}

func mailpit(t testing.TB) mailbox {
	t.Helper()
	web, smtp := stand.FreeAddr(t), stand.FreeAddr(t)
	daemon(t, "http://"+web+"/livez", "mailpit", "--database", filepath.Join(t.TempDir(), "mail.db"), "-l", web, "-s", smtp, "--disable-version-check", "-q", "--max", "5000")
	return mailbox{count(t, "http://"+web), t}
}

// messages is how many mails have arrived.
func (m mailbox) messages() int {
	m.t.Helper()
	resp, err := http.Get(m.URL + "/api/v1/messages?limit=1")
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct{ Total int }
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		m.t.Fatal(err)
	}
	return page.Total
}

// port is the port of a server's URL.
func port(server string) string { return server[strings.LastIndexByte(server, ':')+1:] }
