package api

import (
	"net/http"
	"time"
)

// agentState is the answer about an agent, in the words of the OnceOnly API.
type agentState struct {
	AgentID        string  `json:"agent_id"`
	IsEnabled      bool    `json:"is_enabled"`
	DisabledReason *string `json:"disabled_reason"`
	DisabledAt     *string `json:"disabled_at"`
	Pending        string  `json:"pending,omitempty"` // what the change still waits for, in words
}

func stateOf(s Switch) agentState {
	state := agentState{AgentID: s.AgentID, IsEnabled: !s.Off, Pending: s.Pending}
	if s.Off {
		at := s.Since.UTC().Format(time.RFC3339)
		state.DisabledReason, state.DisabledAt = &s.Reason, &at
	}
	return state
}

func (s *Server) listAgents(w http.ResponseWriter, _ *http.Request, _ *Key) {
	if s.Switches == nil {
		missing(w, "agents")
		return
	}
	states := []agentState{}
	for _, sw := range s.Switches.Switches() {
		states = append(states, stateOf(sw))
	}
	answer(w, http.StatusOK, states)
}

// maxReason bounds what an operator says about a change, and maxName an agent's id, in bytes.
const (
	maxReason = 1024
	maxName   = 256
)

func (s *Server) disable(w http.ResponseWriter, r *http.Request, by *Key) { s.turn(w, r, by, true) }
func (s *Server) enable(w http.ResponseWriter, r *http.Request, by *Key)  { s.turn(w, r, by, false) }

func (s *Server) turn(w http.ResponseWriter, r *http.Request, by *Key, off bool) {
	var body struct {
		Reason string `json:"reason"`
	}
	if !read(w, r, &body) {
		return
	}
	id := r.PathValue("id")
	switch {
	case s.Switches == nil:
		missing(w, "agents")
		return
	case id == "" || len(id) > maxName || len(body.Reason) > maxReason:
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", "agent ids have 1 to 256 bytes and reasons at most 1024"})
		return
	}
	change := s.Switches.Enable
	if off {
		change = s.Switches.Disable
	}
	state, err := change(r.Context(), id, body.Reason, by.Name)
	if err != nil {
		s.broken(w, "switch of an agent", err)
		return
	}
	answer(w, http.StatusOK, stateOf(state))
}
