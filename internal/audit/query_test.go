package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// recorded yields a small audit: every tenth entry is a change, every seventh belongs to the store.
func recorded(n int) Entries {
	return func(yield func(journal.Stored, error) bool) {
		for i := 1; i <= n; i++ {
			at := time.Unix(int64(1000+i), 0).UTC()
			e := journal.Stored{Seq: uint64(i), Time: at, Kind: KindRecord}
			switch {
			case i%10 == 0:
				e.Kind, e.Fact = KindChange, (&Change{Time: at, Who: "ops", What: "agent_disabled", Entity: fmt.Sprint("agent", i%3)}).Append(nil)
			case i%7 == 0:
				e.Kind, e.Fact = 40, []byte("not of the audit")
			default:
				e.Fact = (&Record{Time: at, AgentID: fmt.Sprint("agent", i%3), Tool: fmt.Sprint("tool", i%2), Decision: []string{"executed", "dedup", "blocked"}[i%3]}).Append(nil)
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// entriesOnly is a source that begins where it is asked to.
type entriesOnly Entries

func (s entriesOnly) Entries(from uint64) Entries {
	return func(yield func(journal.Stored, error) bool) {
		s(func(e journal.Stored, err error) bool { return err == nil && e.Seq < from || yield(e, err) })
	}
}

func (s entriesOnly) Since(at time.Time) (from uint64) {
	for e := range s.Entries(0) {
		if from = e.Seq; !e.Time.Before(at) {
			break
		}
	}
	return from
}

func TestQueries(t *testing.T) {
	for name, c := range map[string]struct {
		q    Query
		want []uint64
	}{
		"newest":         {Query{Limit: 3}, []uint64{29, 27, 26}},
		"oldest":         {Query{Limit: 3, OldestFirst: true}, []uint64{1, 2, 3}},
		"agent":          {Query{Agent: "agent1", Limit: 2, OldestFirst: true}, []uint64{1, 4}},
		"tool":           {Query{Tool: "tool0", Limit: 2, OldestFirst: true}, []uint64{2, 4}},
		"decision":       {Query{Decision: "blocked", OldestFirst: true}, []uint64{2, 5, 8, 11, 17, 23, 26, 29}},
		"agent and tool": {Query{Agent: "agent1", Tool: "tool1"}, []uint64{25, 19, 13, 1}},
		"nobody":         {Query{Agent: "nobody"}, nil},
		"time":           {Query{From: time.Unix(1003, 0), To: time.Unix(1006, 0)}, []uint64{5, 4, 3}},
		"after":          {Query{After: 26, OldestFirst: true}, []uint64{27, 29}},
		"changes":        {Query{After: 25, Changes: true, OldestFirst: true}, []uint64{26, 27, 29, 30}},
		"its changes":    {Query{Agent: "agent1", After: 9, Changes: true, OldestFirst: true}, []uint64{10, 13, 16, 19, 22, 25}},
	} {
		rows, err := c.q.Find(entriesOnly(recorded(30)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []uint64
		for _, r := range rows {
			got = append(got, r.Seq())
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestQueryEndsWithTheJournalsError(t *testing.T) {
	broken := errors.New("segment 3 is gone")
	entries := func(yield func(journal.Stored, error) bool) {
		for e := range recorded(2) {
			if !yield(e, nil) {
				return
			}
		}
		yield(journal.Stored{}, broken)
	}
	if _, err := (&Query{}).Rows(entries); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	var out bytes.Buffer
	if n, err := Export(&out, &Query{}, entriesOnly(entries)); n != 2 || !errors.Is(err, broken) || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%d lines, %v: %s", n, err, out.String())
	}
}

func TestExportIsOneObjectALine(t *testing.T) {
	var out bytes.Buffer
	n, err := Export(&out, &Query{Changes: true}, entriesOnly(recorded(30)))
	if err != nil || n != 26 {
		t.Fatal(n, err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n") {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || m["seq"] == nil || m["ts"] == nil {
			t.Errorf("line %d: %s: %v", i, line, err)
		}
	}
}

func TestRecordThatCannotBeReadIsShown(t *testing.T) {
	entries := func(yield func(journal.Stored, error) bool) {
		yield(journal.Stored{Seq: 5, Time: time.Unix(9, 0), Kind: KindRecord, Fact: []byte("{")}, nil)
	}
	rows, err := (&Query{}).Rows(entries)
	if err != nil || len(rows) != 1 || rows[0].Seq() != 5 || rows[0].Record.Detail == "" {
		t.Errorf("%+v, %v", rows, err)
	}
}
