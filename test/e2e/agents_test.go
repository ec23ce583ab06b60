package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// tills are stripe-mock and mailpit over TLS, whose executions are counted by the agent that caused them.
type tills struct {
	mu      sync.Mutex
	charges map[string]int // guarded by mu; by the charge's description
}

// secure is a server over TLS in front of target.
func secure(t *testing.T, a *authority, host, target string, seen func(body string)) (address string) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	relay := httputil.NewSingleHostReverseProxy(u)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		seen(body.String())
		r.ContentLength = int64(body.Len())
		r.Body = io.NopCloser(&body)
		relay.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.issue(host, time.Now().Add(time.Hour))}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return host + ":" + port(s.URL)
}

// TestRealAgents: agents of four frameworks, as their users write them, loop over a payment and a mail through https, each
// asked for twice by the model, and the whole agent is started a second time: one charge and one mail each.
func TestRealAgents(t *testing.T) {
	t.Parallel()
	charges, mails, authority := stripe(t), mailpit(t), newAuthority(t)
	till := &tills{charges: map[string]int{}}
	pay := secure(t, authority, "api.stripe.test", charges.URL, till.charge)
	mail := secure(t, authority, "mail.test", mails.URL, func(string) {})
	config := configured(t, []settings{
		{"name": "pay", "url": "https://" + pay + "/v1/charges"}, {"name": "send_mail", "url": "https://" + mail + "/api/v1/send"},
	}, settings{"proxy": settings{"resolve": settings{"api.stripe.test": "127.0.0.1", "mail.test": "127.0.0.1"}, "upstream_ca": authority.file}})

	interpreter := []string{stand.Installed(t, "venv", "bin", "python"), "agents.py"}
	node := []string{newerNode(t), "agents.cjs"}
	for framework, command := range map[string][]string{"openai-agents": interpreter, "langchain": interpreter, "@langchain/core": node, "ai": node} {
		t.Run(framework, func(t *testing.T) {
			before := mails.messages()
			var first []string
			for i, want := range []string{"executed 2, replayed 2, refused 0", "executed 0, replayed 4, refused 0"} {
				cmd := exec.Command(stand.Sidecar(t), append([]string{"run", "--config", config, "--"}, append(command, framework)...)...)
				cmd.Env = append(cleanEnv(), "STRIPE_URL=https://"+pay+"/v1/charges", "MAIL_URL=https://"+mail+"/api/v1/send",
					"OO_NODE_MODULES="+filepath.Join(stand.Installed(t, "node"), "node_modules"), "PYTHONSAFEPATH=1")
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
				var errs bytes.Buffer
				cmd.Stderr = &errs
				out, err := cmd.Output()
				var said struct {
					Final   string
					Outputs []string
				}
				if err != nil || json.Unmarshal(out, &said) != nil || said.Final != "paid and told" || len(said.Outputs) != 4 {
					t.Fatalf("%v, it said %q\n%s", err, out, errs.String())
				}
				if said.Outputs[0] != said.Outputs[1] || said.Outputs[2] != said.Outputs[3] || i > 0 && strings.Join(said.Outputs, " ") != strings.Join(first, " ") {
					t.Errorf("answers %v, of the first run %v", said.Outputs, first)
				}
				first = said.Outputs
				if !strings.Contains(errs.String(), want) {
					t.Errorf("run %d summed up %q, wanted %q", i, errs.String(), want)
				}
			}
			if n := till.count(framework); n != 1 {
				t.Errorf("%d charges", n)
			}
			if n := mails.messages() - before; n != 1 {
				t.Errorf("%d mails", n)
			}
		})
	}
}

var description = regexp.MustCompile(`(?:^|&)description=([^&]*)`)

func (s *tills) charge(body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := description.FindStringSubmatch(body); m != nil {
		name, _ := url.QueryUnescape(m[1])
		s.charges[name]++
	}
}

func (s *tills) count(framework string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.charges[framework]
}
