package store

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

func atoi(t *testing.T, v any) int64 {
	t.Helper()
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func split(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

func TestSlotOf(t *testing.T) {
	for tag, want := range map[string]int64{"123456789": 12739, "foo": 12182} {
		if got := slotOf(tag); got != want {
			t.Errorf("slot of %q: %d, want %d", tag, got, want)
		}
	}
}

func TestRedisSentinel(t *testing.T) {
	w := redistest.StartSentinel(t, 2)
	c := dialTest(t, RedisConfig{Mode: "sentinel", Addrs: w.Sentinels, SentinelMaster: w.Name, WaitReplicas: 2})
	var epochs atomic.Int32
	c.onEpoch(func(_ string, old, new epoch) { epochs.Add(1) })
	key := c.key("sentinel")
	if _, err := c.runDurable(t.Context(), once, []string{key}, 0); err != nil {
		t.Fatal(err)
	}
	if j := c.judgement(); j.Electable != 2 || j.Replicas != 2 || len(j.Problems) != 0 {
		t.Errorf("%+v", j)
	}
	old := w.Master()
	var master *redistest.Server
	told := askDuring(t, c, key, func() { master = w.Failover() })
	if master == old || epochs.Load() == 0 {
		t.Errorf("no failover: %d epochs", epochs.Load())
	}
	for nonce, n := range runsOf(t, master, key) {
		if err := told[nonce]; n > 1 || errors.Is(err, errNotExecuted) {
			t.Errorf("nonce %d ran %d times; told: %v", nonce, n, err)
		}
	}
	w.Servers[0].Kill() // whichever it is now: two of three are left
	redistest.Eventually(t, "a claim wins with one replica short of wait_replicas, or is told so", func() error {
		_, err := c.runDurable(t.Context(), once, []string{key}, 0)
		if !errors.Is(err, errReplicas) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
}

// TestRedisSentinelPassword: sentinels that want a password get the server's.
func TestRedisSentinelPassword(t *testing.T) {
	w := redistest.StartSentinel(t, 0)
	cfg := RedisConfig{Mode: "sentinel", Addrs: w.Sentinels, SentinelMaster: w.Name, Password: "secret"}
	w.Servers[0].Do("CONFIG", "SET", "requirepass", "secret")
	c := dialTest(t, cfg)
	if _, err := c.run(t.Context(), count, []string{c.key("password")}); err != nil {
		t.Errorf("sentinels without a password: %v", err)
	}
	for _, addr := range w.Sentinels {
		if _, err := redistest.Ask(addr, "ACL", "SETUSER", "default", "resetpass", ">secret"); err != nil {
			t.Fatal(err)
		}
	}
	c = dialTest(t, cfg)
	if _, err := c.run(t.Context(), count, []string{c.key("password")}); err != nil {
		t.Errorf("sentinels with a password: %v", err)
	}
	cfg.SentinelMaster = "another"
	other, err := dialRedis(t.Context(), cfg, nil)
	if err == nil {
		_ = other.close()
	}
	if err == nil || !strings.Contains(err.Error(), `no sentinel names the master "another"`) {
		t.Errorf("another name: %v", err)
	}
}

func TestRedisCluster(t *testing.T) {
	cl := redistest.StartCluster(t)
	c := dialTest(t, RedisConfig{Mode: "cluster", Addrs: cl.Addrs()[:1]})
	key := c.key("cluster")
	if slot := cl.Slot(key); slot != fmt.Sprint(slotOf(c.tag)) {
		t.Fatalf("slot %s, want %d", slot, slotOf(c.tag))
	}
	from, to := cl.Owner(key)
	nonce := 0
	ask := func(what, key string) {
		t.Helper()
		nonce++
		if _, err := c.run(t.Context(), once, []string{key}, nonce); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	ask("at rest", key)
	cl.BeginMove(key, from, to)
	ask("migrating, the key is still there", key)
	refused := func(what string, keys ...string) {
		t.Helper()
		if _, err := c.run(t.Context(), once, keys, 0); !errors.Is(err, errNotExecuted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("migrating, a new key: ASK", c.key("new"))
	refused("migrating, one of two keys is nowhere: TRYAGAIN", key, c.key("never"))
	hidden := newScript("hidden", `return redis.call('RPUSH', ARGV[1], 0)`)
	if _, err := c.run(t.Context(), hidden, []string{key}, c.key("never")); !errors.Is(err, errLost) {
		t.Errorf("migrating, a key that the script did not name: %v", err)
	}
	cl.MoveKeys(from, to, key)
	refused("migrating, the key has gone: ASK", key)
	if got, err := c.do(t.Context(), "LLEN", key); err != nil || got != int64(nonce) {
		t.Errorf("migrating, a read follows ASK: %v, %v", got, err)
	}
	if err := c.err(); err != nil {
		t.Errorf("a moving slot is no outage: %v", err)
	}
	cl.EndMove(key, from, to)
	ask("moved: MOVED", key)
	if addr, err := c.routes.owner(t.Context(), c.tag); err != nil || addr != to.Addr {
		t.Errorf("owner %s, %v; want %s", addr, err, to.Addr)
	}
	runs := runsOf(t, to, key)
	for n := 0; n <= nonce; n++ {
		if runs[int64(n)] != min(n, 1) {
			t.Errorf("nonce %d ran %d times", n, runs[int64(n)])
		}
	}
	stop := subscribeOnce(t, c, cl)
	stop()
}

// subscribeOnce hears what another node published: a hint goes to the whole cluster.
func subscribeOnce(t *testing.T, c *redisClient, cl *redistest.Cluster) (stop func()) {
	t.Helper()
	heard := make(chan string, 1000)
	stop = c.subscribe(c.key("hint"), func(p string) { heard <- p })
	redistest.Eventually(t, "the hint is heard", func() error {
		for _, n := range cl.Nodes {
			n.Do("PUBLISH", c.key("hint"), n.Addr)
		}
		if len(heard) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	return stop
}
