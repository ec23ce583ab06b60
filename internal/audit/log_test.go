package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// kept is a writer that decodes what it is given, at once, as the contract of Write demands.
type kept struct {
	mu      sync.Mutex
	records []Record
}

func (k *kept) write(_ context.Context, fact []byte) error {
	r, err := DecodeRecord(fact)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.records = append(k.records, r)
	return nil
}

func (k *kept) sum() (requests int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.records {
		requests += max(r.Count, 1)
	}
	return requests
}

// all is a copy of what was written so far.
func (k *kept) all() []Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.records)
}

func fatal(t *testing.T) func(error) { return func(err error) { t.Error("record lost:", err) } }

func refusal(agent, tool, reason string) *Record {
	return &Record{Time: time.Now(), AgentID: agent, Tool: tool, Decision: "blocked", PolicyReason: reason, RequestID: "r"}
}

func TestRefusalsShareARecordAboveAHundredASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		l := NewLog(k.write, fatal(t))
		for range 1000 {
			l.Append(refusal("loop", "charge", "tool_explicitly_blocked"))
		}
		l.Append(refusal("calm", "charge", "tool_explicitly_blocked"))
		for range 500 { // what is no refusal never shares
			l.Append(&Record{AgentID: "loop", Decision: "dedup"})
		}
		if len(k.all()) != 100+1+500 {
			t.Fatalf("%d records before the window's end, want 601", len(k.all()))
		}
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		last := k.all()[len(k.all())-1]
		if last.Count != 900 || last.AgentID != "loop" || last.Tool != "charge" || last.PolicyReason != "tool_explicitly_blocked" {
			t.Errorf("shared record is %+v", last)
		}
		if k.sum() != 1501 {
			t.Errorf("records stand for %d requests, want 1501", k.sum())
		}
	})
}

func TestSharedRecordKeepsOnlyWhatIsCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		l := NewLog(k.write, fatal(t))
		for i := range 110 {
			r := refusal("loop", fmt.Sprintf("tool_%d", i), "tool_not_registered")
			r.Route, r.Key = "reverse", fmt.Sprint(i)
			l.Append(r)
		}
		l.Append(refusal("loop", "x", "agent_disabled"))
		l.Close(t.Context())
		last := k.all()[len(k.all())-1]
		if last.Count != 11 || last.Tool != "" || last.PolicyReason != "several" || last.Key != "" || last.AgentID != "loop" {
			t.Errorf("shared record is %+v", last)
		}
	})
}

func TestWindowEndsWithoutWaitingForTheTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		l := NewLog(k.write, fatal(t))
		for second := range 3 {
			for range 150 {
				l.Append(refusal("loop", "a", "b"))
			}
			if got := len(k.all()); got != second*101+100 {
				t.Fatalf("second %d: %d records", second, got)
			}
			time.Sleep(window)
			synctest.Wait()
		}
		if k.sum() != 450 {
			t.Errorf("records stand for %d requests, want 450", k.sum())
		}
	})
}

func TestConcurrentRefusalsAreAllCounted(t *testing.T) {
	var k kept
	l := NewLog(k.write, fatal(t))
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for range 500 {
				l.Append(refusal(fmt.Sprint("agent", i%3), "a", "b"))
			}
		})
	}
	group.Wait()
	l.Close(t.Context())
	if k.sum() != 8000 {
		t.Errorf("records stand for %d requests, want 8000", k.sum())
	}
	if len(k.all()) > 8000/10 {
		t.Errorf("%d records for 8000 refusals", len(k.all()))
	}
	l.Append(refusal("agent1", "late", "b"))
	if last := k.all()[len(k.all())-1]; last.Tool != "late" {
		t.Errorf("a record after Close is not written at once; last is %+v", last)
	}
}

func TestFailedWriteIsTold(t *testing.T) {
	full := errors.New("disk full")
	var told []error
	l := NewLog(func(context.Context, []byte) error { return full }, func(err error) { told = append(told, err) })
	l.Append(refusal("a", "b", "c"))
	l.Append(&Record{Decision: "dedup"})
	if len(told) != 2 || !errors.Is(told[0], full) {
		t.Errorf("told %v, want the error twice", told)
	}
}
