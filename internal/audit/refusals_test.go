package audit

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudgetIsAFunctionOfTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b budget
	spend := func(want int) {
		t.Helper()
		n := 0
		for b.take(now) {
			n++
		}
		if n != want {
			t.Errorf("%d taken, want %d", n, want)
		}
	}
	spend(1000)
	now = now.Add(50 * time.Second) // what has come back goes to refusals that share a record
	for range 200 {
		if b.take(now) {
			t.Fatal("a loop got something of what had come back")
		}
	}
	now = now.Add(66 * time.Second)
	spend(110)
	now = now.Add(-time.Hour) // a clock that goes back gives nothing
	spend(0)
	now = now.Add(10 * time.Minute)
	spend(1000)
	now = now.Add(20 * time.Minute)
	if !b.full(now) {
		t.Error("not full after twenty minutes")
	}
}

func TestLoopingAgentIsCoalescedOverTheLongRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		l := NewLog(k.write, fatal(t))
		const hour, each = 3600, 50
		for range hour {
			for range each { // below what one second shares
				l.Append(refusal("loop", "charge", "tool_explicitly_blocked"))
			}
			time.Sleep(time.Second)
		}
		synctest.Wait() // a shared record that is due at this very instant is written
		l.Append(refusal("calm", "charge", "tool_explicitly_blocked"))
		all := k.all()
		if last := all[len(all)-1]; last.AgentID != "calm" || last.Count != 0 {
			t.Errorf("another agent's refusal has no record of its own: %+v", last)
		}
		l.Close(t.Context())
		if k.sum() != hour*each+1 {
			t.Errorf("records stand for %d requests, want %d", k.sum(), hour*each+1)
		}
		if n := len(k.all()); n > 1000+40+hour/10 {
			t.Errorf("%d records for an hour of looping", n)
		}
	})
}

func TestRefusalsShareARecordAMinuteWhereSpaceIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		scarce := true
		l := NewLog(k.write, fatal(t))
		l.Scarce = func() bool { return scarce }
		for range 600 {
			l.Append(refusal("a", "charge", "tool_explicitly_blocked"))
			time.Sleep(time.Second)
		}
		if n := len(k.all()); n < 9 || n > 10 {
			t.Errorf("%d records in ten minutes", n)
		}
		scarce = false
		time.Sleep(time.Minute)
		synctest.Wait()
		before := len(k.all())
		l.Append(refusal("a", "charge", "tool_explicitly_blocked"))
		if len(k.all()) != before+1 {
			t.Error("refusals still share a record when there is space again")
		}
		l.Close(t.Context())
		if k.sum() != 601 {
			t.Errorf("records stand for %d requests, want 601", k.sum())
		}
	})
}

func TestAgentsAreForgottenAndNoRefusalIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k kept
		l := NewLog(k.write, fatal(t))
		for range 200 {
			l.Append(refusal("loop", "a", "b"))
		}
		for i := range 3 * maxAgents {
			l.Append(refusal("agent"+string(rune('a'+i%26))+strings.Repeat("x", i/26), "a", "b"))
			if len(l.agents) > maxAgents {
				t.Fatalf("%d agents are remembered", len(l.agents))
			}
		}
		l.Close(t.Context())
		if k.sum() != 200+3*maxAgents {
			t.Errorf("records stand for %d requests, want %d", k.sum(), 200+3*maxAgents)
		}
	})
}

// TestRefusalIsSmall: what an agent chooses does not make its refusals large.
func TestRefusalIsSmall(t *testing.T) {
	r := refusal("a", "tool_not_registered", "tool_not_registered")
	long := strings.Repeat("é", 4000)
	r.RunID, r.Tool, r.Method, r.Host, r.ForceNew, r.Detail = long, long, long, long, long, long
	fact := r.Append(nil)
	if len(fact) > 1400 {
		t.Errorf("%d bytes: %s", len(fact), fact)
	}
	got, err := DecodeRecord(fact)
	if err != nil || got.RunID != long[:maxChosen]+"…" || got.Detail != long[:maxDetail]+"…" || got.Tool != got.RunID {
		t.Errorf("reads back as %+v, %v", got, err)
	}
	if again := got.Append(nil); string(again) != string(fact) {
		t.Errorf("it is cut again: %s", again)
	}
}
