package api

import (
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// UseBook has the book remember what callers do, and quotas go by it. Call it before Handler.
func (s *Server) UseBook(book *activity.Book) {
	s.Book = book
	s.Noted = func(n *Notice) { book.Add(eventOf(n), n.Time) }
	s.Timeline = func(m *Moment) { book.Tell(lineOf(m), m.Time) }
	s.Quota = s.measured
}

// monthOf is a time's UTC month, as YYYY-MM.
func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// usageOf is what counts against the key's plan this month, for all keys of its namespace together: duplicates blocked,
// or leases acquired and tool calls executed.
func (s *Server) usageOf(by *Key, leases bool) Quota {
	sum := s.Book.Sum(by.Namespace, "", monthOf(time.Now()))
	if leases {
		return Quota{Usage: sum.Acquired + sum.Calls, Limit: by.terms().leases}
	}
	return Quota{Usage: sum.Duplicates, Limit: by.terms().locks}
}

// measured is the key's quota. Only the free plan stops when its month is used up. Who asks is refused when it has, so
// that is noted here.
func (s *Server) measured(by *Key, leases bool) Quota {
	q := s.usageOf(by, leases)
	if q.Over = by.Plan == "free" && q.Limit > 0 && q.Usage >= q.Limit; !q.Over {
		return q
	}
	kind := "over_limit"
	if leases {
		kind = "ai_over_limit"
	}
	s.note(&Notice{Time: time.Now(), By: by, Type: kind})
	return q
}

func eventOf(n *Notice) activity.Event {
	e := activity.Event{
		Tenant: n.By.Namespace, Owner: n.By.AgentID, TS: n.Time.Unix(), Type: n.Type, ReqID: n.RequestID, Key: n.Key,
		FirstSeen: told(instant(n.FirstSeen)), Plan: n.By.Plan, Version: n.Version, LeaseID: n.LeaseID,
		Done: told(instant(n.Done)), ResultHash: n.ResultHash, ErrorCode: n.ErrorCode,
	}
	if n.Charged {
		e.Charged = 1
	}
	return e
}

func told(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func lineOf(m *Moment) activity.Line {
	l := activity.Line{
		Tenant: m.Tenant, RunID: m.RunID, TS: m.Time.Unix(), Type: m.Type, Status: m.Status, Tool: m.Tool, ReqID: m.RequestID,
		LeaseID: m.LeaseID, AgentID: m.AgentID, Message: m.Message, Data: m.Data, Source: "server",
		Executed: m.Type == "tool_result" && m.Status == string(govern.Executed) && m.Step == 0,
	}
	if m.Step > 0 {
		l.Step = strconv.AppendInt(nil, int64(m.Step), 10)
	}
	if m.Duration > 0 {
		ms := m.Duration.Milliseconds()
		l.DurationMS = &ms
	}
	return l
}
