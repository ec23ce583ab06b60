package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

func records(t *testing.T, e *store.Embedded) map[string][]audit.Record {
	t.Helper()
	all := map[string][]audit.Record{}
	for st, err := range e.Journal().Entries(0) {
		if err != nil {
			t.Fatal(err)
		}
		if st.Kind == audit.KindRecord {
			r, err := audit.DecodeRecord(st.Fact)
			if err != nil {
				t.Fatal(err)
			}
			all[r.RequestID] = append(all[r.RequestID], r)
		}
	}
	return all
}

// Every call leaves one record: with its outcome, or at the start after a crash.
func TestOneRecordForEachCall(t *testing.T) {
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}}
	e := open(t, opt)
	var done, crashed []string
	for i := range 5 {
		c := storetest.NewClaim(fmt.Sprint("done", i))
		finish(t, e, storetest.Ending(c, begin(t, e, c, dedup.Mine), dedup.Done))
		done = append(done, fmt.Sprintf("req-%d", c.Nonce))
		c = storetest.NewClaim(fmt.Sprint("open", i))
		begin(t, e, c, dedup.Mine)
		crashed = append(crashed, fmt.Sprintf("req-%d", c.Nonce))
	}
	for range 2 { // the second start finds nothing left to say
		opt.Config.Dir = copyOf(t, opt.Config.Dir)
		e = open(t, opt)
		got := records(t, e)
		if len(got) != 10 {
			t.Fatalf("%d calls have records", len(got))
		}
		for id, list := range got {
			r := list[0]
			if len(list) != 1 || r.Recovered != slices.Contains(crashed, id) || r.Recovered == slices.Contains(done, id) {
				t.Fatalf("%s: %+v", id, list)
			}
			if r.Recovered && (r.Outcome != "unknown" || r.Decision != "executed" || r.Fence == 0 || r.Tool != "pay") {
				t.Fatalf("%+v", r)
			}
		}
	}
	if len(e.Unknowns()) != 5 {
		t.Fatalf("%+v", e.Unknowns())
	}
}

// A stop says of what still runs what a crash would have left to the next start.
func TestCloseRecordsWhatRuns(t *testing.T) {
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}}
	e := open(t, opt)
	c := storetest.NewClaim("x")
	b := begin(t, e, c, dedup.Mine)
	if err := e.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(t.Context(), storetest.Ending(c, b, dedup.Done)); err == nil {
		t.Fatal("an outcome was taken after Close")
	}
	e = open(t, opt)
	if r := records(t, e)[fmt.Sprintf("req-%d", c.Nonce)]; len(r) != 1 || r[0].Outcome != "unknown" {
		t.Fatalf("%+v", r)
	}
	begin(t, e, storetest.NewClaim("x"), dedup.Blocked)
}

func TestOvertakenEndIsRecorded(t *testing.T) {
	e := open(t, store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}})
	c := storetest.NewClaim("x")
	b := begin(t, e, c, dedup.Mine)
	word := &dedup.Resolution{Key: c.Keys[0].Key, Fence: b.Fence, Outcome: dedup.NotSent, Why: "stuck", Who: "ops", Force: true}
	if err := e.Resolve(t.Context(), word, "0123abcd"); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(t.Context(), storetest.Ending(c, b, dedup.Done)); err == nil {
		t.Fatal("the holder was not overtaken")
	}
	if r := records(t, e)[fmt.Sprintf("req-%d", c.Nonce)]; len(r) != 1 {
		t.Fatalf("%+v", r)
	}
	if got := changes(t, e); len(got) != 1 || got[0] != "unknown_resolved:0123abcd:ops" {
		t.Fatalf("%v", got)
	}
}

func TestUnknownsAreListed(t *testing.T) {
	c := newClock()
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Now: c.Now}
	e := open(t, opt)
	for i := range 3 {
		claim := storetest.NewClaim(fmt.Sprint(i))
		finish(t, e, storetest.Ending(claim, begin(t, e, claim, dedup.Mine), dedup.Unknown))
		c.Advance(time.Second)
	}
	opt.Config.Dir = copyOf(t, opt.Config.Dir)
	for _, e := range []*store.Embedded{e, open(t, opt)} {
		list := e.Unknowns()
		if len(list) != 3 || e.UnknownCount() != 3 {
			t.Fatalf("%+v", list)
		}
		for i, u := range list {
			if u.Key != storetest.K(fmt.Sprint(i)) || u.Agent != "a" || u.Tool != "pay" || u.Tenant != "default" || u.Cost != 100 || u.Timeout != time.Minute ||
				u.Fence == 0 || u.Attempt != 1 || u.RequestID == "" || u.Claimed.IsZero() || u.Ended.IsZero() || i > 0 && !u.Claimed.After(list[i-1].Claimed) {
				t.Fatalf("%+v", u)
			}
		}
	}
}

func TestDeliveredShortensTheWindow(t *testing.T) {
	c := newClock()
	opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Now: c.Now}
	e := open(t, opt)
	claim := storetest.NewClaim("x")
	claim.Keys = append(claim.Keys, dedup.Identity{Key: storetest.K("client"), Print: storetest.K("x")})
	b := begin(t, e, claim, dedup.Mine)
	finish(t, e, storetest.Ending(claim, b, dedup.Done))
	e.Delivered(claim.Agent, claim.Keys[0].Key, b.Fence+1, time.Minute) // of another call
	c.Advance(2 * time.Minute)
	begin(t, e, storetest.NewClaim("x"), dedup.Replay)
	e.Delivered(claim.Agent, claim.Keys[0].Key, b.Fence, 3*time.Minute)
	begin(t, e, storetest.NewClaim("x"), dedup.Replay)
	// Something durable after it makes it durable.
	finish(t, e, storetest.Ending(claim, b, dedup.Done))
	other := storetest.NewClaim("other")
	begin(t, e, other, dedup.Mine)
	opt.Config.Dir = copyOf(t, opt.Config.Dir)
	c.Advance(time.Minute)
	for _, e := range []*store.Embedded{e, open(t, opt)} {
		for _, id := range claim.Keys {
			again := storetest.NewClaim("x")
			again.Keys = []dedup.Identity{id}
			begin(t, e, again, dedup.Mine)
		}
	}
}

func TestBounds(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	e := open(t, store.Options{Config: store.EmbeddedConfig{Dir: dir, MaxKeys: 3, MaxUnknown: 2}, Now: c.Now})
	for i := range 3 {
		claim := storetest.NewClaim(fmt.Sprint(i))
		finish(t, e, storetest.Ending(claim, begin(t, e, claim, dedup.Mine), dedup.Done))
	}
	_, err := e.Begin(t.Context(), storetest.NewClaim("more"))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("store.embedded.max_keys")) || e.Err() == nil {
		t.Fatalf("past max_keys: %v", err)
	}
	begin(t, e, storetest.NewClaim("1"), dedup.Replay)
	c.Advance(25 * time.Hour)
	var last *dedup.End
	for i := range 2 {
		claim := storetest.NewClaim(fmt.Sprint("u", i))
		b := begin(t, e, claim, dedup.Mine)
		finish(t, e, storetest.Ending(claim, b, dedup.Unknown))
		last = storetest.Ending(claim, b, dedup.Done)
	}
	_, err = e.Begin(t.Context(), storetest.NewClaim("more"))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("store.embedded.max_unknown")) {
		t.Fatalf("past max_unknown: %v", err)
	}
	keyless := storetest.NewClaim("")
	keyless.Keys = nil
	begin(t, e, keyless, dedup.Mine)
	finish(t, e, last)
	begin(t, e, storetest.NewClaim("more"), dedup.Mine)
}

func TestSecretIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	e, err := store.OpenEmbedded(store.Options{Config: store.EmbeddedConfig{Dir: dir}})
	if err != nil {
		t.Fatal(err)
	}
	secret := e.Secret()
	if !e.Created() || secret == [32]byte{} {
		t.Fatal("no secret was made")
	}
	if err := e.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "shown.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st, err)
	}
	if e = open(t, store.Options{Config: store.EmbeddedConfig{Dir: dir}}); e.Secret() != secret || e.Created() {
		t.Fatal("the secret has changed")
	}
}
