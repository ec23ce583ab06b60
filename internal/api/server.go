// Package api serves the OnceOnly-compatible API, and what operators need beyond it, on net/http. Whoever reaches the
// listener may be the agent, which can be talked into anything: every request needs a key, and only an operator's
// key changes what binds an agent.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// Server is the handler of the api listener. Its fields are set once, before Handler is called; what is nil is
// answered with 501.
type Server struct {
	Switches Switchboard
	Unknowns Unknowns
	Registry Registry
	Apply    Applier
	Explain  Explainer
	Audit    func(context.Context, audit.Query) ([]audit.Row, error)
	Status   func() Status
	Runs     Runs                // nil unless `oo-sidecar run` started this sidecar
	Record   func(*audit.Record) // of requests that are refused here and reach no governor; nil: they leave none
	Log      *slog.Logger
	Hosts    []string // further names of the listener
	Crowd    int64    // requests of agents' keys at once; more are told 429, so that operators find a place; 0: no limit

	Leases   lease.Store                      // locks, leases and jobs
	Governor *govern.Governor                 // of tool calls and the actions of jobs
	Calls    context.Context                  // of those calls: it outlives the connection that asked
	Noted    func(*Notice)                    // hears of locks and leases; may be nil
	Timeline func(*Moment)                    // hears of runs; may be nil
	Quota    func(by *Key, leases bool) Quota // of check-lock, or of leases and calls; nil: nobody counts

	// Walk visits what a query selects of the audit, oldest first, without holding it all.
	Walk              func(context.Context, audit.Query, func(audit.Row) error) error
	Book              *activity.Book                         // what callers did: see UseBook
	Published         func() (*Published, error)             // what sidecars follow
	StrictPolicyTools func() bool                            // may policies over /v1 name registered tools only; nil: no
	Spent             func(tenant, agent, tool string) Spent // of the limits, for jobs that only rehearse; nil: nothing

	merging sync.Mutex // held while an entry is read, changed and put back
	work    workers
	agents  atomic.Int64            // requests of agents' keys
	bodies  rooms                   // of requests that are being read or answered
	charges charges                 // of leases that sidecars hold
	waiting atomic.Int64            // sidecars that wait for a newer snapshot
	keys    atomic.Pointer[Keyring] // swapped whole
}

// UseKeys makes ring what the next requests are judged by. A key that stays with its rate has used of it what it had.
func (s *Server) UseKeys(ring *Keyring) {
	if was := s.keys.Load(); was != nil {
		ring.goOn(was)
	}
	ring.limited = func(k *Key) { s.note(&Notice{Time: time.Now(), By: k, Type: "rate_limited"}) }
	s.keys.Store(ring)
}

// action serves a request whose key has been found good.
type action func(w http.ResponseWriter, r *http.Request, by *Key)

// methods are the actions of one path, by method.
type methods map[string]action

// Handler returns the routes with the rules of the listener around them.
func (s *Server) Handler() http.Handler {
	if s.keys.Load() == nil {
		s.UseKeys(new(Keyring))
	}
	mux := http.NewServeMux()
	for pattern, m := range s.operatorRoutes() {
		mux.Handle(pattern, s.guard(m, Operator))
	}
	for _, routes := range []map[string]methods{s.callerRoutes(), s.governRoutes()} {
		for pattern, m := range routes {
			mux.Handle(pattern, s.guard(m.of(pattern), Agent))
		}
	}
	mux.Handle("/", s.guard(nil, ""))
	page := http.NewCrossOriginProtection()
	page.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusForbidden, problem{"browser_request_denied", "a page of another origin may not call this API"})
	}))
	return identified(s.witness(listen.Hosts{Names: s.Hosts}.Guard(noOrigin(page.Handler(unclean(s.bodies.holding(mux)))))))
}

// operatorRoutes are those that only an operator's key may use.
func (s *Server) operatorRoutes() map[string]methods {
	routes := map[string]methods{
		"/v1/status":                   {"GET": s.status},
		"/v1/agents":                   {"GET": s.listAgents},
		"/v1/unknown":                  {"GET": s.listUnknown},
		"/v1/unknown/resolve":          {"POST": s.resolve},
		"/v1/audit":                    {"GET": s.queryAudit},
		"/v1/guests":                   {"POST": s.join},
		"/v1/guests/{user}":            {"DELETE": s.leave},
		"/v1/apply":                    {"POST": s.apply},
		"/v1/explain":                  {"POST": s.explain},
		"/v1/entries/tools":            {"GET": s.listTools, "POST": s.putTool},
		"/v1/entries/tools/{name}":     {"DELETE": s.deleteTool},
		"/v1/entries/policies":         {"GET": s.listPolicies, "POST": s.putPolicy},
		"/v1/entries/policies/{agent}": {"DELETE": s.deletePolicy},
		"/v1/entries/keys":             {"GET": s.listKeys, "POST": s.putKey},
		"/v1/entries/keys/{name}":      {"DELETE": s.revokeKey},
	}
	for name, turn := range map[string]action{"disable": s.disable, "enable": s.enable} {
		routes["/v1/agents/{id}/"+name] = methods{"POST": turn}
	}
	return routes
}

// guard finds out who asks and whether that role may, before anything is said about the path.
func (s *Server) guard(m methods, needs Role) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.survive(w, r)
		key := s.keys.Load().authenticate(w, r, time.Now())
		asked(w, key)
		if key == nil {
			return
		}
		if key.Role == Agent {
			defer s.agents.Add(-1)
			if n := s.agents.Add(1); s.Crowd > 0 && n > s.Crowd {
				w.Header().Set("Connection", "close")
				tooMany(w, 1, "agents ask for more at once than there are places")
				return
			}
		}
		switch {
		case m == nil:
			fail(w, http.StatusNotFound, "Not Found")
		case needs == Operator && key.Role != Operator:
			fail(w, http.StatusForbidden, "Forbidden")
		case m[r.Method] == nil:
			w.Header().Set("Allow", m.allowed())
			fail(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		default:
			m[r.Method](w, r, key)
		}
	})
}

func (m methods) allowed() string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// survive answers for an action that panicked; its own words are for the log only.
func (s *Server) survive(w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil {
		s.Log.Error("a request made the api panic", "method", r.Method, "panic", p)
		fail(w, http.StatusInternalServerError, "Internal Server Error")
	}
}

// broken answers for an error that is nobody's fault outside: in full to the log, as nothing to the caller.
func (s *Server) broken(w http.ResponseWriter, doing string, err error) {
	if errors.Is(err, ErrStore) {
		w.Header().Set("Retry-After", "1")
		came := "nothing has changed"
		if errors.Is(err, ErrUncertain) {
			came = "some of it may have changed: look at what stands, then repeat it"
		}
		fail(w, http.StatusServiceUnavailable, problem{"store_unavailable", "the change could not be made durable; " + came})
	} else {
		fail(w, http.StatusInternalServerError, "Internal Server Error")
	}
	s.Log.Error("the api could not do what it was asked", "doing", doing, "error", err)
}

// unclean answers paths that ServeMux would redirect: no API path is ever answered with a redirect.
func unclean(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.EscapedPath(); p == "" || p[0] != '/' || path.Clean(p) != p {
			fail(w, http.StatusNotFound, "Not Found")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// noOrigin refuses pages also where CrossOriginProtection lets them through: it takes GET for harmless.
func noOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			fail(w, http.StatusForbidden, problem{"browser_request_denied", "a page of another origin may not call this API"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// missing answers 501 for what this sidecar was not given.
func missing(w http.ResponseWriter, what string) {
	fail(w, http.StatusNotImplemented, problem{"not_supported", what + " are not kept here"})
}
