package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const (
	logsKept = 7 * day // how far the logs of an agent reach back
	maxTop   = 10      // tools in an agent's metrics
)

// getAgent answers GET /v1/agents/{id}. An agent that nobody has seen is enabled.
func (s *Server) getAgent(w http.ResponseWriter, r *http.Request, by *Key) {
	id := r.PathValue("id")
	if !s.asItself(w, by, id) {
		return
	}
	if s.Switches == nil {
		missing(w, "agents")
		return
	}
	state := stateOf(Switch{AgentID: id})
	for _, sw := range s.Switches.Switches() {
		if sw.AgentID == id || sw.AgentID == "*" && sw.Off && state.IsEnabled {
			sw.AgentID = id
			if own := stateOf(sw); !own.IsEnabled {
				state = own
			}
		}
	}
	answer(w, http.StatusOK, state)
}

// logLine is one decision in an agent's log.
type logLine struct {
	TS           int64       `json:"ts"` // Unix, seconds
	AgentID      string      `json:"agent_id"`
	Tool         string      `json:"tool"`
	Allowed      bool        `json:"allowed"`
	Decision     string      `json:"decision"`
	PolicyReason string      `json:"policy_reason"`
	RiskLevel    string      `json:"risk_level"`
	ArgsHash     string      `json:"args_hash,omitempty"`
	SpendUSD     json.Number `json:"spend_usd,omitempty"`
	RunID        string      `json:"run_id,omitempty"`
	RequestID    string      `json:"request_id,omitempty"`
	Outcome      string      `json:"outcome,omitempty"`
	Count        int         `json:"count,omitempty"` // refusals that share this line
}

func logLineOf(r *audit.Record) logLine {
	return logLine{
		TS: r.Time.Unix(), AgentID: r.AgentID, Tool: r.Tool, Allowed: r.Decision != "blocked", Decision: r.Decision,
		PolicyReason: r.PolicyReason, RiskLevel: r.RiskLevel, ArgsHash: r.ArgsHash, SpendUSD: json.Number(r.SpendUSD),
		RunID: r.RunID, RequestID: r.RequestID, Outcome: r.Outcome, Count: r.Count,
	}
}

// agentLogs answers GET /v1/agents/{id}/logs: the newest decisions first.
func (s *Server) agentLogs(w http.ResponseWriter, r *http.Request, by *Key) {
	id := r.PathValue("id")
	if !s.asItself(w, by, id) {
		return
	}
	q := parametersOf(r)
	limit := q.number("limit", 100, 1, 500)
	if q.refuse(w) {
		return
	}
	if s.Audit == nil {
		missing(w, "audit records")
		return
	}
	rows, err := s.Audit(r.Context(), audit.Query{Agent: id, Tenant: by.Namespace, From: time.Now().Add(-logsKept), Limit: limit, Calls: true})
	if err != nil {
		s.broken(w, "logs of an agent", err)
		return
	}
	lines := []logLine{}
	for _, row := range rows {
		lines = append(lines, logLineOf(row.Record))
	}
	answer(w, http.StatusOK, lines)
}

// tally sums up what an agent did. Calls that reached their tool count as actions, whatever came of them.
type tally struct {
	actions, blocked int64
	spend            tool.Money
	tools            map[string]int64
}

func (t *tally) add(r *audit.Record) {
	switch r.Decision {
	case "blocked":
		t.blocked += int64(max(r.Count, 1))
	case "executed":
		t.actions++
		t.tools[r.Tool]++
		if m, err := tool.ParseMoney(r.SpendUSD); err == nil {
			t.spend += m
		}
	}
}

type toolCount struct {
	Tool  string `json:"tool"`
	Count int64  `json:"count"`
}

func (t *tally) top() []toolCount {
	list := []toolCount{}
	for name, n := range t.tools {
		list = append(list, toolCount{name, n})
	}
	slices.SortFunc(list, func(a, b toolCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Tool, b.Tool)) })
	return list[:min(len(list), maxTop)]
}

type agentMetricsAnswer struct {
	AgentID        string      `json:"agent_id"`
	Period         string      `json:"period"`
	TotalActions   int64       `json:"total_actions"`
	BlockedActions int64       `json:"blocked_actions"`
	TotalSpendUSD  json.Number `json:"total_spend_usd"`
	TopTools       []toolCount `json:"top_tools"`
}

var windows = map[string]time.Duration{"hour": time.Hour, "day": day, "week": 7 * day}

// agentMetrics answers GET /v1/agents/{id}/metrics.
func (s *Server) agentMetrics(w http.ResponseWriter, r *http.Request, by *Key) {
	id := r.PathValue("id")
	if !s.asItself(w, by, id) {
		return
	}
	q := parametersOf(r)
	period := q.choice("period", "day", "hour", "day", "week")
	if q.refuse(w) {
		return
	}
	if s.Walk == nil {
		missing(w, "audit records")
		return
	}
	sum := tally{tools: map[string]int64{}}
	query := audit.Query{Agent: id, Tenant: by.Namespace, From: time.Now().Add(-windows[period]), Calls: true}
	if err := s.Walk(r.Context(), query, sum.visit(r.Context())); err != nil {
		s.broken(w, "metrics of an agent", err)
		return
	}
	answer(w, http.StatusOK, agentMetricsAnswer{id, period, sum.actions, sum.blocked, json.Number(sum.spend.String()), sum.top()})
}

// visit adds rows until the one who asked has gone.
func (t *tally) visit(ctx context.Context) func(audit.Row) error {
	return func(row audit.Row) error {
		t.add(row.Record)
		return ctx.Err()
	}
}

// parameters are those of a query string. Readers note what is wrong; refuse says it.
type parameters struct {
	fields
	values url.Values
}

func parametersOf(r *http.Request) *parameters {
	return &parameters{fields{at: []any{"query"}, faults: new([]fault)}, r.URL.Query()}
}

// number reads a whole number within bounds.
func (p *parameters) number(name string, usual, least, most int) int {
	if !p.values.Has(name) {
		return usual
	}
	text := p.values.Get(name)
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		p.bad(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer", encode(text))
	case n < least:
		p.bad(name, "greater_than_equal", "Input should be greater than or equal to "+strconv.Itoa(least), encode(text))
	case n > most:
		p.bad(name, "less_than_equal", "Input should be less than or equal to "+strconv.Itoa(most), encode(text))
	}
	return n
}

// choice reads one of some words.
func (p *parameters) choice(name, usual string, words ...string) string {
	text := p.values.Get(name)
	if !p.values.Has(name) {
		return usual
	}
	if !slices.Contains(words, text) {
		p.bad(name, "enum", "Input is none of the words that are known here", encode(text))
	}
	return text
}
