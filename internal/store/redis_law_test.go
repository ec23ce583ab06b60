package store

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// namespaces have every test of one server be alone.
var namespaces atomic.Int64

func namespace() string { return fmt.Sprintf("t%d:", namespaces.Add(1)) }

// joinRedis opens a store on the server, as one sidecar of the namespace.
func joinRedis(t testing.TB, opt RedisOptions) *Redis {
	t.Helper()
	if opt.Config.Dir == "" {
		opt.Config.Dir = t.TempDir()
	}
	r, err := OpenRedis(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx)
	})
	return r
}

// lawOn runs the law against stores with that configuration, each in a namespace of its own.
func lawOn(t *testing.T, cfg RedisConfig) { lawWith(t, cfg, nil) }

// lawWith is lawOn with stores that disturb may have ask elsewhere, and that call before ahead of each step.
func lawWith(t *testing.T, cfg RedisConfig, disturb func(t *testing.T, cfg *RedisConfig) (before func())) {
	places := make(chan struct{}, 3) // clauses with hundreds of callers: more at once would meet the timeouts of a busy machine
	storetest.Law(t, func(t *testing.T) *storetest.Bench {
		places <- struct{}{}
		t.Cleanup(func() { <-places })
		cfg, before := cfg, func() {}
		if disturb != nil {
			before = disturb(t, &cfg)
		}
		var ahead atomic.Int64
		ahead.Store(int64(untilNoon()))
		opt := RedisOptions{Options: Options{Config: EmbeddedConfig{Dir: t.TempDir(), Durability: "process"}, Waiters: 8}, Redis: cfg}
		opt.Redis.Prefix = namespace()
		opt.Ahead = func() time.Duration { return time.Duration(ahead.Load()) }
		b := &storetest.Bench{Advance: func(d time.Duration) { ahead.Add(int64(d)) }, Waiters: 8}
		use := func(r *Redis) {
			b.Store = &disturbed{Redis: r, before: before}
			b.Resolve = func(w *dedup.Resolution) error {
				before()
				return r.Resolve(context.Background(), w, "shown")
			}
			b.Used = func(tenant, agent, name string) (int64, tool.Money, int64) {
				u := r.Usage(tenant, agent, name)
				return u.HourCalls, u.DaySpend, u.ToolCalls
			}
		}
		b.Crash = func(t *testing.T, b *storetest.Bench) {
			opt.Config.Dir = journalCopy(t, opt.Config.Dir)
			use(joinRedis(t, opt))
		}
		use(joinRedis(t, opt))
		return b
	})
}

// disturbed is a store to which something happens before each step that is alone: what befalls many at once opens the
// breaker, and then the store rightly takes nothing.
type disturbed struct {
	*Redis
	before func()
	steps  atomic.Int64 // running
}

func (d *disturbed) step() (done func()) {
	if d.steps.Add(1) == 1 {
		d.before()
	}
	return func() { d.steps.Add(-1) }
}

func (d *disturbed) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	defer d.step()()
	return d.Redis.Begin(ctx, c)
}

func (d *disturbed) Finish(ctx context.Context, e *dedup.End) error {
	defer d.step()()
	return d.Redis.Finish(ctx, e)
}

// untilNoon is what to advance by, so that no test meets midnight, UTC, by chance.
func untilNoon() time.Duration {
	now := time.Now().UTC()
	return now.Truncate(24 * time.Hour).Add(36 * time.Hour).Sub(now)
}

// journalCopy is what a directory holds now, as a crash of the process would leave it.
func journalCopy(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", dir, err, out)
	}
	_ = os.Remove(filepath.Join(to, "lock")) // the copy is another directory
	return to
}

func TestRedisLaw(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	lawOn(t, RedisConfig{Addrs: []string{s.Addr}})
}

func TestRedisLawOnSentinel(t *testing.T) {
	w := redistest.StartSentinel(t, 2, "--appendonly", "no")
	lawOn(t, RedisConfig{Mode: "sentinel", Addrs: w.Sentinels, SentinelMaster: w.Name, WaitReplicas: 2})
}

func TestRedisLawOnCluster(t *testing.T) {
	c := redistest.StartCluster(t, "--appendonly", "no")
	lawOn(t, RedisConfig{Mode: "cluster", Addrs: c.Addrs()})
}

// TestRedisLawWithLostReplies has each step's script run and its reply be lost: failed, but written.
func TestRedisLawWithLostReplies(t *testing.T) { lawWithLostReplies(t, RedisConfig{}) }

func lawWithLostReplies(t *testing.T, cfg RedisConfig) {
	t.Helper()
	s := redistest.Start(t, "--appendonly", "no")
	var lost atomic.Int64
	lawWith(t, cfg, func(t *testing.T, cfg *RedisConfig) func() {
		relay := redistest.NewRelay(t, s.Addr)
		t.Cleanup(func() { lost.Add(int64(relay.Lost())) })
		cfg.Addrs = []string{relay.Addr}
		return func() { relay.Lose(1) }
	})
	t.Cleanup(func() {
		if t.Logf("%d replies were lost", lost.Load()); lost.Load() < 100 {
			t.Error("hardly any reply was lost")
		}
	})
}
