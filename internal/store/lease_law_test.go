package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

func TestLeaseLaw(t *testing.T) {
	storetest.LeaseLaw(t, func(t *testing.T) *storetest.LeaseBench {
		clock := newClock()
		opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Now: clock.Now}
		b := &storetest.LeaseBench{Advance: clock.Advance}
		b.Crash = func(t *testing.T, b *storetest.LeaseBench) {
			opt.Config.Dir = copyOf(t, opt.Config.Dir)
			b.Store = open(t, opt)
		}
		b.Store = open(t, opt)
		return b
	})
}

var key = lease.Name{Tenant: "default", Key: "k"}

// TestALockThatIsNotDurableWasNeverThere: its caller and all who waited for it are told so, nobody is a duplicate of
// nothing, and the next one has it.
func TestALockThatIsNotDurableWasNeverThere(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	let := d.stall()
	d.set(syscall.EIO)
	failed := make(chan error)
	for range 20 {
		go func() {
			_, won, err := e.Lock(context.Background(), key, time.Minute)
			if err == nil {
				err = fmt.Errorf("an answer on a broken disk: won %v", won)
			}
			failed <- err
		}()
	}
	<-d.wait
	let()
	for range 20 {
		if err := <-failed; !errors.Is(err, lease.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	heal(t, d, e)
	if _, won, err := e.Lock(t.Context(), key, time.Minute); !won || err != nil {
		t.Fatal(won, err)
	}
	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	if _, won, err := open(t, opt).Lock(t.Context(), key, time.Minute); won || err != nil {
		t.Fatal(won, err)
	}
}

// TestAnEndOnABrokenDisk: the work was done, so its word is kept here, is not overwritten by the failure that the SDKs
// then report, and is written once the disk takes writes again.
func TestAnEndOnABrokenDisk(t *testing.T) {
	d := newDisk()
	e, opt, _ := openOn(t, d)
	if _, _, err := e.Acquire(t.Context(), key, lease.Claim{ID: "a", TTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	d.set(syscall.EIO)
	if _, err := e.Apply(t.Context(), key, lease.Step{Act: lease.Extend, ID: "a"}); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), key, lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{"x":1}`)}); !errors.Is(err, lease.ErrDeferred) {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), key, lease.Step{Act: lease.Fail, ID: "a", ErrorCode: "fn_error"}); !errors.Is(err, lease.ErrCompleted) {
		t.Fatal(err)
	}
	if _, _, err := e.Acquire(t.Context(), lease.Name{Key: "other"}, lease.Claim{ID: "b", TTL: time.Minute}); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
	heal(t, d, e)
	check := func(e *store.Embedded) {
		t.Helper()
		v, err := e.Look(t.Context(), key)
		if err != nil || v.Status != lease.Completed || string(v.Result) != `{"x":1}` || v.Version != 1 {
			t.Fatalf("%v %+v", err, v)
		}
	}
	check(e)
	opt.FS, opt.Config.Dir = nil, copyOf(t, opt.Config.Dir)
	check(open(t, opt))
}

// TestLocksAndLeasesAreBounded: past the bound there is no room, and no answer that somebody could take for a lock.
func TestLocksAndLeasesAreBounded(t *testing.T) {
	clock := newClock()
	e := open(t, store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir(), MaxKeys: 5}, Now: clock.Now})
	name := func(i int) lease.Name { return lease.Name{Tenant: "default", Key: fmt.Sprint(i)} }
	for i := range 8 {
		_, won, err := e.Lock(t.Context(), name(i), time.Minute)
		if i < 5 && (!won || err != nil) || i >= 5 && (!errors.Is(err, lease.ErrUnavailable) || !strings.Contains(err.Error(), "max_keys")) {
			t.Fatal(i, won, err)
		}
	}
	if _, won, err := e.Lock(t.Context(), name(1), time.Minute); won || err != nil {
		t.Fatal("duplicates go on", won, err)
	}
	clock.Advance(time.Minute)
	if _, won, err := e.Lock(t.Context(), name(7), time.Minute); !won || err != nil {
		t.Fatal("expired locks make room", won, err)
	}
	for i := range 6 {
		_, _, err := e.Acquire(t.Context(), name(i), lease.Claim{ID: "a", TTL: time.Minute})
		if i < 5 && err != nil || i == 5 && !errors.Is(err, lease.ErrUnavailable) {
			t.Fatal(i, err)
		}
		if err == nil {
			if _, err := e.Apply(t.Context(), name(i), lease.Step{Act: lease.Complete, ID: "a"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	clock.Advance(lease.Kept)
	if _, _, err := e.Acquire(t.Context(), name(6), lease.Claim{ID: "a", TTL: time.Minute}); err != nil {
		t.Fatal("forgotten leases make room", err)
	}
}

func TestAClosedStore(t *testing.T) {
	e := open(t, store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}})
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, won, err := e.Lock(t.Context(), key, time.Minute); won || !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(won, err)
	}
	if _, _, err := e.Acquire(t.Context(), key, lease.Claim{ID: "a", TTL: time.Minute}); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
}
