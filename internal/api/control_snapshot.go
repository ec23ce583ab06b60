package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Published is what the sidecars of this control plane are to follow: one version of tools, policies and switches. It is
// not changed once made.
type Published struct {
	Version uint64          // grows with every change, also over restarts
	Body    []byte          // JSON
	Next    <-chan struct{} // closed when a newer one has been published
}

const (
	maxSnapshotWait = 10  // seconds; below the listener's limits
	maxWaiting      = 512 // sidecars that wait at once; further ones are answered at once and come again
)

// sidecars are the paths that a key of role sidecar may use, with their methods: no more than a sidecar needs.
var sidecars = map[string]string{
	"/v1/snapshot": "GET", "/v1/ai/lease": "POST", "/v1/ai/extend": "POST", "/v1/ai/complete": "POST", "/v1/ai/fail": "POST",
	"/v1/ai/cancel": "POST", "/v1/ai/status": "GET", "/v1/ai/result": "GET", "/v1/events": "POST", "/v1/me": "GET",
}

// of are the methods of a path, closed to keys of role sidecar where they have no business.
func (m methods) of(pattern string) methods {
	closed := methods{}
	for method, a := range m {
		if closed[method] = a; sidecars[pattern] != method {
			closed[method] = notSidecars(a)
		}
	}
	return closed
}

func notSidecars(a action) action {
	return func(w http.ResponseWriter, r *http.Request, by *Key) {
		if by.Role == Sidecar {
			fail(w, http.StatusForbidden, "Forbidden")
			return
		}
		a(w, r, by)
	}
}

// getSnapshot answers GET /v1/snapshot?after=VERSION&wait=SECONDS: at once if another version holds, else when one does or
// the wait is over. An agent's key may not ask: it would read other agents' policies.
func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request, by *Key) {
	if by.Role == Agent {
		fail(w, http.StatusForbidden, "Forbidden")
		return
	}
	q := parametersOf(r)
	wait := q.number("wait", 0, 0, maxSnapshotWait)
	after := q.version("after")
	if q.refuse(w) {
		return
	}
	if s.Published == nil {
		missing(w, "snapshots")
		return
	}
	p, err := s.Published()
	if err == nil && p.Version == after && wait > 0 {
		s.awaitNext(r.Context(), p, time.Duration(wait)*time.Second)
		p, err = s.Published()
	}
	switch {
	case err != nil:
		s.broken(w, "snapshot for sidecars", stored(err))
	case p.Version == after:
		answer(w, http.StatusOK, map[string]any{"version": p.Version, "unchanged": true})
	default:
		answer(w, http.StatusOK, json.RawMessage(p.Body))
	}
}

// awaitNext waits for the next version, for the one who asked to go, or for the sidecar to end.
func (s *Server) awaitNext(ctx context.Context, p *Published, wait time.Duration) {
	if s.waiting.Add(1); s.waiting.Load() <= maxWaiting {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-p.Next:
		case <-timer.C:
		case <-ctx.Done():
		case <-s.Calls.Done():
		}
	}
	s.waiting.Add(-1)
}

// version reads a number that is the size of a version; 0 when it is absent.
func (p *parameters) version(name string) uint64 {
	if !p.values.Has(name) {
		return 0
	}
	n, err := strconv.ParseUint(p.values.Get(name), 10, 64)
	if err != nil {
		p.bad(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer", nil)
	}
	return n
}
