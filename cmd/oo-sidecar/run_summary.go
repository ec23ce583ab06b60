package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
)

// tally counts what a child's calls came to.
type tally struct {
	executed, replayed, refused, unknown, unreached, tunnels int
	reasons                                                  map[string]int  // of refusals
	tools                                                    map[string]bool // with unknown outcomes
}

// tallied is a line of the audit, as far as the tally reads it.
type tallied struct {
	Seq      uint64 `json:"seq"`
	Tool     string `json:"tool"`
	Decision string `json:"decision"`
	Reason   string `json:"policy_reason"`
	Outcome  string `json:"outcome"`
	RunID    string `json:"run_id"`
	Method   string `json:"method"`
	Count    int    `json:"count"`
}

func (t *tally) add(r *tallied) {
	n := max(r.Count, 1)
	switch {
	case r.Reason == "probe":
	case r.Method == http.MethodConnect && r.Decision == "executed":
		t.tunnels += n
	case r.Decision == "executed" && r.Outcome == "unknown":
		t.unknown += n
		t.tools[r.Tool] = true
	case r.Decision == "executed" && r.Outcome == "not_sent":
		t.unreached += n
	case r.Decision == "executed":
		t.executed += n
	case r.Decision == "dedup" && (r.Outcome == "done" || r.Outcome == "failed"):
		t.replayed += n
	default:
		t.refused += n
		t.reasons[r.Reason] += n
	}
}

// none says that the child's calls, if it made any, went another way.
func (t *tally) none() bool {
	return t.executed+t.replayed+t.refused+t.unknown+t.unreached+t.tunnels == 0
}

// summary says what was executed, replayed, refused and left unknown since began.
func (h *host) summary(ctx context.Context, began time.Time) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	t := &tally{reasons: map[string]int{}, tools: map[string]bool{}}
	err := h.rows(ctx, began, t.add)
	var st api.Status
	if err == nil {
		err = h.client.call(ctx, http.MethodGet, "/v1/status", nil, &st)
	}
	if err != nil {
		return "what was executed cannot be said now: " + err.Error()
	}
	return t.String() + h.leftover(t, st.Running)
}

// rows goes through the audit of this child: by its run id, or where the sidecar has no runs by its agent.
func (h *host) rows(ctx context.Context, began time.Time, add func(*tallied)) error {
	const page = 1000
	var after uint64
	for {
		q := url.Values{"agent": {h.agent}, "from": {began.UTC().Format(time.RFC3339Nano)}, "order": {"oldest"},
			"after": {fmt.Sprint(after)}, "limit": {fmt.Sprint(page)}}
		var rows []tallied
		if err := h.client.call(ctx, http.MethodGet, "/v1/audit?"+q.Encode(), nil, &rows); err != nil {
			return err
		}
		for i := range rows {
			after = rows[i].Seq
			if !h.started || rows[i].RunID == h.user {
				add(&rows[i])
			}
		}
		if len(rows) < page {
			return nil
		}
	}
}

func (t *tally) String() string {
	text := fmt.Sprintf("executed %d, replayed %d, refused %d", t.executed, t.replayed, t.refused)
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(t.reasons)) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, t.reasons[reason]))
	}
	if reasons != nil {
		text += " (" + strings.Join(reasons, ", ") + ")"
	}
	text += fmt.Sprintf(", left unknown %d", t.unknown)
	if t.unreached > 0 {
		text += fmt.Sprintf(", not reached %d", t.unreached)
	}
	if t.tunnels > 0 {
		text += fmt.Sprintf(", opaque tunnels %d", t.tunnels)
	}
	return printable(text)
}

// leftover says what there is still to do.
func (h *host) leftover(t *tally, running int64) string {
	text := ""
	if running == 0 && t.none() {
		text = "; no call came through the sidecar: where one should have, oo-sidecar doctor -- COMMAND says why it did not"
	}
	if running > 0 {
		text += fmt.Sprintf("; %d still running", running)
	}
	if t.unknown > 0 {
		text += fmt.Sprintf("; of %s nobody knows whether they ran: oo-sidecar unknown ls", printable(strings.Join(slices.Sorted(maps.Keys(t.tools)), ", ")))
		if h.started {
			text += ", with oo-sidecar serve running"
		}
	}
	return text
}
