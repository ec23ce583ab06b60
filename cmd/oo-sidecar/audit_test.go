package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// audited writes a journal of n records and as many changes, and returns a configuration that names it.
func audited(t *testing.T, n int) (config, dir string, j *journal.Journal) {
	t.Helper()
	dir = t.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, Process: true}, func(journal.Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	if _, err := audit.MakeKey(dir); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		record(t, j, i)
	}
	config = filepath.Join(t.TempDir(), "oo.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 1\nstore: {embedded: {dir: %q}}\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, dir, j
}

func record(t *testing.T, j *journal.Journal, i int) {
	t.Helper()
	r := audit.Record{Time: j.Now(), AgentID: fmt.Sprint("agent", i%2), Tool: "charge\x1b[2J", Decision: "executed", PolicyReason: "ok", Outcome: "done", UpstreamStatus: 200, RequestID: fmt.Sprint("r", i)}
	c := audit.Change{Time: j.Now(), Who: "ops", What: "agent_disabled", Entity: "agent0", Why: "loops"}
	commit, err := j.Append(journal.Entry{Kind: audit.KindRecord, Fact: r.Append(nil)}, journal.Entry{Kind: audit.KindChange, Fact: c.Append(nil)})
	if err == nil {
		err = commit.Wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAuditTailAndExport(t *testing.T) {
	config, _, _ := audited(t, 30) // its owner runs
	code, out, errs := command(t, config, "", "audit", "export")
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != 0 || len(lines) != 30 || !json.Valid([]byte(lines[0])) || !strings.Contains(lines[29], `"request_id":"r29"`) {
		t.Errorf("export: %d, %d lines, %q", code, len(lines), errs)
	}
	if _, out, _ := command(t, config, "", "audit", "export", "--changes"); strings.Count(out, "\n") != 60 || strings.Count(out, `"what":"agent_disabled"`) != 30 {
		t.Errorf("export --changes: %d lines", strings.Count(out, "\n"))
	}
	if _, out, _ := command(t, config, "", "audit", "export", "--agent", "agent1", "--from", "1h"); strings.Count(out, "\n") != 15 {
		t.Errorf("export --agent: %d lines", strings.Count(out, "\n"))
	}
	if _, out, _ := command(t, config, "", "audit", "export", "--to", "2020-01-01"); out != "" {
		t.Errorf("export --to: %q", out)
	}
	code, out, _ = command(t, config, "", "audit", "tail", "-n", "3")
	if code != 0 || strings.Count(out, "\n") != 4 || !strings.HasPrefix(out, "TIME") || !strings.Contains(strings.Split(out, "\n")[3], "r29") || strings.Contains(out, "\x1b") {
		t.Errorf("tail: %d\n%s", code, out)
	}
	var rows []map[string]any
	if _, out, _ := command(t, config, "", "audit", "tail", "-n", "5", "-o", "json", "--changes"); json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 5 {
		t.Errorf("tail -o json: %s", out)
	}
	for _, args := range [][]string{{"audit"}, {"audit", "tail", "-n", "0"}, {"audit", "tail", "--decision", "maybe"}, {"audit", "export", "--from", "yesterday"},
		{"audit", "verify", "--head", "oo-head:v1:x"}} {
		if code, _, errs := command(t, config, "", args...); code != 2 || errs == "" {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}

func TestAuditTailFollows(t *testing.T) {
	config, _, j := audited(t, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	read, write := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"audit", "tail", "-f", "-n", "1", "-o", "json", "--config", config}, strings.NewReader(""), write, io.Discard)
		write.Close()
	}()
	var seen []string
	d := json.NewDecoder(read)
	for i := 2; i < 5; i++ {
		var r audit.Record
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, r.RequestID)
		record(t, j, i)
	}
	stop()
	go io.Copy(io.Discard, read)
	if code := <-ended; code != 0 || fmt.Sprint(seen) != "[r1 r2 r3]" {
		t.Errorf("%d %v", code, seen)
	}
}

func TestAuditVerify(t *testing.T) {
	config, dir, j := audited(t, 20)
	code, out, errs := command(t, config, "", "audit", "verify")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	head := lines[len(lines)-1]
	if code != 0 || !strings.HasPrefix(head, "oo-head:v1:") || !strings.Contains(out, "20 records, 20 changes") {
		t.Fatalf("%d %q %q", code, out, errs)
	}
	record(t, j, 20)
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := command(t, config, "", "audit", "verify", "--head", head); code != 0 || !strings.Contains(out, "contained") {
		t.Errorf("with a head: %d %q %q", code, out, errs)
	}
	flipABit(t, dir)
	if code, _, errs := command(t, config, "", "audit", "verify"); code != 1 || !strings.Contains(errs, dir) {
		t.Errorf("a flipped bit: %d %q", code, errs)
	}
	if err := os.Remove(filepath.Join(dir, audit.KeyFile)); err != nil {
		t.Fatal(err)
	}
	config, dir, _ = audited(t, 1)
	if code, _, errs := command(t, config, "", "audit", "verify", "--head", head); code != 1 || !strings.Contains(errs, "not signed with this store's key") {
		t.Errorf("another store: %d %q", code, errs)
	}
	os.Remove(filepath.Join(dir, audit.KeyFile))
	if code, out, _ := command(t, config, "", "audit", "verify"); code != 0 || !strings.Contains(out, "no head") {
		t.Errorf("without a key: %d %q", code, out)
	}
	os.RemoveAll(dir)
	if code, _, errs := command(t, config, "", "audit", "verify"); code != 2 || !strings.Contains(errs, "has `oo-sidecar serve` run") {
		t.Errorf("without a journal: %d %q", code, errs)
	}
}

// flipABit changes one bit in the middle of what the largest file of the journal holds.
func flipABit(t *testing.T, dir string) {
	t.Helper()
	var path string
	var data []byte
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if d, err := os.ReadFile(filepath.Join(dir, f.Name())); err == nil && len(d) > len(data) {
			path, data = filepath.Join(dir, f.Name()), d
		}
	}
	data[len(bytes.TrimRight(data, "\x00"))/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMoments(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "2026-01-02": time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "90m": now.Add(-90 * time.Minute),
		"2026-01-02T15:04:05+01:00": time.Date(2026, 1, 2, 14, 4, 5, 0, time.UTC),
	} {
		if got, err := moment("--from", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-5m", "0s", "5", "2026-13-01"} {
		if got, err := moment("--from", text, now); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
