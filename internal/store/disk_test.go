package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// disk is the operating system's file system with a disk that can break, and be slow.
type disk struct {
	journal.FS

	mu     sync.Mutex
	broken error
	slow   chan struct{} // not nil: a sync waits until it is closed
	wait   chan struct{} // gets a token when a sync waits
}

func newDisk() *disk { return &disk{FS: journal.OS(), wait: make(chan struct{}, 100)} }

func (d *disk) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

func (d *disk) stall() (let func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	d.slow = gate
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.slow = nil
		close(gate)
	}
}

func (d *disk) ask() error {
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	if slow != nil {
		d.wait <- struct{}{}
		<-slow
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

func (d *disk) Create(name string) (journal.File, error) {
	d.mu.Lock()
	err := d.broken
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d}, nil
}

func (d *disk) Open(name string, write bool) (journal.File, error) {
	f, err := d.FS.Open(name, write)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d}, nil
}

type diskFile struct {
	journal.File
	d *disk
}

func (f *diskFile) Sync() error {
	if err := f.d.ask(); err != nil {
		return err
	}
	return f.File.Sync()
}

func openOn(t *testing.T, d *disk) (*store.Embedded, store.Options, *clock) {
	t.Helper()
	c := newClock()
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Now: c.Now, FS: d}
	return open(t, opt), opt, c
}

func begin(t *testing.T, e *store.Embedded, c *dedup.Claim, want dedup.Status) dedup.Begun {
	t.Helper()
	b, err := e.Begin(t.Context(), c)
	if err != nil || b.Status != want {
		t.Fatalf("Begin: %+v, %v; want status %d", b, err, want)
	}
	return b
}

func finish(t *testing.T, e *store.Embedded, end *dedup.End) {
	t.Helper()
	if err := e.Finish(t.Context(), end); err != nil {
		t.Fatalf("Finish: %v", err)
	}
}

// heal mends the disk and waits until the journal goes on.
func heal(t *testing.T, d *disk, e *store.Embedded) {
	t.Helper()
	d.set(nil)
	for e.Journal().Status().Err != nil {
		if t.Context().Err() != nil {
			t.Fatal("the journal does not go on")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestClaimThatIsNotDurableWasNeverThere(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	unknown := storetest.NewClaim("i")
	unknown.Effect, unknown.Resend = tool.Idempotent, time.Hour
	finish(t, e, storetest.Ending(unknown, begin(t, e, unknown, dedup.Mine), dedup.Unknown))

	let := d.stall()
	d.set(syscall.EIO)
	failed := make(chan error, 2)
	again := *unknown
	again.Nonce = 1 << 40
	for _, c := range []*dedup.Claim{storetest.NewClaim("x"), &again} {
		go func() {
			_, err := e.Begin(context.Background(), c)
			failed <- err
		}()
	}
	<-d.wait // one of them is being written; wait for both to stand in the way
	var waiting dedup.Begun
	for _, name := range []string{"x", "i"} {
		for {
			b, err := e.Begin(t.Context(), probe(name))
			if err != nil {
				t.Fatal(err)
			}
			if waiting = b; b.Status == dedup.InFlight {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	ended := make(chan dedup.Ending)
	go func() {
		end, err := e.Wait(context.Background(), "a", waiting.Key, waiting.Fence)
		if err != nil {
			t.Error(err)
		}
		ended <- end
	}()
	let()
	for range 2 {
		if err := <-failed; !errors.Is(err, dedup.ErrUnavailable) {
			t.Fatalf("Begin on a broken disk: %v", err)
		}
	}
	if end := <-ended; end.Outcome == dedup.Done || end.Answer != nil {
		t.Fatalf("a waiter of a claim that was never there got %+v", end)
	}
	if u := e.Usage("default", "a", "pay"); u.HourCalls != 1 || u.DaySpend != 100 || e.UnknownCount() != 1 {
		t.Fatalf("%+v, %d unknown", u, e.UnknownCount())
	}
	if err := e.Err(); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatalf("ready on a broken disk: %v", err)
	}
	heal(t, d, e)
	again.Nonce++
	if b := begin(t, e, &again, dedup.Mine); !b.Taken || b.Attempt != 2 {
		t.Fatalf("%+v", b)
	}
	begin(t, e, storetest.NewClaim("x"), dedup.Mine)

	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	after := open(t, opt)
	if u := after.Usage("default", "a", "pay"); u.HourCalls != 2 || u.DaySpend != 200 {
		t.Fatalf("%+v", u)
	}
}

// probe is a claim that can never win: it is over its limit.
func probe(name string) *dedup.Claim {
	none := int64(0)
	c := storetest.NewClaim(name)
	c.Limits.ActionsPerHour = &none
	return c
}

func TestOutcomeIsKeptUntilTheDiskTakesIt(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	var ends []*dedup.End
	for i, o := range []dedup.Outcome{dedup.Done, dedup.Unknown, dedup.NotSent, dedup.Failed} {
		c := storetest.NewClaim([]string{"x", "u", "n", "f"}[i])
		ends = append(ends, storetest.Ending(c, begin(t, e, c, dedup.Mine), o))
	}
	ends[3].Keep = 0
	d.set(syscall.EIO)
	for _, end := range ends {
		if err := e.Finish(t.Context(), end); !errors.Is(err, dedup.ErrDeferred) {
			t.Fatalf("Finish on a broken disk: %v", err)
		}
	}
	check := func(e *store.Embedded) {
		t.Helper()
		b := begin(t, e, storetest.NewClaim("x"), dedup.Replay)
		if string(b.Answer.Body) != string(ends[0].Answer.Body) {
			t.Fatalf("%+v", b.Answer)
		}
		begin(t, e, storetest.NewClaim("u"), dedup.Blocked)
		if u := e.Usage("default", "a", "pay"); u.HourCalls != 3 || u.DaySpend != 200 || e.UnknownCount() != 1 {
			t.Fatalf("%+v, %d unknown", u, e.UnknownCount())
		}
	}
	check(e)
	for _, name := range []string{"n", "f", "new"} {
		if _, err := e.Begin(t.Context(), storetest.NewClaim(name)); !errors.Is(err, dedup.ErrUnavailable) {
			t.Fatalf("Begin on a broken disk: %v", err)
		}
	}
	heal(t, d, e)
	check(e)
	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	after := open(t, opt)
	check(after)
	if b := begin(t, after, storetest.NewClaim("n"), dedup.Mine); b.Generation != ends[2].Fence {
		t.Fatalf("the generation is lost: %+v", b)
	}
	if b := begin(t, e, storetest.NewClaim("n"), dedup.Mine); b.Generation != ends[2].Fence {
		t.Fatalf("the generation is lost: %+v", b)
	}
}

func TestCallerLeavesWhileItsClaimIsWritten(t *testing.T) {
	d := newDisk()
	e, _, _ := openOn(t, d)
	let := d.stall()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() {
		_, err := e.Begin(ctx, storetest.NewClaim("x"))
		result <- err
	}()
	<-d.wait
	cancel()
	if err := <-result; !errors.Is(err, dedup.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	waiting := begin(t, e, storetest.NewClaim("x"), dedup.InFlight)
	let()
	if end, err := e.Wait(t.Context(), "a", waiting.Key, waiting.Fence); err != nil || end.Outcome != dedup.NotSent && end.Outcome != dedup.Running {
		t.Fatal(end, err)
	}
	begin(t, e, storetest.NewClaim("x"), dedup.Mine)
	if u := e.Usage("default", "a", "pay"); u.HourCalls != 1 || u.DaySpend != 100 {
		t.Fatalf("%+v", u)
	}
}

func TestSwitchHoldsOnABrokenDisk(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	d.set(syscall.ENOSPC)
	if _, err := e.Disable(t.Context(), "a", "it loops", "ops"); !errors.Is(err, dedup.ErrDeferred) {
		t.Fatal(err)
	}
	if s, off := e.Disabled("a"); !off || s.Reason != "it loops" {
		t.Fatal("the agent goes on")
	}
	heal(t, d, e)
	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	if _, off := open(t, opt).Disabled("a"); !off {
		t.Fatal("the agent goes on after a restart")
	}
}

// TestTheFileHoldsOnABrokenDisk: policies and tools of the file hold from the start, and what of them must be durable is
// written before anything that is decided by them; the api's need a disk.
func TestTheFileHoldsOnABrokenDisk(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	d.set(syscall.ENOSPC)
	filed := []store.Entry{{Kind: store.ToolEntry, Name: "t", Value: []byte("1")}}
	if err := e.LoadFile(t.Context(), filed); err != nil {
		t.Fatal(err)
	}
	if err := e.Put(t.Context(), store.Entry{Kind: "definition", Name: "t", Value: []byte("2"), Must: true}, "sidecar"); err != nil {
		t.Fatal(err)
	}
	if err := e.Put(t.Context(), store.Entry{Kind: store.ToolEntry, Name: "t", Value: []byte("3")}, "ops"); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := e.Begin(t.Context(), storetest.NewClaim("x")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatal(err)
	}
	held := func(e *store.Embedded) (list []string) {
		for _, entry := range e.Entries() {
			list = append(list, string(entry.Kind)+" "+string(entry.Value)+" "+entry.Source)
		}
		return list
	}
	want := []string{"definition 2 api", "tool 1 file"}
	if got := held(e); !slices.Equal(got, want) {
		t.Fatal(got)
	}
	heal(t, d, e)
	begin(t, e, storetest.NewClaim("x"), dedup.Mine)
	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	again := open(t, opt)
	before := len(changes(t, again))
	if err := again.LoadFile(t.Context(), filed); err != nil {
		t.Fatal(err)
	}
	if got := held(again); !slices.Equal(got, want) || len(changes(t, again)) != before || before != 2 {
		t.Fatalf("%v after a restart; %d changes are audited, then %d", got, before, len(changes(t, again)))
	}
}
