package api

import (
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// progress is the answer to a poller.
type progress struct {
	OK            bool    `json:"ok"`
	Status        string  `json:"status"`
	Key           string  `json:"key"`
	TTLLeft       *int64  `json:"ttl_left"`
	LeaseID       *string `json:"lease_id"` // never the holder's
	Version       uint64  `json:"version"`
	FirstSeenAt   *string `json:"first_seen_at"`
	DoneAt        *string `json:"done_at"`
	ResultHash    *string `json:"result_hash"`
	ErrorCode     *string `json:"error_code"`
	RetryAfterSec *int    `json:"retry_after_sec"`
}

func progressOf(key string, v *lease.View) *progress {
	status, code := v.Shown(v.Now)
	p := &progress{
		OK: status != "failed", Status: status, Key: key, Version: v.Version, FirstSeenAt: instant(v.First),
		DoneAt: instant(v.Done), ResultHash: word(v.ResultHash), ErrorCode: word(code),
	}
	if status == "in_progress" {
		left, retry := int64(v.Left(v.Now)/time.Second), leaseRetry
		if v.Job != nil {
			retry = jobRetry
		}
		p.TTLLeft, p.RetryAfterSec = &left, &retry
	}
	return p
}

// word is a string as the API writes one that may be missing.
func word(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// leaseStatus answers GET /v1/ai/status.
func (s *Server) leaseStatus(w http.ResponseWriter, r *http.Request, by *Key) {
	if key, v := s.look(w, r, by); v != nil {
		answer(w, http.StatusOK, progressOf(key, v))
	}
}

type leaseResult struct {
	OK         bool            `json:"ok"`
	Status     string          `json:"status"`
	Key        string          `json:"key"`
	Result     json.RawMessage `json:"result"`
	ResultHash *string         `json:"result_hash"`
	ErrorCode  *string         `json:"error_code"`
	DoneAt     *string         `json:"done_at"`
}

// leaseResult answers GET /v1/ai/result.
func (s *Server) leaseResult(w http.ResponseWriter, r *http.Request, by *Key) {
	key, v := s.look(w, r, by)
	if v == nil {
		return
	}
	status, code := v.Shown(v.Now)
	a := leaseResult{OK: status != "failed", Status: status, Key: key, ResultHash: word(v.ResultHash), ErrorCode: word(code), DoneAt: instant(v.Done)}
	if v.Result != nil {
		a.Result = v.Result
	}
	answer(w, http.StatusOK, a)
}

// look finds the lease that ?key= names. It answers for itself when it returns nil.
func (s *Server) look(w http.ResponseWriter, r *http.Request, by *Key) (string, *lease.View) {
	f := &fields{at: []any{"query"}, faults: new([]fault)}
	query := r.URL.Query()
	key := query.Get("key")
	switch {
	case !query.Has("key"):
		f.bad("key", "missing", "Field required", nil)
	case !utf8.ValidString(key):
		f.bad("key", "string_unicode", "Input should be a valid string", nil)
	default:
		f.sized("key", key, maxKeyText)
	}
	if f.refuse(w) || !ownWork(w, by, key) {
		return "", nil
	}
	if s.Leases == nil {
		missing(w, "leases")
		return "", nil
	}
	v, err := s.Leases.Look(r.Context(), lease.Name{Tenant: by.Namespace, Key: key})
	if err != nil {
		s.leaseless(w, "look at a lease", err)
		return "", nil
	}
	return key, &v
}
