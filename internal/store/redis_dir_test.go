package store

import (
	"context"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// TestADirectoryOfAnotherNamespace is refused: what it holds of one namespace is no other one's.
func TestADirectoryOfAnotherNamespace(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	if _, err := r.Disable(t.Context(), "a", "why", "ops"); err != nil {
		t.Fatal(err)
	}
	opt := r.opt
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*RedisConfig){func(c *RedisConfig) { c.Prefix = namespace() }, func(c *RedisConfig) { c.DB = 3 }} {
		moved := opt
		change(&moved.Redis)
		if _, err := OpenRedis(t.Context(), moved); err == nil || !strings.Contains(err.Error(), "store.embedded.dir") {
			t.Fatalf("%+v: %v", moved.Redis, err)
		}
	}
	if again := joinRedis(t, opt); len(again.Switches()) != 1 {
		t.Fatal("the switch is gone")
	}
}

// TestACopiedDirectory has a copy of a sidecar's directory run beside it, as on a second machine: what it finds open is
// not its own to run, and none of both runs what the other did.
func TestACopiedDirectory(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	running, b := won(t, r, "running")
	done, d := won(t, r, "done")
	if err := r.Finish(t.Context(), storetest.Ending(done, d, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	opt := r.opt
	opt.Config.Dir = journalCopy(t, opt.Config.Dir)
	old := opt
	old.Config.Dir = journalCopy(t, opt.Config.Dir)
	twin := joinRedis(t, opt)
	stands(t, twin, "running", dedup.Blocked) // its journal says that it ran there
	stands(t, twin, "done", dedup.Replay)
	if err := r.Finish(context.Background(), storetest.Ending(running, b, dedup.Done)); err != nil {
		t.Fatalf("who runs it ends it: %v", err)
	}
	stands(t, twin, "running", dedup.Replay)
	f := newFleet([]*Redis{r, twin})
	stop := f.load(t)
	until(t, "calls run", func() bool { return f.ran() > 200 })
	stop()
	f.once(t)

	opt = twin.opt
	if err := twin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	older := joinRedis(t, old) // the backup is restored
	for _, name := range []string{"running", "done", "x1"} {
		stands(t, older, name, dedup.Replay)
	}
	s.Do("FLUSHALL")
	f = newFleet([]*Redis{r, older})
	for i, name := range []string{"running", "done"} { // of the others the one that is dead may know alone
		f.call(t, i, name, 0)
	}
	if len(f.executed) > 0 || len(f.given) != 2 {
		t.Errorf("run again: %v; answered: %v", f.executed, f.given)
	}
}
