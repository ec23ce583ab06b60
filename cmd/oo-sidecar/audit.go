package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

func newAudit(a *app) *cobra.Command {
	return group("audit", "Read and verify the record of every request", newAuditTail(a), newAuditVerify(a), newAuditExport(a))
}

// selection is the flags by which tail and export choose rows.
type selection struct {
	q        audit.Query
	from, to string
}

func (s *selection) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.q.Agent, "agent", "", "only of this agent")
	f.StringVar(&s.q.Tool, "tool", "", "only of this tool")
	f.StringVar(&s.q.Decision, "decision", "", "only executed, dedup or blocked")
	f.StringVar(&s.from, "from", "", "only from then on: 2026-01-02, 2026-01-02T15:04:05Z, or 90m for as long ago")
	f.StringVar(&s.to, "to", "", "only before then")
	f.BoolVar(&s.q.Changes, "changes", false, "also what operators have changed")
	cmd.RegisterFlagCompletionFunc("decision", cobra.FixedCompletions([]string{"executed", "dedup", "blocked"}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *selection) query(now time.Time) (q *audit.Query, err error) {
	switch s.q.Decision {
	case "", "executed", "dedup", "blocked":
	default:
		return nil, exit{2, fmt.Errorf("--decision %q is none of executed, dedup, blocked", s.q.Decision)}
	}
	if s.q.From, err = moment("--from", s.from, now); err != nil {
		return nil, err
	}
	s.q.To, err = moment("--to", s.to, now)
	return &s.q, err
}

// moment reads a time: a day in UTC, a time, or how long ago.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, exit{2, fmt.Errorf("%s %q is no time; write 2026-01-02, 2026-01-02T15:04:05Z, or 90m for as long ago", flag, text)}
}

func newAuditTail(a *app) *cobra.Command {
	var s selection
	var o output
	var lines int
	var follow bool
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the newest records", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			if lines < 1 {
				return exit{2, fmt.Errorf("-n %d is less than 1", lines)}
			}
			q.Limit = lines
			dir, err := a.journal()
			if err != nil {
				return err
			}
			if follow {
				return a.follow(cmd.Context(), dir, q, o)
			}
			rows, err := newest(dir, q)
			if err != nil {
				return err
			}
			return o.rows(a.stdout, rows)
		},
	}
	s.register(cmd)
	o.register(cmd)
	cmd.Flags().IntVarP(&lines, "lines", "n", 20, "how many")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until interrupted; with -o json one object a line")
	return cmd
}

func newAuditExport(a *app) *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "export", Short: "Write all records as JSON Lines, oldest first", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			dir, err := a.journal()
			if err != nil {
				return err
			}
			return reading(dir, func(r *journal.Reader) error {
				_, err := audit.Export(a.stdout, q, r)
				return err
			})
		},
	}
	s.register(cmd)
	return cmd
}

func newAuditVerify(a *app) *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use: "verify", Short: "Prove that no record was changed, removed, reordered or cut off", Args: cobra.NoArgs,
		Long: `Prove that no record was changed, removed, reordered or cut off, and print a head: what the audit holds now,
signed. Keep it where the sidecar's machine cannot change it. Given back with --head it proves that everything up to
it is still there; without it, nothing can tell a journal that was cut at its end from a shorter one.`,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.journal()
			if err != nil {
				return err
			}
			return a.verify(dir, head)
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "a head that was printed earlier")
	return cmd
}

// journal is the directory of the sidecar's journal, which must be there.
func (a *app) journal() (string, error) {
	cfg, err := a.reach()
	if err != nil {
		return "", err
	}
	dir := cfg.Store.Embedded.Dir
	if _, err := os.Stat(dir); err != nil {
		return "", exit{2, fmt.Errorf("there is no journal at %s (%w): has `oo-sidecar serve` run with this configuration?", dir, err)}
	}
	return dir, nil
}

// newest is what q selects, oldest first, as one reads a log.
func newest(dir string, q *audit.Query) (rows []audit.Row, err error) {
	err = reading(dir, func(r *journal.Reader) error {
		rows, err = q.Find(r)
		return err
	})
	slices.Reverse(rows)
	return rows, err
}

// reading opens the journal beside its owner, if it has one, and lets go of it afterwards.
func reading(dir string, read func(*journal.Reader) error) error {
	r, err := journal.Read(dir, nil)
	if err == nil {
		defer r.Close()
		err = read(r)
	}
	if err != nil {
		return exit{1, err}
	}
	return nil
}

// verify prints what was proved, and fails with what was not.
func (a *app) verify(dir, text string) error {
	var given *audit.Head
	if text != "" {
		var err error
		if given, err = audit.ParseHead(text); err != nil {
			return exit{2, fmt.Errorf("--head %w", err)}
		}
	}
	key, err := audit.LoadKey(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return exit{1, err}
	}
	return reading(dir, func(r *journal.Reader) error {
		v, err := audit.Verify(r, key, given)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s\n%d records, %d changes\n", v.Report, v.Records, v.Changes)
		if v.Torn > 0 {
			fmt.Fprintf(a.stdout, "%d bytes at the end are of a write that a crash cut short; they were never acknowledged\n", v.Torn)
		}
		if v.Given != "" {
			fmt.Fprintln(a.stdout, v.Given)
		}
		if missing {
			_, err = fmt.Fprintf(a.stdout, "no head: %s is not there; the next start of the sidecar makes it\n", filepath.Join(dir, audit.KeyFile))
			return err
		}
		_, err = fmt.Fprintln(a.stdout, v.Head)
		return err
	})
}

// follow prints what q selects and then what comes. It reads the journal's files again every second: that needs no
// running sidecar and asks nothing of one.
func (a *app) follow(ctx context.Context, dir string, q *audit.Query, o output) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		rows, err := newest(dir, q)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := o.line(a.stdout, &rows[i], q.After == 0 && i == 0); err != nil {
				return err
			}
		}
		if len(rows) > 0 {
			q.After = rows[len(rows)-1].Seq()
		}
		q.Limit = 0 // of what is new, all
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

var auditHead = []string{"TIME", "AGENT", "TOOL", "DECISION", "REASON", "OUTCOME", "STATUS", "SPEND USD", "MS", "REQUEST"}

func auditCells(r *audit.Row) []string {
	if c := r.Change; c != nil {
		return []string{c.Time.UTC().Format(time.RFC3339), c.Entity, "", "changed", c.What, "", "", "", "", "by " + c.Who + ": " + c.Why}
	}
	c, status, times := r.Record, "", ""
	if c.UpstreamStatus != 0 {
		status = strconv.Itoa(c.UpstreamStatus)
	}
	if c.Count > 1 {
		times = fmt.Sprintf(" ×%d", c.Count)
	}
	return []string{c.Time.UTC().Format(time.RFC3339), c.AgentID, or(c.Tool, c.Host), c.Decision + times, c.PolicyReason, c.Outcome, status,
		c.SpendUSD, strconv.FormatFloat(c.DurationMS, 'f', 1, 64), c.RequestID}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// rows prints a list of rows as -o asks.
func (o output) rows(w io.Writer, rows []audit.Row) error {
	if o == "json" {
		array := []byte{'['}
		for i := range rows {
			if i > 0 {
				array = append(array, ',')
			}
			array = rows[i].AppendExport(append(array, '\n'))
		}
		_, err := w.Write(append(array, "\n]\n"...))
		return err
	}
	t := &table{head: auditHead}
	for i := range rows {
		t.add(auditCells(&rows[i])...)
	}
	return o.write(w, nil, t, "no records")
}

// line prints one row of a list that has no end, with columns of a fixed width.
func (o output) line(w io.Writer, r *audit.Row, first bool) error {
	if o == "json" {
		_, err := w.Write(append(r.AppendExport(nil), '\n'))
		return err
	}
	if first {
		if err := o.columns(w, auditHead); err != nil {
			return err
		}
	}
	return o.columns(w, auditCells(r))
}

func (o output) columns(w io.Writer, cells []string) error {
	widths := []int{20, 16, 24, 9, 30, 8, 6, 9, 8, 0}
	var line strings.Builder
	for i, cell := range cells {
		fmt.Fprintf(&line, "%-*s  ", widths[i], printable(cell))
	}
	_, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	return err
}
