package control

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

// Deliverer tells the control plane what the audit says, in order, each record at least once.
type Deliverer struct {
	follower *Follower
	read     func(after uint64, most int) ([]audit.Row, error)
	source   string // id of the journal
	log      *slog.Logger
	cursor   atomic.Uint64 // sequence number of the last record that was taken
	state    atomic.Pointer[error]
}

const (
	cursorFile   = "delivered.json"
	batch        = 200 // records that an oo-sidecar is told at once
	readEvery    = 500 * time.Millisecond
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 30 * time.Second
	eventTimeout = 10 * time.Second
)

type delivered struct {
	BaseURL string `json:"base_url"`
	Source  string `json:"source"`
	Seq     uint64 `json:"seq"`
}

// NewDeliverer goes on where the last process stopped. read gives records of the journal source, oldest first, above a
// sequence number.
func NewDeliverer(f *Follower, source string, read func(after uint64, most int) ([]audit.Row, error)) (*Deliverer, error) {
	d := &Deliverer{follower: f, read: read, source: source, log: f.opt.Log}
	text, err := os.ReadFile(filepath.Join(f.dir, cursorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	var last delivered
	if err == nil && json.Unmarshal(text, &last) == nil && last.Source == source && last.BaseURL == f.cfg.BaseURL {
		d.cursor.Store(last.Seq)
	}
	return d, err
}

// Run delivers until ctx ends.
func (d *Deliverer) Run(ctx context.Context) {
	pause := readEvery
	for backoff := firstBackoff; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		n, err := d.once(ctx)
		d.note(err)
		switch {
		case err != nil:
			pause = backoff/2 + rand.N(backoff/2)
			backoff = min(2*backoff, lastBackoff)
		case n > 0:
			pause, backoff = 0, firstBackoff
		default:
			pause, backoff = readEvery, firstBackoff
		}
	}
}

// once delivers what there is, a batch at most.
func (d *Deliverer) once(ctx context.Context) (int, error) {
	if d.follower.Snapshot() == nil {
		return 0, nil // nobody knows yet what the other end is
	}
	rows, err := d.read(d.cursor.Load(), batch)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	if d.follower.Native() {
		if err := d.batch(ctx, rows); err != nil {
			return 0, err
		}
		return len(rows), d.taken(rows[len(rows)-1].Record.Seq)
	}
	for i := range rows {
		if err := d.single(ctx, rows[i].Record); err != nil {
			return i, err
		}
		if err := d.taken(rows[i].Record.Seq); err != nil {
			return i, err
		}
	}
	return len(rows), nil
}

// batch tells an oo-sidecar, which knows how far it was told.
func (d *Deliverer) batch(ctx context.Context, rows []audit.Row) error {
	var body struct {
		Source string            `json:"source"`
		Events []json.RawMessage `json:"events"`
	}
	body.Source = d.source
	for i := range rows {
		body.Events = append(body.Events, rows[i].AppendExport(nil))
	}
	var answer struct{ OK bool }
	err := d.follower.client.within(ctx, eventTimeout, "POST", "/events", &body, &answer)
	if err == nil && !answer.OK {
		err = &Error{Kind: Lost, Err: errors.New("it does not say that it took the events")}
	}
	return err
}

// single tells any OnceOnly-compatible API, one line of a run's timeline a record. A repetition has the same req_id.
func (d *Deliverer) single(ctx context.Context, r *audit.Record) error {
	run := r.RunID
	if run == "" {
		run = "sidecar-" + d.source
	}
	event := map[string]any{
		"run_id": run, "type": "tool_result", "ts": r.Time.Unix(), "status": r.Decision, "duration_ms": int64(r.DurationMS), "tool": r.Tool,
		"req_id": r.RequestID, "agent_id": r.AgentID, "message": r.PolicyReason, "data": json.RawMessage(r.AppendExport(nil)),
	}
	var answer map[string]any
	err := d.follower.client.within(ctx, eventTimeout, "POST", "/events", event, &answer)
	if e, ok := errors.AsType[*Error](err); ok && (e.Status == 422 || e.Status == 413 || e.Status == 400) {
		d.log.Error("the control plane does not take a record of the audit; it stands here only", "seq", r.Seq, "request_id", r.RequestID, "status", e.Status)
		return nil
	}
	return err
}

// taken keeps how far was delivered. What is lost of it by a crash is delivered again.
func (d *Deliverer) taken(seq uint64) error {
	d.cursor.Store(seq)
	text, err := json.Marshal(delivered{d.follower.cfg.BaseURL, d.source, seq})
	if err != nil {
		return err
	}
	name := filepath.Join(d.follower.dir, cursorFile)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func (d *Deliverer) note(err error) {
	before := d.state.Swap(&err)
	switch {
	case err == nil && before != nil && *before != nil:
		d.log.Info("audit records reach the control plane again")
	case err != nil && (before == nil || *before == nil):
		d.log.Error("audit records do not reach the control plane; they wait in the journal", "error", err.Error())
	}
}

// State says in words how far was delivered.
func (d *Deliverer) State() (seq uint64, err error) {
	if e := d.state.Load(); e != nil {
		err = *e
	}
	return d.cursor.Load(), err
}
