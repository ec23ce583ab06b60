package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

// maxRecords bounds one answer of the audit.
const maxRecords = 1000

// queryAudit answers ?agent=&tool=&decision=&from=&to=&after=&limit=&order=&changes= with records, newest first unless
// order is oldest. `after` is a sequence number: what came later, for those who follow.
func (s *Server) queryAudit(w http.ResponseWriter, r *http.Request, _ *Key) {
	if s.Audit == nil {
		missing(w, "records")
		return
	}
	q, err := queryOf(r.URL.Query())
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, problem{"invalid_query", err.Error()})
		return
	}
	rows, err := s.Audit(r.Context(), q)
	if err != nil {
		s.broken(w, "query of the audit", err)
		return
	}
	body := []byte{'['}
	for i := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = rows[i].AppendExport(body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(body, "]\n"...))
}

func queryOf(v url.Values) (audit.Query, error) {
	q := audit.Query{Agent: v.Get("agent"), Tool: v.Get("tool"), Decision: v.Get("decision"),
		Changes: v.Get("changes") == "true", OldestFirst: v.Get("order") == "oldest", Limit: 100}
	for name, at := range map[string]*time.Time{"from": &q.From, "to": &q.To} {
		if text := v.Get(name); text != "" {
			t, err := time.Parse(time.RFC3339, text)
			if err != nil {
				return q, fmt.Errorf("%s: %q is no RFC 3339 time such as 2026-01-02T15:04:05Z", name, text)
			}
			*at = t
		}
	}
	if text := v.Get("after"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return q, fmt.Errorf("after: %q is no sequence number", text)
		}
		q.After = n
	}
	if text := v.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxRecords {
			return q, fmt.Errorf("limit: %q is not between 1 and %d", text, maxRecords)
		}
		q.Limit = n
	}
	return q, nil
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request, _ *Key) {
	if s.Status == nil {
		missing(w, "states")
		return
	}
	answer(w, http.StatusOK, s.Status())
}
