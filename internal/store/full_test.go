package store_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// logOf is the audit log as the program wires it.
func logOf(e *store.Embedded) *audit.Log {
	l := audit.NewLog(e.Record, nil)
	l.Change, l.Scarce = e.Change, e.Scarce
	return l
}

// counted is for how many requests the records stand, and how many records there are.
func counted(t *testing.T, e *store.Embedded) (requests, all int) {
	t.Helper()
	for _, list := range records(t, e) {
		for _, r := range list {
			requests, all = requests+max(r.Count, 1), all+1
		}
	}
	return requests, all
}

// TestRefusalsDoNotFillTheJournal: an agent that is refused a hundred times a second for half an hour, with the longest
// run ids there are, leaves almost all of a small journal to claims; and near its end even less is written of refusals.
func TestRefusalsDoNotFillTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, most = 100, 16 << 20
		e := open(t, store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir(), Durability: "process", MaxBytes: most}})
		l := logOf(e)
		loop := func(seconds int) {
			for range seconds {
				for range each {
					l.Append(&audit.Record{Time: time.Now(), AgentID: "loop", RunID: strings.Repeat("x", 7900), Tool: "POST:elsewhere.test",
						Decision: "blocked", PolicyReason: "tool_not_registered", Detail: strings.Repeat("y", 500), RequestID: "r"})
				}
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute) // what they share is written
			synctest.Wait()
		}
		loop(1800)
		if n := e.Journal().Status().Bytes; n > 2<<20 {
			t.Errorf("half an hour of refusals took %d bytes", n)
		}
		for i := 0; !e.Scarce(); i++ {
			if err := e.Append((&audit.Record{RequestID: fmt.Sprint("fill", i), Rule: strings.Repeat("z", 1000)}).Append(nil), true); err != nil {
				t.Fatalf("full before it said that space is short: %v", err)
			}
		}
		if e.Err() != nil {
			t.Fatal(e.Err())
		}
		time.Sleep(time.Second)
		_, before := counted(t, e)
		loop(600)
		if _, n := counted(t, e); n-before > 13 {
			t.Errorf("%d records of ten minutes of refusals where space is short", n-before)
		}
		for i := range 100 {
			c := storetest.NewClaim(fmt.Sprint("still", i))
			if _, err := e.Begin(t.Context(), c); err != nil {
				break // each holds back space for its answer
			} else if i == 5 {
				return
			}
		}
		t.Error("no claim is taken any more")
	})
}

// TestRecordsOfAFullStoreComeBack: what happened while the disk was full is in the audit afterwards, and what memory
// could not hold is counted there.
func TestRecordsOfAFullStoreComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		e, _, _ := openOn(t, d)
		l := logOf(e)
		d.set(syscall.ENOSPC)
		_ = e.Append((&audit.Record{RequestID: "finds it out"}).Append(nil), true)
		if err := e.Err(); err == nil || !strings.Contains(err.Error(), "free space in ") {
			t.Fatalf("a full disk is told as %v", err)
		}
		reads := 0
		for ; l.Healthy(); reads++ {
			l.Append(&audit.Record{Time: time.Now(), Tool: "read", Decision: "executed", RequestID: fmt.Sprint(reads)})
		}
		for range 7 {
			l.Append(&audit.Record{Time: time.Now(), Tool: "read", Decision: "executed", RequestID: "lost"})
		}
		d.set(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		l.Append(&audit.Record{Time: time.Now(), Tool: "read", Decision: "executed", RequestID: "after"})
		time.Sleep(time.Second)
		if requests, _ := counted(t, e); requests != reads+1 || reads < 1000 || !l.Healthy() {
			t.Errorf("%d records of %d requests, healthy %v", requests, reads+1, l.Healthy())
		}
		var told []string
		for st, err := range e.Journal().Entries(0) {
			if err != nil {
				t.Fatal(err)
			}
			if st.Kind == audit.KindChange {
				c, _ := audit.DecodeChange(st.Fact)
				told = append(told, c.What+" "+c.Detail)
			}
		}
		if len(told) != 1 || !strings.HasPrefix(told[0], "audit_records_lost the records of 7 requests") {
			t.Errorf("the trail tells %q", told)
		}
		if e.Journal().Status().Err != nil {
			t.Error(e.Journal().Status().Err)
		}
	})
}

// TestRecordsOutliveAFailedWrite: a record that was taken and not yet written when the disk failed is written afterwards.
func TestRecordsOutliveAFailedWrite(t *testing.T) {
	d := newDisk()
	e, _, _ := openOn(t, d)
	l := logOf(e)
	let := d.stall()
	l.Append(&audit.Record{Time: time.Now(), Decision: "executed", RequestID: "being written"})
	<-d.wait
	for i := range 9 {
		l.Append(&audit.Record{Time: time.Now(), Decision: "executed", RequestID: fmt.Sprint(i)})
	}
	d.set(syscall.EIO)
	let()
	for e.Journal().Status().Err == nil {
		time.Sleep(time.Millisecond)
	}
	heal(t, d, e)
	if err := e.Append((&audit.Record{RequestID: "after"}).Append(nil), true); err != nil {
		t.Fatal(err)
	}
	if n, _ := counted(t, e); n != 11 {
		t.Errorf("%d records, want 11", n)
	}
}
