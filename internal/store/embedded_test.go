package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// clock is a wall clock that only moves when it is told to. It starts at noon, UTC.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T, opt store.Options) *store.Embedded {
	t.Helper()
	e, err := store.OpenEmbedded(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	return e
}

func TestLaw(t *testing.T) {
	storetest.Law(t, func(t *testing.T) *storetest.Bench {
		clock := newClock()
		opt := store.Options{Config: store.EmbeddedConfig{Dir: t.TempDir()}, Waiters: 8, Now: clock.Now}
		b := &storetest.Bench{Advance: clock.Advance, Waiters: 8}
		use := func(e *store.Embedded) {
			b.Store = e
			b.Resolve = func(r *dedup.Resolution) error { return e.Resolve(context.Background(), r, "shown") }
			b.Used = func(tenant, agent, name string) (int64, tool.Money, int64) {
				u := e.Usage(tenant, agent, name)
				return u.HourCalls, u.DaySpend, u.ToolCalls
			}
		}
		b.Crash = func(t *testing.T, b *storetest.Bench) {
			opt.Config.Dir = copyOf(t, opt.Config.Dir)
			use(open(t, opt))
		}
		use(open(t, opt))
		return b
	})
}
