package api

import (
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
)

type meAnswer struct {
	Plan             string  `json:"plan"`
	KeyPreview       string  `json:"key_preview"`
	Email            *string `json:"email"`
	IsActive         bool    `json:"is_active"`
	CurrentPeriodEnd *string `json:"current_period_end"`
	Requests         int64   `json:"requests_total_all_time"`
	Blocked          int64   `json:"blocked_total_all_time"`
	activity.Wishes
	Role      Role    `json:"role"`
	AgentID   *string `json:"agent_id"`
	Namespace string  `json:"namespace"`
}

// me answers GET /v1/me: who asks.
func (s *Server) me(w http.ResponseWriter, _ *http.Request, by *Key) {
	if s.Book == nil {
		missing(w, "counts")
		return
	}
	sum := s.Book.Sum(by.Namespace, by.AgentID, "")
	a := meAnswer{
		Plan: by.Plan, KeyPreview: by.preview, IsActive: true, Requests: sum.Checks() + sum.Leases(),
		Blocked: sum.Duplicates + sum.LocksOver + sum.LeasesOver, Wishes: s.Book.Wishes(by.Namespace), Role: by.Role, Namespace: by.Namespace,
	}
	if by.AgentID != "" {
		a.AgentID = &by.AgentID
	}
	answer(w, http.StatusOK, a)
}

// preview shows enough of a key to know it by, and none of a short one.
func preview(key string) string {
	const begin, end = 10, 4
	if len(key) < 2*(begin+end) {
		return "****"
	}
	return key[:begin] + "****" + key[len(key)-end:]
}

// notifications answers POST /v1/me/notifications. The wishes are kept; nothing here sends mail.
func (s *Server) notifications(w http.ResponseWriter, r *http.Request, by *Key) {
	f := fieldsOf(w, r, maxPolicyBody)
	if f == nil {
		return
	}
	if s.Book == nil {
		missing(w, "notifications")
		return
	}
	s.merging.Lock()
	defer s.merging.Unlock()
	wishes := s.Book.Wishes(by.Namespace)
	named := 0
	for name, wish := range map[string]*bool{
		"email_notifications_enabled": &wishes.Email, "tool_error_notifications_enabled": &wishes.ToolError,
		"run_failure_notifications_enabled": &wishes.RunFailures,
	} {
		if f.has(name) {
			named++
			*wish = string(f.flag(name)) == "true"
		}
	}
	if named == 0 {
		f.bad(nil, "value_error", "Value error, at least one of the notifications must be given", nil)
	}
	if f.refuse(w) {
		return
	}
	if err := s.Book.Wish(by.Namespace, wishes); err != nil {
		s.broken(w, "change of notifications", stored(err))
		return
	}
	answer(w, http.StatusOK, wishes)
}

type usageAnswer struct {
	Plan  string `json:"plan"`
	Month string `json:"month"`
	kindUsage
}

type kindUsage struct {
	Usage    int64 `json:"usage"`
	Limit    int64 `json:"limit"` // 0: none
	Requests int64 `json:"requests_total_month"`
	Blocked  int64 `json:"blocked_total_month"`
}

type kindTotals struct {
	kindUsage
	Charged int64 `json:"charged_total_month"`
	Polling int64 `json:"polling_total_month"`
}

// totals are the month's of the key's namespace, or of the agent whose key asks.
func (s *Server) totals(by *Key, month string) (locks, leases kindTotals) {
	sum := s.Book.Sum(by.Namespace, by.AgentID, month)
	locks.kindUsage = kindUsage{sum.Duplicates, by.terms().locks, sum.Checks(), sum.LocksOver}
	charged := sum.Acquired + sum.Calls
	leases = kindTotals{kindUsage{charged, by.terms().leases, sum.Leases() + sum.Calls, sum.LeasesOver}, charged, sum.Polled}
	return locks, leases
}

func (s *Server) usage(w http.ResponseWriter, r *http.Request, by *Key) {
	q := parametersOf(r)
	kind := q.choice("kind", "make", "make", "ai")
	if q.refuse(w) {
		return
	}
	if s.Book == nil {
		missing(w, "counts")
		return
	}
	month := monthHeader(w, by)
	of, leases := s.totals(by, month)
	if kind == "ai" {
		of = leases
	}
	answer(w, http.StatusOK, usageAnswer{by.Plan, month, of.kindUsage})
}

func (s *Server) usageAll(w http.ResponseWriter, _ *http.Request, by *Key) {
	if s.Book == nil {
		missing(w, "counts")
		return
	}
	month := monthHeader(w, by)
	locks, leases := s.totals(by, month)
	answer(w, http.StatusOK, struct {
		Plan  string     `json:"plan"`
		Month string     `json:"month"`
		Make  kindTotals `json:"make"`
		AI    kindTotals `json:"ai"`
	}{by.Plan, month, locks, leases})
}

func monthHeader(w http.ResponseWriter, by *Key) string {
	month := monthOf(time.Now())
	w.Header().Set("X-OnceOnly-Plan", by.Plan)
	w.Header().Set("X-OnceOnly-Month", month)
	return month
}

const maxDays = 366 // of one answer

type dayAnswer struct {
	Day         string `json:"day"`
	Checks      int64  `json:"checks_total"`
	Locks       int64  `json:"locks_created"`
	Duplicates  int64  `json:"duplicates_blocked"`
	RateLimited int64  `json:"rate_limited"`
	Acquired    int64  `json:"ai_acquired"`
	Completed   int64  `json:"ai_completed"`
	Failed      int64  `json:"ai_failed"`
}

// dayMetrics answers GET /v1/metrics: a row for each UTC day, both ends included.
func (s *Server) dayMetrics(w http.ResponseWriter, r *http.Request, by *Key) {
	q := parametersOf(r)
	from, to := q.date("from_day"), q.date("to_day")
	if len(*q.faults) == 0 && (from.After(to) || to.Sub(from) > maxDays*day) {
		q.bad("to_day", "value_error", "Value error, to_day is before from_day, or more than 366 days after it", nil)
	}
	if q.refuse(w) {
		return
	}
	if s.Book == nil {
		missing(w, "counts")
		return
	}
	rows := []dayAnswer{}
	for d := from; !d.After(to); d = d.AddDate(0, 0, 1) {
		c := s.Book.Sum(by.Namespace, by.AgentID, activity.Day(d))
		rows = append(rows, dayAnswer{activity.Day(d), c.Checks(), c.Locked, c.Duplicates, c.RateLimited, c.Acquired, c.Completed, c.Failed})
	}
	answer(w, http.StatusOK, rows)
}

// date reads a day; today when it is absent.
func (p *parameters) date(name string) time.Time {
	if !p.values.Has(name) {
		return time.Now().UTC().Truncate(day)
	}
	t, err := time.Parse(time.DateOnly, p.values.Get(name))
	if err != nil {
		p.bad(name, "date_from_datetime_parsing", "Input should be a valid date in the format YYYY-MM-DD", encode(p.values.Get(name)))
	}
	return t
}
