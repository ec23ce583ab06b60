package api

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
)

// identified gives every answer an X-Request-Id: the caller's where it has a sane one, else one of ours.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !sane(id) {
			id = newID()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r)
	})
}

// requestID is what identified gave the answer.
func requestID(w http.ResponseWriter) string { return w.Header().Get("X-Request-Id") }

// sane says whether a caller's id may be repeated: visible ASCII, 128 characters at most.
func sane(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= 128
}

// newID is 32 hex digits that nobody can guess.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}
