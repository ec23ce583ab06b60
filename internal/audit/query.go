package audit

import (
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Query selects rows of the audit. The zero Query selects every record.
type Query struct {
	Agent, Tool, Decision string    // equal to; empty: any
	Tenant                string    // the namespace of the records; empty: any
	From, To              time.Time // of the request's arrival: From included, To not; zero: no bound
	After                 uint64    // only above this sequence number
	Limit                 int       // at most so many; 0: all
	OldestFirst           bool      // the order, and with Limit which end is kept
	Calls                 bool      // only records of calls, none of requests that the api listener refused
	Changes               bool      // operators' changes too: those of the agent or tool that is asked for
}

// Row is one line of the audit: a record or a change.
type Row struct {
	Record *Record
	Change *Change
}

// Seq is the row's place in the journal.
func (r *Row) Seq() uint64 {
	if r.Change != nil {
		return r.Change.Seq
	}
	return r.Record.Seq
}

// AppendExport appends the row as `audit export` writes it, without a line's end.
func (r *Row) AppendExport(dst []byte) []byte {
	if r.Change != nil {
		return r.Change.AppendExport(dst)
	}
	return r.Record.AppendExport(dst)
}

// Entries is what a journal yields.
type Entries = iter.Seq2[journal.Stored, error]

// Walk calls visit for every row that the query selects, oldest first, whatever its order; Limit is not regarded.
// It ends with the first error of the journal or of visit.
func (q *Query) Walk(entries Entries, visit func(Row) error) error {
	for e, err := range entries {
		if err != nil {
			return err
		}
		row, ok := q.row(&e)
		if !ok {
			continue
		}
		if err := visit(row); err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends a walk that has found what it looked for.
var errEnough = errors.New("enough rows")

// Rows returns what the query selects, in its order.
func (q *Query) Rows(entries Entries) ([]Row, error) {
	var rows []Row
	err := q.Walk(entries, func(r Row) error {
		rows = append(rows, r)
		switch {
		case q.Limit <= 0 || len(rows) < q.Limit:
		case q.OldestFirst:
			return errEnough
		case len(rows) >= 2*q.Limit: // only the newest are wanted
			rows = append(rows[:0], rows[len(rows)-q.Limit:]...)
		}
		return nil
	})
	if err != nil && err != errEnough {
		return nil, err
	}
	if q.OldestFirst {
		return rows, nil
	}
	if q.Limit > 0 && len(rows) > q.Limit {
		rows = rows[len(rows)-q.Limit:]
	}
	slices.Reverse(rows)
	return rows, nil
}

func (q *Query) row(e *journal.Stored) (Row, bool) {
	if e.Seq <= q.After {
		return Row{}, false
	}
	switch e.Kind {
	case KindRecord:
		r, err := DecodeRecord(e.Fact)
		if err != nil { // its place in the chain is sound; what was written into it is not
			r = Record{Time: e.Time, Detail: err.Error()}
		}
		r.Seq = e.Seq
		return Row{Record: &r}, q.record(&r)
	case KindChange:
		if !q.Changes {
			return Row{}, false
		}
		c, err := DecodeChange(e.Fact)
		if err != nil {
			c = Change{Time: e.Time, Detail: err.Error()}
		}
		c.Seq = e.Seq
		return Row{Change: &c}, q.change(&c)
	}
	return Row{}, false
}

func (q *Query) record(r *Record) bool {
	if q.Calls && r.Route == "api" && r.Tool == "" {
		return false
	}
	return (q.Agent == "" || q.Agent == r.AgentID) && (q.Tool == "" || q.Tool == r.Tool) &&
		(q.Decision == "" || q.Decision == r.Decision) && (q.Tenant == "" || q.Tenant == r.Tenant) && q.within(r.Time)
}

func (q *Query) change(c *Change) bool {
	about := q.Agent == "" && q.Tool == "" || c.Entity == q.Agent || c.Entity == q.Tool
	return about && q.Decision == "" && q.within(c.Time)
}

func (q *Query) within(t time.Time) bool {
	return (q.From.IsZero() || !t.Before(q.From)) && (q.To.IsZero() || t.Before(q.To))
}
