package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

const (
	maxLeaseBody = 8 << 20
	maxRunSpec   = 64 << 10 // bytes of a lease's or job's metadata
	maxResult    = 1 << 20  // bytes of a result that is kept
	maxWord      = 256      // characters of a lease's id, a code or a hash

	leaseRetry = 5 // seconds after which to ask again for a lease that somebody else holds
	jobRetry   = 1 // the same where the sidecar itself is at work
)

// leaseAnswer is the answer to a claim of a lease or a job, in the field set of the hosted service. It must never have
// a member called allowed or decision: by those the SDKs tell a tool's result from a job.
type leaseAnswer struct {
	OK            bool            `json:"ok"`
	Status        string          `json:"status"`
	Key           string          `json:"key"`
	TTL           int64           `json:"ttl"`
	TTLLeft       *int64          `json:"ttl_left"`
	LeaseID       *string         `json:"lease_id"` // only for whom it was given to: whoever knows it holds the lease
	Version       uint64          `json:"version"`
	FirstSeenAt   *string         `json:"first_seen_at"`
	DoneAt        *string         `json:"done_at"`
	ResultHash    *string         `json:"result_hash"`
	ErrorCode     *string         `json:"error_code"`
	RetryAfterSec *int            `json:"retry_after_sec"`
	Usage         int64           `json:"usage"`
	Limit         int64           `json:"limit"`
	Charged       int             `json:"charged"`
	Result        json.RawMessage `json:"result,omitempty"` // of a finished job, and for sidecars
	Budget        *shownBudget    `json:"budget,omitempty"` // of a sidecar's claim that is counted here
}

// acquireLease answers POST /v1/ai/lease.
func (s *Server) acquireLease(w http.ResponseWriter, r *http.Request, by *Key) {
	f := fieldsOf(w, r, maxLeaseBody)
	if f == nil {
		return
	}
	key, ttl := f.text("key", maxKeyText), f.seconds("ttl")
	about := f.within("metadata", f.object("metadata", maxRunSpec))
	ext := f.remoteClaim(by)
	if f.refuse(w) || !s.asItself(w, by, about.hint("agent_id")) {
		return
	}
	s.claimLease(w, r, by, key, lease.Claim{ID: ext.id, TTL: by.ttl(ttl)}, ext)
}

// claimLease claims and answers. It returns the view of a lease that was acquired.
func (s *Server) claimLease(w http.ResponseWriter, r *http.Request, by *Key, key string, c lease.Claim, ext *remoteClaim) *lease.View {
	if !ownWork(w, by, key) {
		return nil
	}
	if s.Leases == nil {
		missing(w, "leases")
		return nil
	}
	q := s.quota(by, true)
	if q.Over {
		overLimit(w, by, q)
		return nil
	}
	view, verdict, err := s.Leases.Acquire(r.Context(), lease.Name{Tenant: by.Namespace, Key: key}, c)
	if err != nil {
		s.leaseless(w, "claim of a lease", err)
		return nil
	}
	repeated := verdict == lease.Held && ext.proposes(view.ID)
	if repeated {
		verdict = lease.Acquired
	}
	var over *overBudget
	if verdict == lease.Acquired && ext.charges() {
		if over, err = s.reserve(r.Context(), by, key, &view, ext.budget); err != nil {
			s.leaseless(w, "charge of a lease", err)
			return nil
		}
	}
	a := leaseAnswerOf(key, &view, q)
	if ext.charges() {
		a.Budget = over.shown()
	}
	if over != nil && over.limit != "" {
		a.Status, a.OK, a.TTLLeft, a.RetryAfterSec = "over_limit", false, nil, &over.retry
		answer(w, http.StatusOK, a)
		return nil
	}
	n := noticeOf(w, by, key, &view)
	switch verdict {
	case lease.Acquired:
		n.Type, n.LeaseID, n.Charged = "ai_acquired", view.ID, true
		a.Status, a.LeaseID, a.TTLLeft, a.RetryAfterSec = "acquired", &view.ID, nil, nil
		a.Charged = 1
		a.Usage++
		if repeated { // the answer to the first question was lost
			a.Charged, n.Type = 0, ""
			break
		}
		s.expired(by, key, &view)
	case lease.Held:
		n.Type, a.Status = "ai_in_progress", "polling"
	case lease.Ended:
		n.Type = "ai_finished"
		if c.Job != nil || by.Role == Sidecar {
			a.Result = view.Result
		}
	}
	s.note(n)
	answer(w, http.StatusOK, a)
	if verdict != lease.Acquired {
		return nil
	}
	return &view
}

// expired notes that the lease before this one was lost: a failure that nobody else will ever tell of.
func (s *Server) expired(by *Key, key string, v *lease.View) {
	if v.Lost {
		s.note(&Notice{Time: v.Now, By: by, Type: "ai_failed", Key: key, Version: v.Version - 1, FirstSeen: v.First, ErrorCode: lease.CodeExpired})
	}
}

func leaseAnswerOf(key string, v *lease.View, q Quota) *leaseAnswer {
	p := progressOf(key, v)
	return &leaseAnswer{
		OK: p.OK, Status: p.Status, Key: key, TTL: int64(v.TTL / time.Second), TTLLeft: p.TTLLeft, Version: v.Version,
		FirstSeenAt: p.FirstSeenAt, DoneAt: p.DoneAt, ResultHash: p.ResultHash, ErrorCode: p.ErrorCode,
		RetryAfterSec: p.RetryAfterSec, Usage: q.Usage, Limit: q.Limit,
	}
}

func newLeaseID() string { return leaseWord + newID() }

// sidecarKeys begin the keys under which sidecars hold the leases of governed calls.
var sidecarKeys = []string{"oo1h_", "oo1s_", "oo1n_"}

// ownWork answers 403 when an agent would hold, end or read the lease of a sidecar's call, whose key it may be able to
// compute, or a sidecar that of work that clients do themselves.
func ownWork(w http.ResponseWriter, by *Key, key string) bool {
	sidecars := slices.ContainsFunc(sidecarKeys, func(word string) bool { return strings.HasPrefix(key, word) })
	if by.Role == Operator || sidecars == (by.Role == Sidecar) {
		return true
	}
	fail(w, http.StatusForbidden, "Forbidden")
	return false
}

// asItself answers 403 when an agent's key would act for another agent.
func (s *Server) asItself(w http.ResponseWriter, by *Key, agent string) bool {
	if agent == "" || by.speaksFor(agent) {
		return true
	}
	fail(w, http.StatusForbidden, "Forbidden")
	return false
}

// hint reads a string that nobody insists on; empty when it is none.
func (f *fields) hint(name string) string {
	var text string
	if !f.has(name) || json.Unmarshal(f.raw[name], &text) != nil {
		return ""
	}
	return text
}

func noticeOf(w http.ResponseWriter, by *Key, key string, v *lease.View) *Notice {
	_, code := v.Shown(v.Now)
	return &Notice{
		Time: v.Now, By: by, Key: key, RequestID: requestID(w), Version: v.Version, FirstSeen: v.First, Done: v.Done,
		ResultHash: v.ResultHash, ErrorCode: code,
	}
}
