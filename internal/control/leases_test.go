package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// desk is a control plane that grants every lease and says what it was asked.
type desk struct {
	*httptest.Server
	mu    sync.Mutex
	ttl   int               // seconds; guarded by mu
	fails map[string]int    // status by act; guarded by mu
	asked map[string][]step // by act; guarded by mu
	taken bool              // by another sidecar; guarded by mu
	id    string            // of every lease; set before it is asked
	told  chan string       // acts, in order
}

func newDesk(t *testing.T) *desk {
	d := &desk{ttl: 1, id: "lease_of_the_test", fails: map[string]int{}, asked: map[string][]step{}, told: make(chan string, 10_000)}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		act := r.URL.Path[len("/v1/ai/"):]
		var st step
		_ = json.NewDecoder(r.Body).Decode(&st)
		d.mu.Lock()
		status, ttl, taken := d.fails[act], d.ttl, d.taken
		d.asked[act] = append(d.asked[act], st)
		d.mu.Unlock()
		d.told <- act
		switch {
		case status != 0:
			w.WriteHeader(status)
			fmt.Fprint(w, `{"detail":{"error":"lease_lost"}}`)
		case act == "lease" && taken:
			fmt.Fprintf(w, `{"status":"polling","ttl":%d}`, ttl)
		case act == "lease":
			fmt.Fprintf(w, `{"status":"acquired","ttl":%d,"lease_id":%q}`, ttl, d.id)
		default:
			fmt.Fprintf(w, `{"ok":true,"status":"ok","ttl":%d}`, ttl)
		}
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *desk) fail(act string, status int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails[act] = status
}

// until waits for an act.
func (d *desk) until(t *testing.T, act string) {
	t.Helper()
	for {
		select {
		case got := <-d.told:
			if got == act {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("in 10 s it was not asked to %s", act)
		}
	}
}

// leasesOf are leases over an embedded store in dir.
func leasesOf(t *testing.T, d *desk, dir string, alarm func()) (*Leases, func()) {
	t.Helper()
	local, err := store.OpenEmbedded(store.Options{Config: store.EmbeddedConfig{Dir: dir, MaxBytes: 64 << 20, Retention: 48 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Follow(Config{BaseURL: d.URL, APIKey: "k", Poll: time.Second, MaxStale: time.Minute, Timeout: time.Second}, Options{
		Dir: dir + "/control", Agents: func() []string { return nil }, Apply: func(*Snapshot) error { return nil },
		Alarm: func() {}, Fresh: func(time.Time) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewLeases(local, f, alarm)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan bool)
	go func() { s.Run(ctx); close(over) }()
	var once sync.Once
	end := func() {
		once.Do(func() {
			cancel()
			<-over
			_ = s.Close(context.Background())
			_ = local.Close(context.Background())
		})
	}
	t.Cleanup(end)
	return s, end
}

func claimOf(n byte) *dedup.Claim {
	k := dedup.Key{n}
	return &dedup.Claim{Keys: []dedup.Identity{{Key: k, Print: k}}, Nonce: uint64(n), Tenant: "default", Agent: "a", Tool: "pay", Effect: tool.Mutating, Timeout: 300 * time.Millisecond,
		Record: func() []byte { return []byte(`{"request_id":"r"}`) }}
}

func endOf(c *dedup.Claim, b dedup.Begun, o dedup.Outcome) *dedup.End {
	return &dedup.End{Keys: c.Keys, Agent: c.Agent, Fence: b.Fence, Nonce: c.Nonce, Outcome: o, Keep: time.Hour, Answer: &dedup.Answer{Status: 200}}
}

// TestExtended: a lease goes on while its call runs; when it cannot, the call is told before too little is left.
func TestExtended(t *testing.T) {
	d := newDesk(t)
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	c := claimOf(1)
	b, err := s.Begin(t.Context(), c)
	if err != nil || b.Status != dedup.Mine {
		t.Fatal(b, err)
	}
	for range 5 { // more than the lease's second
		d.until(t, "extend")
		if err := s.Holds(b.Fence, c.Timeout); err != nil {
			t.Error(err)
		}
	}
	d.fail("extend", 500)
	deadline := time.After(5 * time.Second)
	for s.Holds(b.Fence, c.Timeout) == nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatal("the lease ended and the call was not told")
		}
	}
	if err := s.Finish(t.Context(), endOf(c, b, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	d.until(t, "complete")
}

// TestShort: no call runs under a lease that is shorter than it may take; the lease is given back.
func TestShort(t *testing.T) {
	d := newDesk(t)
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	c := claimOf(1)
	c.Timeout = 5 * time.Second
	if b, err := s.Begin(t.Context(), c); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatal(b, err)
	}
	d.until(t, "cancel")
}

// TestShortAllowed: where a call may go without a lease, one that is too short does not cost it its claim here.
func TestShortAllowed(t *testing.T) {
	d := newDesk(t)
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	c := claimOf(1)
	c.Timeout, c.FailOpen = 5*time.Second, true
	b, err := s.Begin(t.Context(), c)
	if err != nil || b.Status != dedup.Mine || b.Waived != "control" || s.Holds(b.Fence, c.Timeout) != nil {
		t.Fatal(b, err)
	}
	d.until(t, "cancel")
	again := claimOf(1)
	again.Nonce, again.Timeout, again.FailOpen = 2, c.Timeout, true
	if b, err := s.Begin(t.Context(), again); err != nil || b.Status != dedup.InFlight {
		t.Error(b, err)
	}
}

// TestHugeLease: an id that is no id is no lease, and is not kept.
func TestHugeLease(t *testing.T) {
	d := newDesk(t)
	d.id = strings.Repeat("x", 2<<20)
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	if b, err := s.Begin(t.Context(), claimOf(1)); !errors.Is(err, dedup.ErrNoLease) {
		t.Error(b.Status, err)
	}
	if running, owed, unknown := s.book.counts(); running+owed+unknown != 0 {
		t.Error("it is kept")
	}
}

// TestSaid: what is said of each outcome. Fail never is.
func TestSaid(t *testing.T) {
	d := newDesk(t)
	d.ttl = 60
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	for n, want := range map[dedup.Outcome]string{dedup.Done: "complete", dedup.Failed: "cancel", dedup.NotSent: "cancel", dedup.Unknown: "extend"} {
		c := claimOf(byte(n))
		b, err := s.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(t.Context(), endOf(c, b, n)); err != nil {
			t.Fatal(err)
		}
		d.until(t, want)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked["fail"]) > 0 || d.asked["extend"][0].TTL != int64(holdFor/time.Second) {
		t.Errorf("%+v", d.asked)
	}
	for act, all := range d.asked {
		for _, st := range all {
			if st.Key == fmt.Sprintf("%x", dedup.Key{1}) || st.Budget != nil || st.Keep != 0 {
				t.Errorf("%s: %+v", act, st)
			}
		}
	}
}

// TestRestart: what ran when the process ended stays taken; what was done and not said is said by the next one.
func TestRestart(t *testing.T) {
	d := newDesk(t)
	d.ttl = 60
	dir := t.TempDir()
	s, end := leasesOf(t, d, dir, func() {})
	d.fail("complete", 503)
	done, open := claimOf(1), claimOf(2)
	b, err := s.Begin(t.Context(), done)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(t.Context(), endOf(done, b, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	d.until(t, "complete")
	end()
	s, end = leasesOf(t, d, dir, func() {})
	if b, err := s.Begin(t.Context(), done); err != nil || b.Status != dedup.Replay {
		t.Error(b, err)
	}
	d.fail("complete", 0)
	d.until(t, "complete")
	if b, err := s.Begin(t.Context(), open); err != nil || b.Status != dedup.Mine {
		t.Fatal(b, err)
	}
	end()
	s, _ = leasesOf(t, d, dir, func() {})
	if b, err := s.Begin(t.Context(), open); err != nil || b.Status != dedup.Blocked {
		t.Error(b, err)
	}
	d.until(t, "extend")
}

// TestRegained: a lease that ended while its call ran, or before its outcome was known, is taken again; only when another
// sidecar has it is that told.
func TestRegained(t *testing.T) {
	d := newDesk(t)
	alarms := make(chan bool, 1)
	s, _ := leasesOf(t, d, t.TempDir(), func() { alarms <- true })
	c := claimOf(1)
	b, err := s.Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	d.until(t, "lease")
	d.fail("extend", 409)
	d.until(t, "lease")
	if err := s.Holds(b.Fence, c.Timeout); err != nil {
		t.Error(err)
	}
	if err := s.Finish(t.Context(), endOf(c, b, dedup.Unknown)); err != nil {
		t.Fatal(err)
	}
	d.until(t, "extend")
	d.until(t, "lease")
	d.fail("extend", 0)
	d.until(t, "extend")
	select {
	case <-alarms:
		t.Error("alarmed although nobody else had the lease")
	default:
	}
	two := claimOf(2)
	if b, err = s.Begin(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	d.fail("extend", 409)
	d.mu.Lock()
	d.taken = true
	d.mu.Unlock()
	if err := s.Finish(t.Context(), endOf(two, b, dedup.Unknown)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-alarms:
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
}

// TestMisled: an answer of something that stands in the control plane's place (404, and not its word) settles nothing.
func TestMisled(t *testing.T) {
	d := newDesk(t)
	d.ttl = 60
	s, _ := leasesOf(t, d, t.TempDir(), func() {})
	c := claimOf(1)
	b, err := s.Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	d.fail("complete", 404)
	if err := s.Finish(t.Context(), endOf(c, b, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	d.until(t, "complete")
	d.until(t, "complete")
	d.fail("complete", 0)
	d.until(t, "complete")
}

// TestStrangeBook: leases of calls that the journal beside them does not know are neither given back nor held.
func TestStrangeBook(t *testing.T) {
	d := newDesk(t)
	d.ttl = 60
	dir, other := t.TempDir(), t.TempDir()
	s, end := leasesOf(t, d, dir, func() {})
	if _, err := s.Begin(t.Context(), claimOf(1)); err != nil {
		t.Fatal(err)
	}
	if s.book.synced != s.book.wrote {
		t.Error("a call may be sent whose lease is not on disk")
	}
	end()
	if err := os.CopyFS(other+"/control", os.DirFS(dir+"/control")); err != nil {
		t.Fatal(err)
	}
	s, _ = leasesOf(t, d, other, func() {})
	if running, owed, unknown := s.book.counts(); running+owed+unknown != 0 {
		t.Errorf("%d run, %d are owed, %d unknown", running, owed, unknown)
	}
	if len(d.asked["cancel"])+len(d.asked["extend"]) > 0 {
		t.Errorf("%+v", d.asked)
	}
}

// TestLost: that another sidecar took the lease of a call that ran here is told.
func TestLost(t *testing.T) {
	d := newDesk(t)
	d.ttl = 60
	told := make(chan bool, 1)
	s, _ := leasesOf(t, d, t.TempDir(), func() { told <- true })
	c := claimOf(1)
	b, err := s.Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	d.fail("complete", 409)
	if err := s.Finish(t.Context(), endOf(c, b, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
}
