package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// poison puts a proxy in the way to an address that can be made to misbehave.
func poison(t testing.TB, upstream string) *toxiproxy.Proxy {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // its toxics do not ask the logger that they are given
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", upstream)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// toxics are ways to misbehave, in toxiproxy's words. The first number of each is for the way to Redis, the other for the
// way back.
var toxics = []string{
	`"type":"latency","attributes":{"latency":60,"jitter":50}`,
	`"type":"latency","attributes":{"latency":400,"jitter":300}`,
	`"type":"reset_peer","attributes":{"timeout":40}`,
	`"type":"timeout","attributes":{"timeout":80}`,
	`"type":"timeout","attributes":{"timeout":0}`,
	`"type":"bandwidth","attributes":{"rate":8}`,
	`"type":"slicer","attributes":{"average_size":40,"size_variation":30,"delay":300}`,
	`"type":"limit_data","attributes":{"bytes":3000}`,
}

// TestRedisThroughToxics: whatever the way to Redis does under load, in either direction and to one sidecar or all, a key
// is executed once at most and the budget is not passed.
func TestRedisThroughToxics(t *testing.T) {
	const keys, rounds, most = 1200, 3, 700
	a, k := act(t, ok), keep(t)
	policies := []settings{{"agent_id": "*", "max_calls_per_tool": settings{"pay": most}}}
	var all []*sidecar
	var ways []*toxiproxy.Proxy
	for range 3 {
		way := poison(t, k.addr)
		ways = append(ways, way)
		all = append(all, (&keeper{t: t, addr: way.Listen}).fleet(1, []settings{a.tool("pay", nil)}, settings{"policies": policies})...)
	}
	var over atomic.Bool
	poisoned := later(func() int {
		n := 0
		for ; !over.Load(); n++ {
			stream := []string{"upstream", "downstream"}[n/len(toxics)%2]
			for i, way := range ways {
				if i == n%3 || n%4 == 0 {
					if _, err := way.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"name":"t","stream":%q,%s}`, stream, toxics[n%len(toxics)]))); err != nil {
						t.Error(err)
					}
				}
			}
			if n%5 == 4 {
				_ = k.cmd.Process.Signal(syscall.SIGSTOP)
			}
			time.Sleep(300 * time.Millisecond)
			_ = k.cmd.Process.Signal(syscall.SIGCONT)
			for _, way := range ways {
				way.Toxics.ResetToxics(t.Context())
			}
			time.Sleep(200 * time.Millisecond)
		}
		return n
	})
	codes := map[string]int{}
	for _, r := range many(keys*rounds, 48, func(i int) answer {
		for try := 0; ; try++ {
			r := all[i%3].call("pay", fmt.Sprintf(`{"key":%d}`, i/rounds))
			if r.status != http.StatusServiceUnavailable || try == 40 {
				return r
			}
			time.Sleep(20 * time.Millisecond)
		}
	}) {
		code := "served"
		if r.status != 200 {
			code = r.code()
		}
		if codes[code]++; !slices.Contains([]string{"served", "store_unavailable", "outcome_unknown", "in_flight", "max_calls_per_tool_exceeded"}, code) {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	over.Store(true)
	t.Logf("%d toxics: %v; %d executed", got(t, "the last toxic", poisoned), codes, a.ran("pay"))
	for key := range keys {
		if ran := a.times(fmt.Sprintf(`{"key":%d}`, key)); ran > 1 {
			t.Errorf("key %d ran %d times", key, ran)
		}
	}
	eventually(t, "the budget is used up, and no more", func() bool {
		for i := range 3 * most {
			if r := all[i%3].call("pay", fmt.Sprintf(`{"more":%d}`, i)); r.code() == "max_calls_per_tool_exceeded" {
				return true
			}
		}
		return false
	})
	if ran := a.ran("pay"); ran > most || ran < most*9/10 {
		t.Errorf("%d calls were executed; the budget is %d", ran, most)
	}
	for _, s := range all {
		s.verify()
	}
}

// TestASidecarStops has a sidecar stop with its call on the way until the others have given it up, and go on. Its call is
// unknown to the others meanwhile, runs nowhere else, and its answer is everybody's in the end.
func TestASidecarStops(t *testing.T) {
	let, in := make(chan bool), make(chan bool, 9)
	a := act(t, func(x *scene) {
		in <- true
		<-let
		ok(x)
	})
	all := keep(t).fleet(2, []settings{a.tool("pay", settings{"timeout": "60s"})}, nil)
	first := later(func() answer { return all[0].call("pay", `{"n":1}`) })
	got(t, "the tool is asked", in)
	t.Cleanup(func() { _ = all[0].cmd.Process.Signal(syscall.SIGCONT) })
	_ = all[0].cmd.Process.Signal(syscall.SIGSTOP)
	r := all[1].call("pay", `{"n":1}`) // waits until the first is given up
	_ = all[0].cmd.Process.Signal(syscall.SIGCONT)
	if close(let); r.code() != "outcome_unknown" {
		t.Fatal(r.status, r.body)
	}
	if r := got(t, "its answer", first); r.status != 200 || r.replayed() {
		t.Fatal(r.status, r.body)
	}
	eventually(t, "the others have it", func() bool { r := all[1].call("pay", `{"n":1}`); return r.status == 200 && r.replayed() })
	if ran := a.ran("pay"); ran != 1 {
		t.Errorf("it ran %d times", ran)
	}
	if r := all[0].call("pay", `{"n":2}`); r.status != 200 {
		t.Error(r.status, r.body)
	}
	for _, s := range all {
		s.verify()
	}
}
