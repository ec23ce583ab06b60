package api

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// UnknownCall is an open call as an operator sees it.
type UnknownCall struct {
	Key       string     `json:"key"` // the whole shown key
	Tool      string     `json:"tool"`
	AgentID   string     `json:"agent_id"`
	Tenant    string     `json:"tenant"`
	Effect    string     `json:"effect"`
	Claimed   time.Time  `json:"claimed"`
	Ended     *time.Time `json:"ended"` // null while its holder is at it
	Fence     uint64     `json:"fence"`
	Attempt   int        `json:"attempt"`
	TimeoutMS int64      `json:"timeout_ms"`
	SpendUSD  string     `json:"spend_usd"`
	RequestID string     `json:"request_id"`
}

func shownCall(u *Unknown) UnknownCall {
	c := UnknownCall{Key: u.Shown, Tool: u.Tool, AgentID: u.Agent, Tenant: u.Tenant, Effect: u.Effect, Claimed: u.Claimed.UTC(), Fence: u.Fence,
		Attempt: u.Attempt, TimeoutMS: u.Timeout.Milliseconds(), SpendUSD: u.SpendUSD, RequestID: u.RequestID}
	if !u.Ended.IsZero() {
		ended := u.Ended.UTC()
		c.Ended = &ended
	}
	return c
}

// listUnknown lists open calls; ?key= keeps those whose shown key begins with it.
func (s *Server) listUnknown(w http.ResponseWriter, r *http.Request, _ *Key) {
	if s.Unknowns == nil {
		missing(w, "unknown outcomes")
		return
	}
	prefix := strings.ToLower(r.URL.Query().Get("key"))
	calls := []UnknownCall{}
	open, err := s.Unknowns.Unknowns()
	if err != nil {
		s.unlisted(w, err)
		return
	}
	for _, u := range open {
		if strings.HasPrefix(u.Shown, prefix) {
			calls = append(calls, shownCall(&u))
		}
	}
	answer(w, http.StatusOK, calls)
}

// unlisted says that the open calls cannot be read. An empty list would send an operator back to bed.
func (s *Server) unlisted(w http.ResponseWriter, err error) {
	if !errors.Is(err, ErrStore) {
		s.broken(w, "list of unknown outcomes", err)
		return
	}
	w.Header().Set("Retry-After", "1")
	fail(w, http.StatusServiceUnavailable, problem{"store_unavailable", "the unknown calls cannot be listed, because the store does not answer; ask again when /readyz is well"})
	s.Log.Warn("the unknown calls cannot be listed", "error", err.Error())
}

// ResolveRequest is an operator's word on an unknown call.
type ResolveRequest struct {
	Key     string       `json:"key"`     // shown; whole or a prefix that is unique
	Fence   uint64       `json:"fence"`   // as it was seen; 0: as it is now
	Outcome string       `json:"outcome"` // done | not-executed
	Why     string       `json:"why"`
	Force   bool         `json:"force"`
	Answer  *GivenAnswer `json:"answer"` // for done: what duplicates get from now on
}

// GivenAnswer is an answer that an operator found out elsewhere.
type GivenAnswer struct {
	Status      int    `json:"status"` // default 200
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"` // base64
}

func (s *Server) resolve(w http.ResponseWriter, r *http.Request, by *Key) {
	var body ResolveRequest
	if s.Unknowns == nil {
		missing(w, "unknown outcomes")
		return
	}
	if !read(w, r, &body) {
		return
	}
	resolution, err := body.resolution(by)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_body", err.Error()})
		return
	}
	u, err := s.open(body.Key)
	if errors.Is(err, ErrStore) {
		s.unlisted(w, err)
		return
	}
	if err != nil {
		fail(w, http.StatusNotFound, problem{"not_found", err.Error()})
		return
	}
	resolution.Key, resolution.Agent = u.Key, u.Agent
	if resolution.Fence == 0 {
		resolution.Fence = u.Fence
	}
	if err := s.Unknowns.Resolve(r.Context(), resolution); err != nil {
		s.refuseResolve(w, err)
		return
	}
	answer(w, http.StatusOK, shownCall(u))
}

// refusals of Resolve, each with its mend.
var unresolved = []struct {
	err        error
	code, mend string
}{
	{dedup.ErrMoved, "moved", "the call has moved on since it was listed; look at it again"},
	{dedup.ErrNotUnknown, "not_unknown", "the call's outcome is known by now; look at the audit"},
	{dedup.ErrStillRunning, "still_running", "the call's holder is still at it; wait, or say force when you know better"},
	{dedup.ErrTooYoung, "too_young", "the call is younger than its tool's timeout and may still be running there; wait, or say force when you know better"},
}

func (s *Server) refuseResolve(w http.ResponseWriter, err error) {
	for _, u := range unresolved {
		if errors.Is(err, u.err) {
			fail(w, http.StatusConflict, problem{u.code, u.mend})
			return
		}
	}
	s.broken(w, "resolution of an unknown outcome", err)
}

// open finds the one open call whose shown key begins with prefix.
func (s *Server) open(prefix string) (*Unknown, error) {
	prefix = strings.ToLower(prefix)
	open, err := s.Unknowns.Unknowns()
	if err != nil {
		return nil, err
	}
	var found *Unknown
	for _, u := range open {
		if !strings.HasPrefix(u.Shown, prefix) {
			continue
		}
		if found != nil && found.Fence != u.Fence {
			return nil, fmt.Errorf("several unknown calls begin with %q; give more of the key", prefix)
		}
		found = &u
	}
	if found == nil {
		return nil, fmt.Errorf("no unknown call has a key that begins with %q; `oo-sidecar unknown ls` lists them", prefix)
	}
	return found, nil
}

// resolution checks the request and makes it the store's; the key is still to be found.
func (q *ResolveRequest) resolution(by *Key) (*dedup.Resolution, error) {
	r := &dedup.Resolution{Fence: q.Fence, Why: q.Why, Who: by.Name, Force: q.Force}
	switch {
	case len(q.Key) < 4:
		return nil, errors.New("key: give at least 4 digits of the shown key")
	case q.Outcome == "done":
		r.Outcome = dedup.Done
	case q.Outcome == "not-executed":
		r.Outcome = dedup.NotSent
	default:
		return nil, fmt.Errorf("outcome %q is neither done nor not-executed", q.Outcome)
	}
	if strings.TrimSpace(q.Why) == "" || len(q.Why) > maxReason {
		return nil, errors.New("why: say how you know, in at most 1024 bytes; it stands in the audit")
	}
	if q.Answer == nil {
		return r, nil
	}
	if r.Outcome != dedup.Done {
		return nil, errors.New("answer: a call that was not executed has none")
	}
	var err error
	r.Answer, err = q.Answer.answer()
	return r, err
}

func (g *GivenAnswer) answer() (*dedup.Answer, error) {
	status := g.Status
	if status == 0 {
		status = http.StatusOK
	}
	if status < 200 || status > 299 {
		return nil, fmt.Errorf("answer: status %d is not that of a call that is done", status)
	}
	if strings.ContainsAny(g.ContentType, "\r\n\x00") {
		return nil, errors.New("answer: content_type is malformed")
	}
	a := &dedup.Answer{Status: status, Body: g.Body, Size: int64(len(g.Body)), SHA256: sha256.Sum256(g.Body), Kept: true}
	if a.Body == nil {
		a.Body = []byte{}
	}
	if g.ContentType != "" {
		a.Header = []tool.Header{{Name: "Content-Type", Value: g.ContentType}}
	}
	return a, nil
}
