package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

const (
	maxOffset = 10_000
	maxMoment = 64 << 10 // bytes of an event that is posted
)

// listEvents answers GET /v1/events: what happened to locks and leases, and the decisions and switches of the audit,
// newest first. An agent's key sees what is its own.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request, by *Key) {
	q := parametersOf(r)
	limit, offset := q.number("limit", 50, 1, 500), q.number("offset", 0, 0, maxOffset)
	if q.refuse(w) {
		return
	}
	if s.Book == nil || s.Audit == nil {
		missing(w, "events")
		return
	}
	events := s.Book.Events(by.Namespace, by.AgentID, limit+offset)
	query := audit.Query{Tenant: by.Namespace, Agent: by.AgentID, Limit: limit + offset, Changes: by.Role == Operator, Calls: true}
	rows, err := s.Audit(r.Context(), query)
	if err != nil {
		s.broken(w, "list of events", err)
		return
	}
	for _, row := range rows {
		if e, ok := eventOfRow(&row); ok {
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b activity.Event) int { return cmp.Compare(b.TS, a.TS) })
	list := []activity.Event{}
	for i := offset; i < min(len(events), offset+limit); i++ {
		e := events[i]
		e.Tenant, e.Owner = "", ""
		list = append(list, e)
	}
	answer(w, http.StatusOK, list)
}

// eventOfRow is what the audit tells of governance.
func eventOfRow(row *audit.Row) (e activity.Event, ok bool) {
	if c := row.Change; c != nil {
		known := c.What == "agent_disabled" || c.What == "agent_enabled"
		e = activity.Event{TS: c.Time.Unix(), Type: c.What, AgentID: c.Entity, Reason: c.Why}
		if c.What == "anomaly" {
			e.Risk, known = "high", true
		}
		return e, known
	}
	r := row.Record
	return activity.Event{
		TS: r.Time.Unix(), Type: "tool_" + r.Decision, ReqID: r.RequestID, AgentID: r.AgentID, Tool: r.Tool, RunID: r.RunID,
		Reason: r.PolicyReason, Risk: r.RiskLevel, SpendUSD: json.Number(r.SpendUSD),
	}, r.Decision != ""
}

// stored marks the errors of a store that takes nothing now.
func stored(err error) error {
	if errors.Is(err, dedup.ErrUnavailable) {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return err
}

// postEvent answers POST /v1/events: a line of a run's timeline, durable when it is answered.
func (s *Server) postEvent(w http.ResponseWriter, r *http.Request, by *Key) {
	most := int64(maxMoment)
	if by.Role != Agent {
		most = maxTold
	}
	f := fieldsOf(w, r, most)
	if f == nil {
		return
	}
	if s.Book == nil {
		missing(w, "timelines")
		return
	}
	if by.Role != Agent && f.has("events") {
		s.hearEvents(w, f, by)
		return
	}
	l := f.line()
	if f.refuse(w) || !s.asItself(w, by, l.AgentID) {
		return
	}
	l.Tenant, l.AgentID = by.Namespace, or(l.AgentID, by.AgentID)
	id, err := s.Book.Post(l)
	if err != nil {
		s.broken(w, "event of a run", stored(err))
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "event_id": id, "run_id": l.RunID})
}

// line reads an event that a caller posts. What it has beyond these members is ignored.
func (f *fields) line() activity.Line {
	l := activity.Line{RunID: f.nonBlank("run_id"), Type: f.nonBlank("type"), TS: time.Now().Unix(), Source: "client"}
	for name, to := range map[string]*string{"status": &l.Status, "tool": &l.Tool, "req_id": &l.ReqID, "lease_id": &l.LeaseID, "agent_id": &l.AgentID} {
		if f.has(name) {
			*to = f.anyText(name, maxName)
		}
	}
	if f.has("message") {
		l.Message = f.anyText("message", maxMoment)
	}
	if f.has("ts") {
		l.TS = int64(f.bounded("ts", 0, 1<<31-1))
	}
	if f.has("duration_ms") {
		ms := int64(f.bounded("duration_ms", 0, 1<<31-1))
		l.DurationMS = &ms
	}
	if f.has("step") {
		l.Step = f.raw["step"]
		if l.Step[0] != '"' && !isNumber(l.Step) {
			f.bad("step", "string_type", "Input should be a string or a number", nil)
		}
	}
	l.Data = f.object("data", maxMoment)
	return l
}

// nonBlank reads text that is more than white space.
func (f *fields) nonBlank(name string) string {
	text := f.text(name, maxName)
	if text != "" && blank(text) {
		f.bad(name, "string_too_short", "String should have at least 1 character", nil)
	}
	return text
}

func blank(text string) bool {
	for _, r := range text {
		if r != ' ' && r != '\t' && r != '\n' && r != '\r' {
			return false
		}
	}
	return true
}

// shownLine is a line of a timeline with all its members.
type shownLine struct {
	ID         uint64          `json:"id"`
	RunID      string          `json:"run_id"`
	TS         int64           `json:"ts"`
	Type       string          `json:"type"`
	Status     *string         `json:"status"`
	DurationMS *int64          `json:"duration_ms"`
	Step       json.RawMessage `json:"step"`
	Tool       *string         `json:"tool"`
	ReqID      *string         `json:"req_id"`
	LeaseID    *string         `json:"lease_id"`
	AgentID    *string         `json:"agent_id"`
	Message    *string         `json:"message"`
	Data       json.RawMessage `json:"data"`
	Source     string          `json:"source"`
}

func shownLineOf(l *activity.Line) shownLine {
	return shownLine{
		l.ID, l.RunID, l.TS, l.Type, word(l.Status), l.DurationMS, l.Step, word(l.Tool), word(l.ReqID),
		word(l.LeaseID), word(l.AgentID), word(l.Message), l.Data, l.Source,
	}
}

// getTimeline answers GET /v1/runs/{id}. A run that nobody knows has no events.
func (s *Server) getTimeline(w http.ResponseWriter, r *http.Request, by *Key) {
	q := parametersOf(r)
	limit, offset := q.number("limit", 200, 1, 2000), q.number("offset", 0, 0, 1<<30)
	if q.refuse(w) {
		return
	}
	if s.Book == nil {
		missing(w, "timelines")
		return
	}
	lines := s.Book.Timeline(by.Namespace, by.AgentID, r.PathValue("id"))
	shown := []shownLine{}
	for i := offset; i < min(len(lines), offset+limit); i++ {
		shown = append(shown, shownLineOf(lines[i]))
	}
	answer(w, http.StatusOK, struct {
		RunID  string      `json:"run_id"`
		Total  int         `json:"total"`
		Events []shownLine `json:"events"`
	}{r.PathValue("id"), len(lines), shown})
}

type shownRun struct {
	RunID      string  `json:"run_id"`
	LastTS     int64   `json:"last_ts"`
	LastType   string  `json:"last_type"`
	LastStatus *string `json:"last_status"`
	Events     int     `json:"events_count"`
}

// listTimelines answers GET /v1/runs.
func (s *Server) listTimelines(w http.ResponseWriter, r *http.Request, by *Key) {
	q := parametersOf(r)
	limit, offset := q.number("limit", 50, 1, 500), q.number("offset", 0, 0, 1<<30)
	if q.refuse(w) {
		return
	}
	if s.Book == nil {
		missing(w, "timelines")
		return
	}
	runs := s.Book.Runs(by.Namespace, by.AgentID, q.values.Get("q"))
	items := []shownRun{}
	for i := offset; i < min(len(runs), offset+limit); i++ {
		u := runs[i]
		items = append(items, shownRun{u.ID, u.Last.TS, u.Last.Type, word(u.Last.Status), u.Lines})
	}
	answer(w, http.StatusOK, struct {
		Total int        `json:"total"`
		Items []shownRun `json:"items"`
	}{len(runs), items})
}
