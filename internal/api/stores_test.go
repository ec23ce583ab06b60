package api_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// onStore is the variable that says on which store the tests run: embedded, which is the default, or redis. On redis those
// of a crash that is made by copying a journal are left out: of a server no such copy can be made.
const onStore = "OO_TEST_STORE"

func copiesJournal(t *testing.T) {
	if os.Getenv(onStore) == "redis" {
		t.Skip("of a server's state in one moment no copy can be made")
	}
}

// keeper is the store behind an api under test.
type keeper interface {
	dedup.Store
	lease.Store
	Secret() [32]byte
	Unknowns() []store.UnknownCall
	Resolve(ctx context.Context, r *dedup.Resolution, shown string) error
	Disabled(agent string) (store.Switch, bool)
	Disable(ctx context.Context, agent, reason, who string) (store.Switch, error)
	Close(ctx context.Context) error
}

// servers are those of the houses, by directory: a house that is built again where another one stood finds its server.
var servers = struct {
	mu sync.Mutex
	of map[string]*redistest.Server // guarded by mu
}{of: map[string]*redistest.Server{}}

func serverOf(t *testing.T, dir string) *redistest.Server {
	servers.mu.Lock()
	defer servers.mu.Unlock()
	if servers.of[dir] == nil {
		servers.of[dir] = redistest.Start(t)
	}
	return servers.of[dir]
}

func openKeeper(t *testing.T, dir string, c *clock) keeper {
	t.Helper()
	opt := store.Options{Config: store.EmbeddedConfig{Dir: dir, Durability: "process"}, Now: c.Now}
	if os.Getenv(onStore) != "redis" {
		e, err := store.OpenEmbedded(opt)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	name := fnv.New64()
	_, _ = name.Write([]byte(dir))
	r, err := store.OpenRedis(t.Context(), store.RedisOptions{
		Options: opt, Redis: store.RedisConfig{Addrs: []string{serverOf(t, dir).Addr}, Prefix: fmt.Sprintf("t%x:", name.Sum64()), AnswerTTL: time.Hour, Poll: time.Second},
		Ahead: func() time.Duration { return time.Until(c.Now()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
