package store

import (
	"context"
	"fmt"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Book is what callers did: counts, events and the timelines of runs.
func (e *Embedded) Book() *activity.Book { return e.book }

// noteActivity writes one of the book's facts.
func (e *Embedded) noteActivity(fact []byte, wait bool) error {
	entry := journal.Entry{Kind: kindActivity, Fact: fact}
	if !wait {
		return e.j.Note(entry)
	}
	commit, err := e.j.Append(entry)
	if err == nil {
		err = commit.Wait(context.Background())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return nil
}
