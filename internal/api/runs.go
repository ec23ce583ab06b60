package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Run is one child of `oo-sidecar run` and the proxy user that only it has.
type Run struct {
	User  string `json:"user"`
	Token string `json:"token"`
	Agent string `json:"agent_id"`
}

// Runs are the children that use a sidecar which `run` started. Its law: a Run's proxy user counts from the moment Join
// returns until Leave; after the last one has left nobody joins any more (ErrEnding), and the sidecar ends.
type Runs interface {
	// Join takes a child in. agent is empty for the configured one.
	Join(agent string) (Run, error)
	// Leave takes the user away and says how many are left. It is idempotent.
	Leave(user string) (left int)
	// Done is closed when the sidecar ends, whoever is still there.
	Done() <-chan struct{}
	// Len is how many there are.
	Len() int
}

// ErrEnding says that the last run has ended and the sidecar with it: wait until it has gone and start another.
var ErrEnding = errors.New("the last run has ended, and this sidecar ends with it")

// join serves POST /v1/guests. The answer is one line of JSON, and then nothing: the run lasts as long as the
// connection, so that a child whose `run` was killed is not remembered for ever.
func (s *Server) join(w http.ResponseWriter, r *http.Request, _ *Key) {
	var body struct {
		Agent string `json:"agent_id"`
	}
	if !read(w, r, &body) {
		return
	}
	switch {
	case s.Runs == nil:
		fail(w, http.StatusConflict, problem{"not_started_by_run", "this sidecar was not started by `oo-sidecar run`; it knows the configured proxy_users only"})
		return
	case len(body.Agent) > maxName:
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", "agent ids have at most 256 bytes"})
		return
	}
	run, err := s.Runs.Join(body.Agent)
	if errors.Is(err, ErrEnding) {
		fail(w, http.StatusServiceUnavailable, problem{"draining", err.Error()})
		return
	} else if err != nil {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", err.Error()})
		return
	}
	defer s.Runs.Leave(run.User)
	s.hold(r.Context(), w, run)
}

// hold tells run and stays until the caller, or the sidecar, has gone.
func (s *Server) hold(ctx context.Context, w http.ResponseWriter, run Run) {
	line, err := json.Marshal(run)
	if err != nil {
		return
	}
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{})) != nil {
		return
	}
	if _, err := w.Write(append(line, '\n')); err != nil || rc.Flush() != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-s.Runs.Done():
	}
}

// leave serves DELETE /v1/guests/{user}.
func (s *Server) leave(w http.ResponseWriter, r *http.Request, _ *Key) {
	if s.Runs == nil {
		fail(w, http.StatusNotFound, "Not Found")
		return
	}
	answer(w, http.StatusOK, struct {
		Left int `json:"left"`
	}{s.Runs.Leave(r.PathValue("user"))})
}
