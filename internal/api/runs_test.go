package api

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// roll is Runs that tells who leaves.
type roll struct {
	err  error
	left chan string
	done chan struct{}
}

func (r *roll) Join(agent string) (Run, error) {
	return Run{User: "run-1", Token: "token", Agent: agent}, r.err
}
func (r *roll) Leave(user string) int { r.left <- user; return 3 }
func (r *roll) Done() <-chan struct{} { return r.done }
func (r *roll) Len() int              { return 4 }

func serveRuns(t *testing.T, runs Runs) *httptest.Server {
	t.Helper()
	ring, err := NewKeyring([]KeyConfig{{Name: "ops", Role: "operator", Key: operatorKey}, {Name: "agent", Role: "agent", AgentID: "a", Key: agentKey}})
	if err != nil {
		t.Fatal(err)
	}
	server := &Server{Runs: runs, Log: slog.New(slog.DiscardHandler)}
	server.UseKeys(ring)
	s := httptest.NewUnstartedServer(server.Handler())
	s.Config.ReadTimeout, s.Config.WriteTimeout = 500*time.Millisecond, 500*time.Millisecond // a run lasts longer
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// joined posts a run and reads its first line; the answer's body is still open.
func joined(t *testing.T, s *httptest.Server) (line string, body *bufio.Reader, hangUp func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/guests", strings.NewReader(`{"agent_id":"billing"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+operatorKey)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	body = bufio.NewReader(resp.Body)
	line, err = body.ReadString('\n')
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %q, %v", resp.StatusCode, line, err)
	}
	return line, body, func() { resp.Body.Close() }
}

// TestARunLastsAsLongAsItsConnection, whatever the listener's time limits, or as the sidecar.
func TestARunLastsAsLongAsItsConnection(t *testing.T) {
	runs := &roll{left: make(chan string, 1), done: make(chan struct{})}
	s := serveRuns(t, runs)
	line, _, hangUp := joined(t, s)
	if want := `{"user":"run-1","token":"token","agent_id":"billing"}` + "\n"; line != want {
		t.Errorf("%q, wanted %q", line, want)
	}
	_, second, _ := joined(t, s)
	read := make(chan error, 1)
	go func() {
		_, err := second.ReadByte()
		read <- err
	}()
	select {
	case err := <-read:
		t.Errorf("the second run's connection ended by itself: %v", err)
	case user := <-runs.left:
		t.Errorf("%s left by itself", user)
	case <-time.After(time.Second): // twice the listener's limits
	}
	hangUp()
	if user := <-runs.left; user != "run-1" {
		t.Errorf("%q left", user)
	}
	close(runs.done)
	<-runs.left
	if err := <-read; err == nil {
		t.Error("the sidecar ended and its answer goes on")
	}
}

func TestWhoMayJoin(t *testing.T) {
	for name, c := range map[string]struct {
		runs   Runs
		key    string
		body   string
		status int
		says   string
	}{
		"an agent":         {&roll{}, agentKey, `{}`, 403, "Forbidden"},
		"no sidecar's run": {nil, operatorKey, `{}`, 409, "not_started_by_run"},
		"the last is gone": {&roll{err: ErrEnding}, operatorKey, `{}`, 503, "draining"},
		"a bad name":       {&roll{err: errors.New("names no agent")}, operatorKey, `{"agent_id":"*"}`, 422, "names no agent"},
		"a long name":      {&roll{}, operatorKey, `{"agent_id":"` + strings.Repeat("a", 257) + `"}`, 422, "256"},
		"no JSON":          {&roll{}, operatorKey, `{`, 422, "invalid_body"},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := ask(t, serveRuns(t, c.runs), "POST", "/v1/guests", c.body, as(c.key)...)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	runs := &roll{left: make(chan string, 1)}
	if status, body := ask(t, serveRuns(t, runs), "DELETE", "/v1/guests/run-1", "", as(operatorKey)...); status != 200 || body != `{"left":3}` || <-runs.left != "run-1" {
		t.Errorf("leaving: %d %s", status, body)
	}
}
