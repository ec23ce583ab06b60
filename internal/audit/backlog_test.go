package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// moody is a store that takes entries or does not.
type moody struct {
	kept
	full    atomic.Bool
	changes []Change
}

var errFull = errors.New("disk full")

func (m *moody) write(ctx context.Context, record []byte) error {
	if m.full.Load() {
		return errFull
	}
	return m.kept.write(ctx, record)
}

func (m *moody) change(c *Change) error {
	m.changes = append(m.changes, *c)
	return nil
}

func newMoody() (*moody, *Log, *int) {
	m, failed := &moody{}, new(int)
	m.full.Store(true)
	l := NewLog(m.write, func(error) { *failed++ })
	l.Change = m.change
	return m, l, failed
}

func read(i int) *Record {
	return &Record{Time: time.Now(), AgentID: "a", Tool: "read", Decision: "executed", RequestID: fmt.Sprint(i)}
}

func TestRecordsWaitForAFullStoreAndComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, l, failed := newMoody()
		var again []int64
		l.Again = func(lost int64) { again = append(again, lost) }
		for i := range 204 {
			l.Append(read(i))
		}
		if *failed != 204 || len(m.all()) != 0 || !l.Healthy() {
			t.Fatalf("%d told, %d written, healthy %v", *failed, len(m.all()), l.Healthy())
		}
		time.Sleep(3 * time.Second) // of the bubble's clock: the store is still full
		synctest.Wait()
		m.full.Store(false)
		l.Append(read(204)) // not before those that wait
		time.Sleep(time.Second)
		synctest.Wait()
		l.Append(read(205))
		got := m.all()
		if len(got) != 206 || len(m.changes) != 0 {
			t.Fatalf("%d records, %d changes", len(got), len(m.changes))
		}
		for i, r := range got {
			if r.RequestID != fmt.Sprint(i) {
				t.Fatalf("record %d is of request %s", i, r.RequestID)
			}
		}
		if *failed != 205 || fmt.Sprint(again) != "[0]" {
			t.Errorf("told %d times, want 205; %v times that they are written again", *failed, again)
		}
	})
}

func TestOverflowIsToldInTheTrail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, l, _ := newMoody()
		var again []int64
		l.Again = func(lost int64) { again = append(again, lost) }
		for i := range backlogRecords {
			if !l.Healthy() {
				t.Fatalf("not healthy after %d records", i)
			}
			l.Append(read(i))
		}
		if l.Healthy() {
			t.Fatal("healthy, and the next record would be lost")
		}
		for range 10 {
			l.Append(read(-1))
			time.Sleep(10 * time.Millisecond)
		}
		m.full.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(m.all()) != backlogRecords || len(m.changes) != 1 || !l.Healthy() || fmt.Sprint(again) != "[10]" {
			t.Fatalf("%d records, changes %+v, healthy %v, written again %v", len(m.all()), m.changes, l.Healthy(), again)
		}
		c := m.changes[0]
		if c.What != "audit_records_lost" || c.Who != "sidecar" || !strings.HasPrefix(c.Detail, "the records of 10 requests") {
			t.Errorf("the trail says %+v", c)
		}
		if lost := l.Close(t.Context()); lost != 0 || len(m.changes) != 1 {
			t.Errorf("a loss was told twice: %d, %+v", lost, m.changes)
		}
	})
}

func TestBytesOverflowToo(t *testing.T) {
	_, l, _ := newMoody()
	r := read(0)
	r.Rule = strings.Repeat("x", 1000)
	n := 0
	for ; l.Healthy() && n < backlogRecords; n++ {
		l.Append(r)
	}
	if n < backlogRecords/2 || n == backlogRecords || l.backlog.bytes > backlogBytes {
		t.Errorf("%d records of %d bytes wait", n, l.backlog.bytes)
	}
	l.Close(t.Context())
}

func TestCloseSaysWhatIsLost(t *testing.T) {
	m, l, _ := newMoody()
	for i := range 5 {
		l.Append(read(i))
	}
	if lost := l.Close(t.Context()); lost != 5 {
		t.Errorf("%d lost, want 5", lost)
	}
	if len(m.changes) != 1 || !strings.HasPrefix(m.changes[0].Detail, "the records of 5 requests") {
		t.Errorf("the trail says %+v", m.changes)
	}
	m.full.Store(false)
	m.changes = nil
	_, l, _ = newMoody()
	l.write = m.write
	m.full.Store(true)
	l.Append(read(1))
	m.full.Store(false)
	if lost := l.Close(t.Context()); lost != 0 || len(m.all()) != 1 {
		t.Errorf("%d lost, %d written", lost, len(m.all()))
	}
}
