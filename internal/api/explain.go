package api

import (
	"context"
	"net/http"
)

// Question is a request of which an operator asks what would happen to it.
type Question struct {
	Method  string   `json:"method"`
	URL     string   `json:"url"`                // a tool's address, or /tools/NAME
	Agent   string   `json:"agent_id,omitempty"` // who would ask; empty for the configured agent
	Headers []string `json:"headers,omitempty"`  // each as "Name: value"
	Body    []byte   `json:"body,omitempty"`     // base64
}

// Explainer says in lines of text what would happen to a request. It sends nothing and leaves no record. Its error is
// what is wrong with the question.
type Explainer func(ctx context.Context, q *Question) (string, error)

func (s *Server) explain(w http.ResponseWriter, r *http.Request, _ *Key) {
	var q Question
	if s.Explain == nil {
		missing(w, "explanations")
		return
	}
	if !read(w, r, &q) {
		return
	}
	text, err := s.Explain(r.Context(), &q)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]string{"text": text})
}
