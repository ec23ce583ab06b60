package api

import (
	_ "embed"
	"net/http"
)

// description is the API in OpenAPI 3.1, kept by hand: every route, what it takes and what it answers.
//
//go:embed openapi.json
var description []byte

func (s *Server) describe(w http.ResponseWriter, _ *http.Request, _ *Key) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(description)
}
