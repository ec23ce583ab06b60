package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// Definitions are tools, policies and operators' keys of an operator's file, in the words of the configuration file.
type Definitions struct {
	Tools    []ToolDefinition  `json:"tools"`
	Policies []json.RawMessage `json:"policies"`
	Keys     []json.RawMessage `json:"keys,omitempty"` // of operators, with the keys themselves
}

// ToolDefinition is one tool; its secrets stand beside the rest.
type ToolDefinition struct {
	Spec    json.RawMessage   `json:"spec"`
	Auth    *Auth             `json:"auth,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// Auth is how a tool's calls are signed.
type Auth struct {
	Type    string   `json:"type"`
	Scheme  string   `json:"scheme,omitempty"`
	Secrets []string `json:"secrets"`
}

// Applied says what became of one entry.
type Applied struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Scope  string `json:"scope,omitempty"` // of a tool
	Change string `json:"change"`          // created | changed | unchanged
}

// Applier has definitions hold. They are judged together, before the first one is changed: what does not validate is an
// Invalid and changes nothing. An entry that somebody else changes meanwhile is an ErrConflict.
type Applier func(ctx context.Context, d *Definitions, who string) ([]Applied, error)

func (s *Server) apply(w http.ResponseWriter, r *http.Request, by *Key) {
	var d Definitions
	if s.Apply == nil {
		missing(w, "tools and policies")
		return
	}
	if !read(w, r, &d) {
		return
	}
	applied, err := s.Apply(r.Context(), &d, by.Name)
	if err != nil {
		s.refuseEntry(w, err)
		return
	}
	if applied == nil {
		applied = []Applied{}
	}
	answer(w, http.StatusOK, applied)
}
