package api

import (
	"encoding/json"
	"net/http"
)

// problem is the detail of a refusal that is more than a word.
type problem struct {
	Error   string `json:"error"`
	Message string `json:"message"`
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// fail writes the API's error envelope. detail is a string or a problem.
func fail(w http.ResponseWriter, status int, detail any) {
	answer(w, status, struct {
		Detail any `json:"detail"`
	}{detail})
}

// maxBody bounds a request's body, in bytes: an answer given to `unknown resolve` is the largest thing sent here.
const maxBody = 2 << 20

// read decodes a body into v; an absent one leaves v as it is. It answers for itself when it returns false.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	data, ok := bodyOf(w, r, maxBody)
	if !ok {
		return false
	}
	if len(data) == 0 {
		return true
	}
	if err := json.Unmarshal(data, v); err != nil {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", err.Error()})
		return false
	}
	return true
}
