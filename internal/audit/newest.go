package audit

import (
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Source is a journal that is read: an open one, or one that is read beside its owner.
type Source interface {
	// Entries yields entries from a sequence number on.
	Entries(from uint64) Entries
	// Since is a sequence number below which nothing is as new as a time.
	Since(time.Time) uint64
}

var (
	_ Source = (*journal.Journal)(nil)
	_ Source = (*journal.Reader)(nil)
)

// Find returns what the query selects, in its order, and reads no more of the journal than that takes: not what is
// older than From, nor, for the newest rows, what is older than them.
func (q *Query) Find(s Source) ([]Row, error) {
	first := q.first(s)
	if q.OldestFirst || q.Limit <= 0 {
		return q.Rows(s.Entries(first))
	}
	from := s.Since(time.Now()) // the newest segment
	for step := uint64(1 << 14); ; step *= 4 {
		from = max(from, first)
		rows, err := q.Rows(s.Entries(from))
		if err != nil || len(rows) >= q.Limit || from == first {
			return rows, err
		}
		from -= min(step, from)
	}
}

// first is where the query may begin: a record is never committed before its request arrived.
func (q *Query) first(s Source) uint64 {
	first := q.After + 1
	if !q.From.IsZero() {
		first = max(first, s.Since(q.From))
	}
	return first
}

// Each visits what the query selects, oldest first, and reads nothing that is older than From.
func (q *Query) Each(s Source, visit func(Row) error) error {
	return q.Walk(s.Entries(q.first(s)), visit)
}
