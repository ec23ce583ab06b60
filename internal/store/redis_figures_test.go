package store

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

const (
	figureRounds = 3
	figureLength = time.Second
)

// TestRedisFigures prints, for make bench, what one Redis and this store do with the same scripts, in interleaved
// rounds on one server, and what the two steps of a first call add to two bare round trips. It asserts no figure.
func TestRedisFigures(t *testing.T) {
	if os.Getenv("OO_BENCH") == "" {
		t.Skip("set OO_BENCH=1, or run make bench")
	}
	program := needed.Program(t, "redis-benchmark")
	s := redistest.Start(t, "--appendonly", "no") // the disk would be measured else
	r := joinRedis(t, RedisOptions{Options: Options{Config: EmbeddedConfig{Dir: t.TempDir(), Durability: "process"}}, Redis: RedisConfig{Addrs: []string{s.Addr}, Prefix: "oo:"}})
	if err := claimOnly(r); err != nil { // and the server knows the script
		t.Fatal(err)
	}
	seen := map[string][]float64{}
	note := func(what string, figure float64) { seen[what] = append(seen[what], figure) }
	for range figureRounds {
		for _, callers := range []int{1, 64} {
			limit := serverLimit(t, program, s.Addr, r, callers, 1)
			claims := perSecond(t, callers, func() error { return claimOnly(r) })
			note(fmt.Sprintf("%3d callers: the claim script by redis-benchmark, 1/s", callers), limit)
			note(fmt.Sprintf("%3d callers: the claim script by the store, 1/s", callers), claims)
			note(fmt.Sprintf("%3d callers: the store, of redis-benchmark", callers), claims/limit)
		}
		piped := serverLimit(t, program, s.Addr, r, 64, 16)
		claims := perSecond(t, 64, func() error { return claimOnly(r) })
		note(" 64 callers: the claim script by redis-benchmark -P 16, 1/s", piped)
		note(" 64 callers: the store, of redis-benchmark -P 16 (wanted 0.6)", claims/piped)
		for _, callers := range []int{1, 16, 64, 256} {
			note(fmt.Sprintf("%3d callers: claim and outcome with journal, calls/s", callers), perSecond(t, callers, func() error { return wholeCall(r) }))
		}
		bare := typical(t, func() error { return roundTrip(r) })
		note("one bare round trip, p50 µs", bare)
		note("claim and outcome less two bare round trips, p50 µs (wanted 200)", typical(t, func() error { return wholeCall(r) })-2*bare)
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	for _, name := range names {
		all := slices.Sorted(slices.Values(seen[name]))
		t.Logf("%-70s %10.2f  (%.2f to %.2f)", name, all[len(all)/2], all[0], all[len(all)-1])
	}
}

// TestRedisShardFigures prints, for make bench, how many calls a second one sidecar and the whole machine claim and end on
// one server, and on a cluster of three masters with all calls in one slot and with each agent's in its own.
func TestRedisShardFigures(t *testing.T) {
	if os.Getenv("OO_BENCH") == "" {
		t.Skip("set OO_BENCH=1, or run make bench")
	}
	one := redistest.Start(t, "--appendonly", "no")
	cl := redistest.StartCluster(t, "--appendonly", "no")
	open := func(cfg RedisConfig) *Redis {
		cfg.Prefix = namespace()
		return joinRedis(t, RedisOptions{Options: Options{Config: EmbeddedConfig{Dir: t.TempDir(), Durability: "process"}}, Redis: cfg})
	}
	places := []struct {
		name string
		r    *Redis
	}{
		{"one server, by namespace", open(RedisConfig{Addrs: []string{one.Addr}})},
		{"three masters, by namespace", open(RedisConfig{Mode: "cluster", Addrs: cl.Addrs()})},
		{"three masters, by agent", open(RedisConfig{Mode: "cluster", Addrs: cl.Addrs(), Shard: "agent"})},
	}
	agents := agentsOn(t, cl, places[2].r)
	for range figureRounds {
		for _, p := range places {
			var n atomic.Int64
			next := func() *dedup.Claim {
				c := figureClaim()
				c.Agent = agents[n.Add(1)%int64(len(agents))]
				return c
			}
			for _, agent := range agents { // the first ones join
				if err := callOf(p.r, func() *dedup.Claim { c := figureClaim(); c.Agent = agent; return c }()); err != nil {
					t.Fatal(err)
				}
			}
			claims := perSecond(t, 64, func() error {
				c := next()
				v, _, _, err := p.r.claim(context.Background(), p.r.shardOf(c.Agent), c, "request")
				if err == nil && v.word != "mine" {
					err = fmt.Errorf("the claim is %q", v.word)
				}
				return err
			})
			calls := perSecond(t, 64, func() error { return callOf(p.r, next()) })
			t.Logf("%-30s 64 callers: %7.0f claims/s, %7.0f whole calls/s", p.name, claims, calls)
		}
	}
}

func figureClaim() *dedup.Claim {
	var k dedup.Key
	for i := range k {
		k[i] = byte(rand.Uint32())
	}
	return &dedup.Claim{Keys: []dedup.Identity{{Key: k, Print: k}}, Nonce: rand.Uint64() | 1, Tenant: "default", Agent: "a", Tool: "t", Record: func() []byte { return make([]byte, 500) }}
}

// claimOnly runs the claim's script as Begin does, without the journal.
func claimOnly(r *Redis) error {
	v, _, _, err := r.claim(context.Background(), r.home, figureClaim(), "request")
	if err == nil && v.word != "mine" {
		err = fmt.Errorf("the claim is %q", v.word)
	}
	return err
}

// wholeCall claims and ends a call with an answer of 1 KiB.
func wholeCall(r *Redis) error { return callOf(r, figureClaim()) }

func callOf(r *Redis, c *dedup.Claim) error {
	b, err := r.Begin(context.Background(), c)
	if err != nil || b.Status != dedup.Mine {
		return fmt.Errorf("%v: %w", b.Status, err)
	}
	return r.Finish(context.Background(), &dedup.End{
		Keys: c.Keys, Agent: c.Agent, Fence: b.Fence, Nonce: c.Nonce, Outcome: dedup.Done, Keep: time.Minute, Record: make([]byte, 500),
		Answer: &dedup.Answer{Status: 200, Body: make([]byte, 1024), Size: 1024, Kept: true},
	})
}

func roundTrip(r *Redis) error {
	_, err := r.client.do(context.Background(), "EXISTS", r.client.key("none"))
	return err
}

// perSecond is how often the callers together get done.
func perSecond(t *testing.T, callers int, call func() error) float64 {
	t.Helper()
	var done atomic.Int64
	var failed atomic.Pointer[error] // the first
	var work sync.WaitGroup
	begin := time.Now()
	for range callers {
		work.Go(func() {
			for time.Since(begin) < figureLength {
				if err := call(); err != nil {
					failed.CompareAndSwap(nil, &err)
					pause(t.Context(), probeEvery)
					continue
				}
				done.Add(1)
			}
		})
	}
	work.Wait()
	if err := failed.Load(); err != nil {
		t.Logf("%d callers: this machine is too busy for figures: %v", callers, *err)
	}
	return float64(done.Load()) / time.Since(begin).Seconds()
}

// typical is the median time of one call, in microseconds.
func typical(t *testing.T, call func() error) float64 {
	t.Helper()
	all := make([]time.Duration, 2000)
	for i := range all {
		begin := time.Now()
		if err := call(); err != nil {
			t.Fatal(err)
		}
		all[i] = time.Since(begin)
	}
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds()) / 1000
}

// serverLimit has redis-benchmark send the claim's script as the store would send it, with keys and nonces of its own.
func serverLimit(t *testing.T, program, addr string, r *Redis, callers, pipeline int) float64 {
	t.Helper()
	host, port := split(addr)
	c := figureClaim()
	keys := []string{r.base + "fence"}
	args := append([]any{r.base, r.ahead().Microseconds(), r.instance}, r.claimArgs(r.home, c, "request")...)
	args[3] = r.home.clock.now() + time.Hour.Microseconds()
	const random = "__rand_int__" // becomes twelve digits
	text := keyText(c.Keys[0].Key)
	words := []string{"-h", host, "-p", port, "-c", strconv.Itoa(callers), "-P", strconv.Itoa(pipeline), "-n", strconv.Itoa(20_000 * min(callers, 2)), "-r", "1000000000", "--csv"}
	for _, a := range beginScript.command(false, keys, args) {
		word := fmt.Sprint(a)
		switch word {
		case text:
			word = random + word[len(random):]
		case strconv.FormatUint(c.Nonce, 10):
			word = random
		}
		words = append(words, word)
	}
	out, err := exec.Command(program, words...).Output()
	if err != nil {
		t.Fatalf("redis-benchmark: %v: %s", err, out)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.ReplaceAll(string(out), "\r", "\n"))).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("redis-benchmark said %q: %v", out, err)
	}
	rate, err := strconv.ParseFloat(rows[len(rows)-1][1], 64)
	if err != nil {
		t.Fatalf("redis-benchmark said %q: %v", out, err)
	}
	return rate
}
