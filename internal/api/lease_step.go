package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// step is what the holder of a lease asks for.
type step struct {
	s   *Server
	w   http.ResponseWriter
	r   *http.Request
	by  *Key
	f   *fields
	key string
	id  string
}

// stepOf reads what all steps have. It answers for itself when it returns nil.
func (s *Server) stepOf(w http.ResponseWriter, r *http.Request, by *Key) *step {
	f := fieldsOf(w, r, maxLeaseBody)
	if f == nil {
		return nil
	}
	return &step{s: s, w: w, r: r, by: by, f: f, key: f.text("key", maxKeyText), id: f.text("lease_id", maxWord)}
}

// take applies the step and notes it as what. It answers for itself when it returns nil.
func (p *step) take(st lease.Step, what string) *lease.View {
	if p.f.refuse(p.w) || !ownWork(p.w, p.by, p.key) {
		return nil
	}
	if p.s.Leases == nil {
		missing(p.w, "leases")
		return nil
	}
	st.ID = p.id
	v, err := p.s.Leases.Apply(p.r.Context(), lease.Name{Tenant: p.by.Namespace, Key: p.key}, st)
	if err != nil {
		p.s.leaseless(p.w, "step of a lease", err)
		return nil
	}
	if v.Changed {
		n := noticeOf(p.w, p.by, p.key, &v)
		n.Type, n.LeaseID = what, p.id
		p.s.note(n)
	}
	return &v
}

type stepAnswer struct {
	OK         bool    `json:"ok"`
	Status     string  `json:"status"`
	Key        string  `json:"key"`
	TTL        int64   `json:"ttl,omitempty"`
	Version    uint64  `json:"version"`
	DoneAt     *string `json:"done_at,omitempty"`
	ResultHash *string `json:"result_hash,omitempty"`
	ErrorCode  *string `json:"error_code,omitempty"`
	ResultKept *bool   `json:"result_kept,omitempty"` // false: it was too large; the work is completed all the same
}

// extendLease answers POST /v1/ai/extend.
func (s *Server) extendLease(w http.ResponseWriter, r *http.Request, by *Key) {
	p := s.stepOf(w, r, by)
	if p == nil {
		return
	}
	st := lease.Step{Act: lease.Extend}
	if seconds := p.f.seconds("ttl"); seconds > 0 {
		st.TTL = by.ttl(seconds)
	}
	outcome := p.f.settlement(by, "")
	if v := p.take(st, "ai_extended"); v != nil {
		s.settle(p.id, outcome, v.Left(v.Now))
		answer(w, http.StatusOK, stepAnswer{OK: true, Status: "extended", Key: p.key, TTL: int64(v.TTL / time.Second), Version: v.Version})
	}
}

// completeLease answers POST /v1/ai/complete. A result that is too large to be kept is left out and not refused: the
// work was done, and the SDKs would say next that it failed.
func (s *Server) completeLease(w http.ResponseWriter, r *http.Request, by *Key) {
	p := s.stepOf(w, r, by)
	if p == nil {
		return
	}
	st := lease.Step{Act: lease.Complete, Result: p.f.object("result", maxLeaseBody), ResultHash: p.f.optional("result_hash", maxWord)}
	if st.Result != nil && st.ResultHash == "" {
		st.ResultHash = resultHash(st.Result)
	}
	outcome := p.f.settlement(by, "done")
	if by.Role != Agent {
		st.Keep = min(time.Duration(p.f.seconds("keep_s"))*time.Second, lease.Kept)
	}
	a := stepAnswer{OK: true, Status: "completed", Key: p.key}
	if len(st.Result) > maxResult {
		st.Result, a.ResultKept = nil, new(bool)
	}
	if v := p.take(st, "ai_completed"); v != nil {
		s.settle(p.id, outcome, 0)
		a.Version, a.DoneAt, a.ResultHash = v.Version, instant(v.Done), word(v.ResultHash)
		answer(w, http.StatusOK, a)
	}
}

// resultHash is SHA-256 of the result's canonical form, or of its bytes where it has none.
func resultHash(result []byte) string {
	text, err := dedup.Canonical(nil, result, nil)
	if err != nil {
		text = result
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// failLease answers POST /v1/ai/fail.
func (s *Server) failLease(w http.ResponseWriter, r *http.Request, by *Key) {
	p := s.stepOf(w, r, by)
	if p == nil {
		return
	}
	st := lease.Step{Act: lease.Fail, ErrorCode: p.f.text("error_code", maxWord), ErrorHash: p.f.optional("error_hash", maxWord)}
	if v := p.take(st, "ai_failed"); v != nil {
		s.settle(p.id, "failed", 0)
		answer(w, http.StatusOK, stepAnswer{OK: true, Status: "failed", Key: p.key, Version: v.Version, DoneAt: instant(v.Done), ErrorCode: word(v.ErrorCode)})
	}
}

// cancelLease answers POST /v1/ai/cancel.
func (s *Server) cancelLease(w http.ResponseWriter, r *http.Request, by *Key) {
	p := s.stepOf(w, r, by)
	if p == nil {
		return
	}
	p.f.optional("reason", maxReason)
	outcome := p.f.settlement(by, "not_sent")
	if v := p.take(lease.Step{Act: lease.Cancel}, "ai_canceled"); v != nil {
		s.settle(p.id, outcome, 0)
		answer(w, http.StatusOK, stepAnswer{OK: true, Status: "canceled", Key: p.key, Version: v.Version})
	}
}

// leaseErrors are the codes of steps that cannot be taken.
var leaseErrors = []struct {
	err    error
	status int
	code   string
}{
	{lease.ErrAbsent, http.StatusNotFound, "not_found"},
	{lease.ErrMismatch, http.StatusConflict, "lease_mismatch"},
	{lease.ErrLost, http.StatusConflict, "lease_lost"},
	{lease.ErrCompleted, http.StatusConflict, "already_completed"},
	{lease.ErrFailed, http.StatusConflict, "already_failed"},
	{lease.ErrCanceled, http.StatusConflict, "already_canceled"},
}

// leaseless answers for a step that was not taken.
func (s *Server) leaseless(w http.ResponseWriter, doing string, err error) {
	for _, e := range leaseErrors {
		if errors.Is(err, e.err) {
			fail(w, e.status, problem{e.code, e.err.Error()})
			return
		}
	}
	s.Log.Error("the api could not do what it was asked", "doing", doing, "error", err)
	w.Header().Set("Retry-After", "1")
	fail(w, http.StatusServiceUnavailable, problem{"store_unavailable", "the step could not be made durable"})
}
