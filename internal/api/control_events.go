package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

const (
	maxTold      = 4 << 20 // bytes of what a sidecar tells at once
	maxToldItems = 500
)

// hearEvents answers a sidecar's POST /v1/events {"source","events":[…]}: records of its audit in the order of its
// journal. Told twice they are taken once. It answers how far the sidecar has told.
func (s *Server) hearEvents(w http.ResponseWriter, f *fields, by *Key) {
	source := f.text("source", maxName)
	var records []json.RawMessage
	if json.Unmarshal(f.raw["events"], &records) != nil || len(records) > maxToldItems {
		f.bad("events", "list_type", "Input should be a list of at most 500 records", nil)
	}
	items := make([]activity.Item, 0, len(records))
	last := uint64(0)
	for i, raw := range records {
		var r audit.Record
		if json.Unmarshal(raw, &r) != nil || r.Seq <= last || r.Decision == "" {
			f.within("events", nil).bad(i, "value_error", "Value error, no audit record, or not in order", nil)
			break
		}
		last = r.Seq
		items = append(items, itemOf(&r, by, raw))
	}
	if f.refuse(w) {
		return
	}
	told, err := s.Book.Hear(by.Namespace, source, items)
	if err != nil {
		s.broken(w, "events of a sidecar", stored(err))
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "event_id": told, "run_id": ""})
}

func itemOf(r *audit.Record, by *Key, raw json.RawMessage) activity.Item {
	item := activity.Item{Seq: r.Seq, Event: activity.Event{
		Tenant: by.Namespace, Owner: r.AgentID, TS: r.Time.Unix(), Type: "tool_" + r.Decision, ReqID: r.RequestID, AgentID: r.AgentID, Tool: r.Tool,
		RunID: r.RunID, Reason: r.PolicyReason, Risk: r.RiskLevel,
	}}
	if json.Valid([]byte(r.SpendUSD)) {
		item.Event.SpendUSD = json.Number(r.SpendUSD)
	}
	if r.RunID != "" {
		ms := int64(time.Duration(r.DurationMS*float64(time.Millisecond)) / time.Millisecond)
		item.Line = &activity.Line{
			Tenant: by.Namespace, RunID: r.RunID, TS: r.Time.Unix(), Type: "tool_result", Status: r.Decision, DurationMS: &ms, Tool: r.Tool,
			ReqID: r.RequestID, AgentID: r.AgentID, Message: r.PolicyReason, Data: raw, Source: "sidecar",
		}
	}
	return item
}
