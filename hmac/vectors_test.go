package hmac

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// failures are the classes of testdata/vectors.json.
var failures = map[string]error{
	"ok":                  nil,
	"missing":             ErrMissing,
	"malformed":           ErrMalformed,
	"algorithm":           ErrAlgorithm,
	"timestamp missing":   ErrTimestampMissing,
	"timestamp malformed": ErrTimestampMalformed,
	"timestamps differ":   ErrTimestampsDiffer,
	"too old":             ErrTooOld,
	"too new":             ErrTooNew,
	"fence":               ErrFence,
	"id missing":          ErrIDMissing,
	"unknown key":         ErrUnknownKey,
	"mismatch":            ErrMismatch,
}

type vectors struct {
	Sign []struct {
		Name, Scheme string
		Secrets      []string
		Now          int64
		Call         struct {
			Method, Authority, Path, Body, Key, Tool, Agent, ID string
			Fence                                               uint64
		}
		Headers map[string]string
	}
	Verify []struct {
		Name, Expect, Scheme          string
		Secrets                       []string
		Now                           int64
		Method, Authority, Path, Body string
		Headers                       map[string]string
	}
}

func loadVectors(t *testing.T) (v vectors) {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func newKeys(t testing.TB, scheme string, secrets ...string) *Keys {
	t.Helper()
	k, err := NewKeys(scheme, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignVectors(t *testing.T) {
	for _, v := range loadVectors(t).Sign {
		t.Run(v.Scheme+"/"+v.Name, func(t *testing.T) {
			c := &Call{Method: v.Call.Method, Authority: v.Call.Authority, Path: v.Call.Path, Body: []byte(v.Call.Body),
				Key: v.Call.Key, Fence: v.Call.Fence, Tool: v.Call.Tool, Agent: v.Call.Agent, ID: v.Call.ID}
			fields, err := newKeys(t, v.Scheme, v.Secrets...).Sign(c, time.Unix(v.Now, 0))
			if err != nil {
				t.Fatal(err)
			}
			if len(fields) != len(v.Headers) {
				t.Errorf("%d headers, want %d", len(fields), len(v.Headers))
			}
			for _, f := range fields {
				if f.Value != v.Headers[f.Name] {
					t.Errorf("%s: %q, want %q", f.Name, f.Value, v.Headers[f.Name])
				}
			}
		})
	}
}

func TestVerifyVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range loadVectors(t).Verify {
		t.Run(v.Scheme+"/"+v.Name, func(t *testing.T) {
			want, known := failures[v.Expect]
			if !known {
				t.Fatalf("the class %q is not known", v.Expect)
			}
			seen[v.Expect] = true
			r := &Received{Method: v.Method, Authority: v.Authority, Path: v.Path, Body: []byte(v.Body),
				Get: func(name string) string { return v.Headers[name] }}
			if err := newKeys(t, v.Scheme, v.Secrets...).Verify(r, time.Unix(v.Now, 0)); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	for class := range failures {
		if !seen[class] {
			t.Errorf("no vector fails as %q", class)
		}
	}
}
