package activity

import (
	"errors"
	"testing"
)

// TestHear: what is told twice is taken once, also after a restart and after the facts before a checkpoint have gone; what
// could not be written was not told.
func TestHear(t *testing.T) {
	var facts [][]byte
	var broken error
	write := func(fact []byte, _ bool) error {
		if broken == nil {
			facts = append(facts, append([]byte(nil), fact...))
		}
		return broken
	}
	b := New(write)
	item := func(seq uint64) Item {
		return Item{Seq: seq, Event: Event{Tenant: "t", Type: "tool_executed", TS: int64(seq)}, Line: &Line{Tenant: "t", RunID: "r", TS: int64(seq)}}
	}
	hear := func(b *Book, want uint64, seqs ...uint64) {
		t.Helper()
		var items []Item
		for _, s := range seqs {
			items = append(items, item(s))
		}
		if got, err := b.Hear("t", "journal", items); err != nil || got != want {
			t.Errorf("told up to %d, %v; wanted %d", got, err, want)
		}
	}
	hear(b, 5, 3, 5)
	hear(b, 5, 3, 5)
	hear(b, 9, 5, 9)
	broken = errors.New("the disk is full")
	if _, err := b.Hear("t", "journal", []Item{item(11)}); !errors.Is(err, broken) {
		t.Error(err)
	}
	broken = nil
	again := New(write)
	for _, f := range facts {
		if err := again.Fold(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string]*Book{"before": b, "folded": again} {
		if n, lines := len(b.Events("t", "", 100)), len(b.Timeline("t", "", "r")); n != 3 || lines != 3 {
			t.Errorf("%s: %d events and %d lines, wanted 3", name, n, lines)
		}
	}
	carried := New(write)
	again.Carry(func(f []byte) {
		if err := carried.Fold(f); err != nil {
			t.Error(err)
		}
	})
	hear(carried, 11, 9, 11)
	if n := len(carried.Events("t", "", 100)); n != 1 {
		t.Errorf("%d events after a checkpoint, wanted the new one", n)
	}
	if got, _ := carried.Hear("other", "journal", []Item{item(1)}); got != 1 {
		t.Error("tenants share a cursor")
	}
}
