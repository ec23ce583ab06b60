package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// outcome is what one client saw of one call.
type outcome struct {
	status   int
	replayed bool
	digest   string
}

// load is calls of one tool: n of them, identical or all different.
type load struct {
	url, media, template string // # is the call's number, 0 in identical calls
	proxy                string // "": the url is the sidecar's own
	n                    int
	same                 bool
}

func (l load) body(i int) string {
	if l.same {
		i = 0
	}
	return strings.ReplaceAll(l.template, "#", fmt.Sprint(i))
}

// byGo calls with Go's net/http from 64 goroutines, over the reverse path only: it never uses a proxy for loopback.
func byGo(t *testing.T, l load) []outcome {
	return many(l.n, 64, func(i int) outcome {
		a, err := trySend("POST", l.url, l.body(i), "Content-Type", l.media, "Authorization", "Bearer sk_test_123")
		if err != nil {
			t.Error(err)
		}
		return outcome{a.status, a.replayed(), fmt.Sprintf("%x", sha256.Sum256([]byte(a.body)))}
	})
}

// byCurl calls with curl, 64 transfers at once.
func byCurl(t *testing.T, l load) []outcome {
	curl, dir := stand.Program(t, "curl"), t.TempDir()
	var config strings.Builder
	for i := range l.n {
		if i > 0 {
			config.WriteString("next\n")
		}
		fmt.Fprintf(&config, "url = %q\noutput = %q\ndata = %q\nheader = %q\nheader = \"Authorization: Bearer sk_test_123\"\nwrite-out = \"%d %%{http_code} %%header{idempotent-replayed}\\n\"\n",
			l.url, filepath.Join(dir, fmt.Sprint(i)), l.body(i), "Content-Type: "+l.media, i)
		if l.proxy != "" {
			fmt.Fprintf(&config, "proxy = \"http://%s\"\n", l.proxy)
		}
	}
	file := filepath.Join(dir, "calls.conf")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(curl, "-q", "-sS", "--no-progress-meter", "--parallel", "--parallel-max", "64", "-K", file)
	cmd.Env = cleanEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("curl: %v: %.300s", err, errs.String())
	}
	results := make([]outcome, l.n)
	for line := range strings.Lines(out.String()) {
		var i, status int
		if _, err := fmt.Sscanf(line, "%d %d", &i, &status); err != nil {
			t.Fatalf("curl printed %q", line)
		}
		body, _ := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
		results[i] = outcome{status, strings.HasSuffix(strings.TrimSpace(line), "true"), fmt.Sprintf("%x", sha256.Sum256(body))}
	}
	return results
}

// byRequests calls with Python's requests from 64 threads; the proxy comes from the environment.
func byRequests(t *testing.T, l load) []outcome {
	n := l.n
	if l.same {
		n = -n
	}
	cmd := exec.Command(stand.Installed(t, "venv", "bin", "python"), "requests.py", l.url, l.media, fmt.Sprint(n), l.template)
	cmd.Env = append(cleanEnv(), "PYTHONSAFEPATH=1")
	if l.proxy != "" {
		cmd.Env = append(cmd.Env, "http_proxy=http://"+l.proxy)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("requests: %v: %.500s", err, errs.String())
	}
	var rows [][3]any
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatal(err)
	}
	results := make([]outcome, 0, len(rows))
	for _, r := range rows {
		results = append(results, outcome{int(r[0].(float64)), r[1] == "true", r[2].(string)})
	}
	return results
}

// TestAtMostOnce is the main promise with real clients and real tools: 1,000 identical calls are one execution and 999
// byte-identical replays, 1,000 different ones are 1,000 executions.
func TestAtMostOnce(t *testing.T) {
	const n = 1000
	charges, mails := stripe(t), mailpit(t)
	chargeURL := "http://api.stripe.test:" + port(charges.URL) + "/v1/charges"
	mailURL := "http://mail.test:" + port(mails.URL) + "/api/v1/send"
	s := start(t, []settings{{"name": "stripe.charge", "url": chargeURL}, {"name": "send_mail", "url": mailURL}},
		settings{"proxy": settings{"resolve": settings{"api.stripe.test": "127.0.0.1", "mail.test": "127.0.0.1"}}})

	tools := []struct {
		name, url, media, template string
		executions                 func() int
	}{
		{"stripe.charge", chargeURL, "application/x-www-form-urlencoded", "amount=9999&currency=usd&source=tok_visa&description=%s-#", func() int { return int(charges.calls.Load()) }},
		{"send_mail", mailURL, "application/json", `{"From":{"Email":"agent@example.test"},"To":[{"Email":"c@example.test"}],"Subject":"%s #","Text":"Thank you."}`, mails.messages},
	}
	clients := []struct {
		name string
		run  func(*testing.T, load) []outcome
	}{{"go", byGo}, {"curl", byCurl}, {"requests", byRequests}}
	for _, tool := range tools {
		for _, client := range clients {
			for _, route := range []string{"reverse", "forward"} {
				if client.name == "go" && route == "forward" {
					continue
				}
				t.Run(tool.name+"/"+client.name+"/"+route, func(t *testing.T) {
					l := load{url: tool.url, media: tool.media, proxy: s.proxy, n: n, same: true, template: fmt.Sprintf(tool.template, client.name+route+"same")}
					if route == "reverse" {
						l.url, l.proxy = "http://"+s.proxy+"/tools/"+tool.name, ""
					}
					before := tool.executions()
					checkSame(t, client.run(t, l))
					if ran := tool.executions() - before; ran != 1 {
						t.Errorf("%d identical calls ran %d times", n, ran)
					}
					l.same, l.template = false, fmt.Sprintf(tool.template, client.name+route)
					before = tool.executions()
					checkDifferent(t, client.run(t, l))
					if ran := tool.executions() - before; ran != n {
						t.Errorf("%d different calls ran %d times", n, ran)
					}
				})
			}
		}
	}
	if _, errs, code := s.cli("audit", "verify"); code != 0 {
		t.Errorf("audit verify: exit %d: %s", code, errs)
	}
}

func checkSame(t *testing.T, results []outcome) {
	t.Helper()
	replays, digests := 0, map[string]bool{}
	for _, r := range results {
		if r.status != 200 {
			t.Errorf("status %d", r.status)
		}
		digests[r.digest] = true
		if r.replayed {
			replays++
		}
	}
	if replays != len(results)-1 || len(digests) != 1 {
		t.Errorf("of %d identical calls %d were replays with %d different bodies", len(results), replays, len(digests))
	}
}

func checkDifferent(t *testing.T, results []outcome) {
	t.Helper()
	for i, r := range results {
		if r.status != 200 || r.replayed {
			t.Errorf("call %d: status %d, replayed %t", i, r.status, r.replayed)
		}
	}
}
