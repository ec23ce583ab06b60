package govern_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// disk is the operating system's, until it breaks.
type disk struct {
	journal.FS
	broken atomic.Bool
}

var errDisk = errors.New("played: the disk is broken")

func (d *disk) Create(name string) (journal.File, error) {
	if d.broken.Load() {
		return nil, errDisk
	}
	f, err := d.FS.Create(name)
	return &diskFile{f, d}, err
}

func (d *disk) Open(name string, write bool) (journal.File, error) {
	f, err := d.FS.Open(name, write)
	return &diskFile{f, d}, err
}

type diskFile struct {
	journal.File
	d *disk
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	if f.d.broken.Load() {
		return 0, errDisk
	}
	return f.File.WriteAt(p, off)
}

// brokenStore is a world whose disk has just failed, or is about to.
func brokenStore(t *testing.T, s setting, act func(*world, *disk)) {
	t.Helper()
	d := &disk{FS: journal.OS()}
	s.fs = d
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, s)
		act(w, d)
	})
}

func (w *world) fail(d *disk) {
	d.broken.Store(true)
	_ = w.store.Append((&audit.Record{RequestID: "finds it out"}).Append(nil), true)
	if w.store.Err() == nil {
		w.Fatal("the store does not see that its disk is broken")
	}
}

func (w *world) heal(d *disk) {
	d.broken.Store(false)
	for range 600 {
		if w.store.Err() == nil {
			return
		}
		time.Sleep(time.Second)
	}
	w.Fatal("the store does not take writes again")
}

func TestStoreDownBeforeTheClaim(t *testing.T) {
	const closed = "503 blocked store_unavailable not_sent"
	s := fourEffects()
	s.tools = append(s.tools, tool.Config{Name: "careful", Effect: "read", OnStoreError: "deny"}, tool.Config{Name: "waived", OnStoreError: "allow", Price: tool.USD / 2, MaxInFlight: 1})
	brokenStore(t, s, func(w *world, d *disk) {
		w.fail(d)
		free := forwarded(t, "POST", "https://free.test/", "{}")
		for _, a := range []*asking{named("mutating", "{}"), named("idempotent", "{}"), named("careful", "{}"), free} {
			r := w.ask(a)
			r.want(t, closed)
			if r.header["Retry-After"] == "" {
				t.Error("store_unavailable does not say when to come back")
			}
		}
		if n := w.stage.sends(); n != 0 || len(w.meter.failOpen) != 0 || !slices.Equal(w.meter.storeErrors, []string{"begin", "begin", "begin", "begin"}) {
			t.Errorf("sent %d times, %v failed open, counted %v", n, w.meter.failOpen, w.meter.storeErrors)
		}
		var told []audit.Record
		w.gov.Record = func(r *audit.Record) { told = append(told, *r) }
		w.ask(named("read", "{}")).want(t, "200 executed ok done")
		w.ask(named("read", "{}")).want(t, "200 executed ok done") // not known to be a duplicate
		w.ask(named("waived", "1")).want(t, "200 executed ok done")
		w.stage.then(answers(500, "a"))
		w.ask(named("waived", "2")).want(t, "500 executed ok unknown")
		w.stage.then(streams(200, nil, "a"))
		w.ask(named("waived", "3")).want(t, "200 executed ok -")
		w.stage.then(loses(govern.Queued, govern.ErrUnreachable))
		w.ask(named("waived", "4")).want(t, "502 executed upstream_unreachable not_sent")
		w.ask(named("waived", "1")).want(t, "200 executed ok done")
		if len(w.meter.failOpen) != 7 || len(told) != 7 {
			t.Errorf("%v failed open, %d recorded", w.meter.failOpen, len(told))
		}
		for _, r := range told {
			if r.Guarantee != "none" || r.FailOpen != "store" || r.Fence != 0 || r.Attempt != 1 {
				t.Errorf("recorded as %+v", r)
			}
		}
		keys := map[string]string{}
		for _, a := range w.stage.seen[2:] {
			if other, ok := keys[a.key]; ok && other != string(a.Body) || len(a.key) != 67 {
				t.Errorf("%s and %s have the upstream key %q", other, a.Body, a.key)
			}
			keys[a.key] = string(a.Body)
		}
		if len(keys) != 4 {
			t.Errorf("four calls had %d upstream keys: a repeated one should have its own again", len(keys))
		}
		w.heal(d)
		w.ask(named("mutating", "{}")).want(t, "200 executed ok done")
		if n := w.gov.Running(); n != 0 {
			t.Errorf("%d requests are said to be running still", n)
		}
	})
}

func TestStoreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, oneTool(nil))
		if err := w.store.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.gov.Record = func(*audit.Record) {}
		w.ask(named("t", "{}")).want(t, "503 blocked store_unavailable not_sent")
	})
}

func TestTooManyUnknowns(t *testing.T) {
	s := oneTool(nil)
	s.maxUnknown = 1
	in(t, s, func(w *world) {
		w.stage.then(loses(govern.Flushed, govern.ErrBroken))
		w.ask(named("t", "1")).want(t, "504 executed upstream_outcome_unknown unknown")
		w.ask(named("t", "2")).want(t, "503 blocked store_unavailable not_sent")
		w.ask(named("t", "1")).want(t, "409 dedup outcome_unknown unknown")
	})
}

// TestStoreDownAfterSending: the answer is given, the outcome is kept and becomes the first thing written.
func TestStoreDownAfterSending(t *testing.T) {
	for name, v := range map[string]struct{ act act }{
		"an answer": {answers(200, "a")}, "a stream": {streams(200, nil, "a")},
	} {
		t.Run(name, func(t *testing.T) {
			brokenStore(t, oneTool(nil), func(w *world, d *disk) {
				w.stage.then(first(func() { d.broken.Store(true) }, v.act))
				r := w.ask(named("t", "{}"))
				if r.Status != 200 || r.body != "a" || !r.whole {
					t.Errorf("the answer is %d %q", r.Status, r.body)
				}
				if !slices.Contains(w.meter.storeErrors, "finish") || !strings.Contains(strings.Join(w.logged, "\n"), "not durable yet") {
					t.Errorf("counted %v, logged %v", w.meter.storeErrors, w.logged)
				}
				if dup := w.ask(named("t", "{}")); dup.Status != 200 || dup.Decision != govern.Dedup {
					t.Errorf("the duplicate got %d %s", dup.Status, dup.Reason)
				}
				w.ask(named("t", "2")).want(t, "503 blocked store_unavailable not_sent")
				w.heal(d)
				synctest.Wait()
				if found := w.records(r.id); len(found) != 1 || found[0].Outcome != "done" {
					t.Errorf("recorded as %+v", found)
				}
				w.ask(named("t", "{}")).want(t, "200 dedup tool_idempotency done")
				w.ask(named("t", "2")).want(t, "200 executed ok done")
			})
		})
	}
}

// TestOvertaken: an operator says by force that a running call was not executed, it runs again, and then it answers.
func TestOvertaken(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		gate := make(chan struct{})
		w.stage.then(at(gate, answers(200, "first")))
		all := w.together(named("t", "{}"))
		open := w.store.Open()
		if len(open) != 1 {
			t.Fatalf("%d calls run", len(open))
		}
		err := w.store.Resolve(context.Background(), &dedup.Resolution{Key: open[0].Key, Agent: open[0].Agent, Fence: open[0].Fence, Outcome: dedup.NotSent, Force: true, Who: "operator"}, "shown")
		if err != nil {
			t.Fatal(err)
		}
		w.stage.then(answers(200, "second"))
		w.ask(named("t", "{}")).want(t, "200 executed ok done")
		close(gate)
		r := all()[0]
		r.want(t, "200 executed ok done")
		if w.meter.doubles != 1 || !strings.Contains(strings.Join(w.logged, "\n"), "possible double execution") {
			t.Errorf("%d counted, logged %v", w.meter.doubles, w.logged)
		}
		if dup := w.ask(named("t", "{}")); dup.body != "second" {
			t.Errorf("the duplicate got %q", dup.body)
		}
	})
}

// odd is the real store with an end that it does not take.
type odd struct{ dedup.Store }

func (odd) Finish(context.Context, *dedup.End) error { return errors.New("played") }

// TestAnEndIsNotTaken: nobody knows then whether the store has the record, so it is written by itself.
func TestAnEndIsNotTaken(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		w.gov.Store = odd{w.store}
		r := w.ask(named("t", "{}"))
		r.want(t, "200 executed ok done")
		if rec := w.record(r); rec.Outcome != "done" || len(w.logged) != 1 || !slices.Equal(w.meter.storeErrors, []string{"finish"}) {
			t.Errorf("recorded as %+v, logged %v", rec, w.logged)
		}
	})
}

// TestUnsignable: what cannot be signed is not sent.
func TestUnsignable(t *testing.T) {
	s := oneTool(func(c *tool.Config) { c.Auth = fourEffects().tools[0].Auth })
	in(t, s, func(w *world) {
		r := w.ask(named("t", "{}").with(func(r *govern.Request) { r.Agent = "a\nb" }))
		r.want(t, "500 blocked internal not_sent")
		if n := w.stage.sends(); n != 0 || len(w.logged) != 1 || strings.Contains(r.body, "sign") {
			t.Errorf("sent %d times, logged %v, told %s", n, w.logged, r.body)
		}
	})
}

// TestAbandoned: when the sidecar's time is over, nothing is tried again.
func TestAbandoned(t *testing.T) {
	in(t, retrying("idempotent", 5), func(w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		w.stage.then(first(cancel, answers(503, "later")))
		a := named("t", "{}")
		a.ctx = ctx
		w.ask(a).want(t, "503 executed ok unknown")
		if n := w.stage.sends(); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}
