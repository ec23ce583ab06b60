package api

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"unicode/utf8"
)

// FuzzFields: whatever a body holds, each member that is read stands in it byte for byte, under its own name and no
// other, and what is not read is refused.
func FuzzFields(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"key":"k","ttl":5}`, `{"args": {"a": [1.0, "\u00e4"], "b":{"c":null}} , "tool":"t"}`, `{"a":1,"a":2}`, `{"A":1,"a":2}`, `[]`, ` {"x":"}"} `,
		`{"\u0061":1,"a":2}`, "{\"k\":\"\xff\"}", `{"a":1}{"b":2}`, `{"ttl":1e400,"n":-0.0}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		got := fieldsOf(w, httptest.NewRequest("POST", "/", bytes.NewReader(body)), 1<<20)
		var want map[string]json.RawMessage
		valid := utf8.Valid(body) && json.Unmarshal(body, &want) == nil && want != nil
		if got == nil {
			if w.Code != 422 || !json.Valid(w.Body.Bytes()) {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return
		}
		if !valid || len(got.raw) != len(want) {
			t.Fatalf("%q was read as %q", body, got.raw)
		}
		for name, raw := range got.raw {
			if string(raw) != string(want[name]) || !bytes.Contains(body, raw) {
				t.Fatalf("%q: %s is %s, want %s", body, name, raw, want[name])
			}
		}
		got.text("key", 5)
		got.seconds("ttl")
		callOf(got, "agent_id")
		planOf(got)
	})
}
