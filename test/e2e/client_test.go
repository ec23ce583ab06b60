package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// dial opens a connection to the proxy listener that gives up after 20 s.
func (s *sidecar) dial() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.proxy)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	s.t.Cleanup(func() { c.Close() })
	return c
}

// say sends a request as it is and returns its answer. The bytes may be no request at all: what a cut one waits for
// never comes, and without an answer the status is 0.
func (s *sidecar) say(raw string) answer {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, raw)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	method, _, _ := strings.Cut(raw, " ")
	return listen(bufio.NewReader(c), method)
}

// listen reads one answer; its status is 0 when none came.
func listen(r *bufio.Reader, method string) answer {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answer{body: err.Error()}
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// post is the text of a request for a tool of the reverse path.
func (s *sidecar) post(name, body string, headers ...string) string {
	return plain("POST", "/tools/"+name, s.proxy, body, headers...)
}

// invoke is call without a client of Go's: it follows no redirect and repeats nothing.
func (s *sidecar) invoke(name, body string, headers ...string) answer {
	s.t.Helper()
	return s.say(s.post(name, body, headers...))
}

// plain is the text of a request as a careful client writes it.
func plain(method, target, host, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, host)
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if body != "" || method == "POST" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

// forward sends a request for target through the proxy, in absolute form.
func (s *sidecar) forward(method, target, body string, headers ...string) answer {
	s.t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.say(plain(method, target, u.Host, body, headers...))
}

// admin asks the operator's api.
func (s *sidecar) admin(method, path, body string) answer {
	s.t.Helper()
	return s.send(method, "http://"+s.api+"/v1"+path, body, "Authorization", "Bearer "+operatorKey)
}

// turn throws the kill switch, or takes it back, by the api.
func (s *sidecar) turn(agent, how string) {
	s.t.Helper()
	if a := s.admin("POST", "/agents/"+agent+"/"+how, `{"reason":"a test"}`); a.status != 200 {
		s.t.Fatalf("%s %s: %d %s", how, agent, a.status, a.body)
	}
}

// record is a line of the exported audit.
type record struct {
	Agent    string `json:"agent_id"`
	Tool     string `json:"tool"`
	Decision string `json:"decision"`
	Reason   string `json:"policy_reason"`
	Risk     string `json:"risk_level"`
	Outcome  string `json:"outcome"`
	Status   int    `json:"upstream_status"`
	Spend    string `json:"spend_usd"`
	Request  string `json:"request_id"`
	Fence    uint64 `json:"fence"`
	Attempt  int    `json:"attempt"`
	Seq      uint64 `json:"seq"`
	Count    int    `json:"count"`
}

// export ends the sidecar and gives its audit: what is written last is shown within a second, or at the end.
func (s *sidecar) export(flags ...string) string {
	s.t.Helper()
	s.stop()
	out, errs, code := s.cli(append([]string{"audit", "export"}, flags...)...)
	if code != 0 {
		s.t.Fatalf("audit export: exit %d: %s", code, errs)
	}
	return out
}

// records ends the sidecar and reads its audit.
func (s *sidecar) records() (all []record) {
	s.t.Helper()
	out := s.export()
	for line := range strings.Lines(out) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatalf("audit export printed %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// verify says that the journal is whole.
func (s *sidecar) verify() {
	s.t.Helper()
	if out, errs, code := s.cli("audit", "verify"); code != 0 {
		s.t.Errorf("audit verify: exit %d: %s%s", code, out, errs)
	}
}

// running is how many requests are under way, waiters too.
func (s *sidecar) running() int {
	s.t.Helper()
	for line := range strings.Lines(s.send("GET", "http://"+s.health+"/readyz?verbose", "").body) {
		if _, value, is := strings.Cut(line, "running"); is {
			return int(number(strings.Trim(value, " :=\n")))
		}
	}
	return -1
}

// unknowns is how many calls wait for an operator.
func (s *sidecar) unknowns() int {
	s.t.Helper()
	out, errs, code := s.cli("unknown", "ls", "-o", "json")
	var rows []any
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != 0 {
		s.t.Fatalf("unknown ls: exit %d, %v: %s%s", code, err, out, errs)
	}
	return len(rows)
}

// eventually waits for what another process does in its own time.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("in 15 s it never came that %s", what)
}

// got receives within 15 s.
func got[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(15 * time.Second):
		t.Fatalf("in 15 s it never came that %s", what)
		panic("unreachable")
	}
}

// later runs f and gives its result on a channel.
func later[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

// is checks an answer: code "" for one that the tool gave.
func (a answer) is(t testing.TB, what string, status int, code, decision, outcome string) {
	t.Helper()
	if a.status != status || a.code() != code || a.decision() != decision || a.header.Get("X-OnceOnly-Outcome") != outcome {
		t.Errorf("%s: %d %q, decision %q, outcome %q; wanted %d %q, %q, %q (%.200s)", what, a.status, a.code(), a.decision(),
			a.header.Get("X-OnceOnly-Outcome"), status, code, decision, outcome, a.body)
	}
}
