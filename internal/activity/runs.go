package activity

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Line is one entry of a run's timeline.
type Line struct {
	Tenant string `json:"tenant,omitempty"`

	ID         uint64          `json:"id"`
	RunID      string          `json:"run_id"`
	TS         int64           `json:"ts"` // Unix, seconds
	Type       string          `json:"type"`
	Status     string          `json:"status,omitempty"`
	DurationMS *int64          `json:"duration_ms,omitempty"`
	Step       json.RawMessage `json:"step,omitempty"`
	Tool       string          `json:"tool,omitempty"`
	ReqID      string          `json:"req_id,omitempty"`
	LeaseID    string          `json:"lease_id,omitempty"`
	AgentID    string          `json:"agent_id,omitempty"`
	Message    string          `json:"message,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Source     string          `json:"source"` // server, or client for what a caller posted
	Executed   bool            `json:"executed,omitempty"`
}

func (l *Line) size() int {
	return 200 + len(l.RunID) + len(l.Type) + len(l.Status) + len(l.Step) + len(l.Tool) + len(l.Message) + len(l.Data)
}

type runID struct{ tenant, id string }

type run struct{ lines []*Line } // oldest first

// Tell adds a line that nobody waits for. One of a call that was executed counts as a call of its agent.
func (b *Book) Tell(l Line, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.Executed {
		b.count(l.Tenant, l.AgentID, at, Counts{Calls: 1})
	}
	l.ID = b.next
	b.next++
	b.note(fact{Line: &l}, at)
	b.keepLine(&l)
}

// Post adds a caller's line once it is durable, and returns its id.
func (b *Book) Post(l Line) (uint64, error) {
	b.mu.Lock()
	l.ID = b.next
	b.next++
	b.mu.Unlock()
	if err := b.write(encoded(fact{Line: &l}), true); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keepLine(&l)
	return l.ID, nil
}

// keepLine takes a line in and, where there are too many, lets the oldest go. The caller holds mu.
func (b *Book) keepLine(l *Line) {
	id := runID{l.Tenant, l.RunID}
	r := b.runs[id]
	if r == nil {
		r = new(run)
		b.runs[id] = r
	}
	r.lines = append(r.lines, l)
	b.order = append(b.order, id)
	b.text += l.size()
	for len(b.order) > maxLines || b.text > maxText && len(b.order) > 1 {
		oldest := b.runs[b.order[0]]
		b.text -= oldest.lines[0].size()
		if oldest.lines = oldest.lines[1:]; len(oldest.lines) == 0 {
			delete(b.runs, b.order[0])
		}
		b.order = b.order[1:]
	}
}

// Timeline are the run's lines, oldest first; with an agent, that agent's.
func (b *Book) Timeline(tenant, agent, id string) []*Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := b.runs[runID{tenant, id}].of(agent)
	slices.SortStableFunc(lines, func(x, y *Line) int { return cmp.Compare(x.TS, y.TS) })
	return lines
}

func (r *run) of(agent string) (lines []*Line) {
	if r == nil {
		return nil
	}
	for _, l := range r.lines {
		if agent == "" || l.AgentID == agent {
			lines = append(lines, l)
		}
	}
	return lines
}

// Run is one run as the list of runs shows it.
type Run struct {
	ID    string
	Last  *Line
	Lines int
}

// Runs are the tenant's whose ids begin so, the latest first; with an agent, those in which it has lines.
func (b *Book) Runs(tenant, agent, prefix string) (list []Run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, r := range b.runs {
		if id.tenant != tenant || !strings.HasPrefix(id.id, prefix) {
			continue
		}
		if lines := r.of(agent); len(lines) > 0 {
			last := slices.MaxFunc(lines, func(x, y *Line) int { return cmp.Or(cmp.Compare(x.TS, y.TS), cmp.Compare(x.ID, y.ID)) })
			list = append(list, Run{id.id, last, len(lines)})
		}
	}
	slices.SortFunc(list, func(x, y Run) int {
		return cmp.Or(cmp.Compare(y.Last.TS, x.Last.TS), cmp.Compare(y.Last.ID, x.Last.ID), cmp.Compare(x.ID, y.ID))
	})
	return list
}
