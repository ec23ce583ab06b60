package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// keeper is a real redis-server that keeps every write.
type keeper struct {
	t    testing.TB
	addr string
	args []string
	cmd  *exec.Cmd
}

func keep(t testing.TB) *keeper {
	t.Helper()
	k := &keeper{t: t, addr: stand.FreeAddr(t)}
	k.args = []string{stand.Program(t, "redis-server"), "--bind", "127.0.0.1", "--port", port(k.addr), "--dir", t.TempDir(), "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"}
	k.run()
	t.Cleanup(k.kill)
	return k
}

func (k *keeper) run() {
	k.t.Helper()
	k.cmd = exec.Command(k.args[0], k.args[1:]...)
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	eventually(k.t, "redis-server answers", func() bool { return k.say("PING") == "+PONG" })
}

func (k *keeper) kill() {
	_ = k.cmd.Process.Kill()
	_ = k.cmd.Wait()
}

// say sends a command of plain words and returns the first line of the reply.
func (k *keeper) say(command string) string {
	c, err := net.DialTimeout("tcp", k.addr, time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "%s\r\n", command)
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

// fleet starts sidecars that share the server.
func (k *keeper) fleet(n int, tools []settings, more settings) (all []*sidecar) {
	for range n {
		merged := settings{"store": settings{"kind": "redis", "redis": settings{"addrs": []string{k.addr}}}}
		for section, v := range more {
			merged[section] = v
		}
		all = append(all, start(k.t, tools, merged))
	}
	return all
}

// p99 sorts what was measured.
func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// TestOneExecutionOnManySidecars: 20,000 calls of one key by 64 clients at three sidecars run once, and every caller gets
// the one answer.
func TestOneExecutionOnManySidecars(t *testing.T) {
	a := act(t, ok)
	all := keep(t).fleet(3, []settings{a.tool("pay", nil)}, nil)
	var away atomic.Int64 // Redis has 250 ms for an answer: on a busy machine some do not come in time, and callers ask again
	answers := many(20_000, 64, func(i int) answer {
		for {
			r := all[i%3].call("pay", `{"same":1}`)
			if r.status != http.StatusServiceUnavailable || away.Add(1) > 20_000 {
				return r
			}
		}
	})
	t.Logf("20,000 calls of one key; %d answers were 503", away.Load())
	executed, replayed := 0, 0
	for _, r := range answers {
		if r.status != 200 || r.body != answers[0].body {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if r.replayed() {
			replayed++
		} else {
			executed++
		}
	}
	if a.ran("pay") != 1 || executed != 1 || replayed != len(answers)-1 {
		t.Fatalf("ran %d times; %d say that they ran it, %d are replays", a.ran("pay"), executed, replayed)
	}
	for _, s := range all {
		s.verify()
	}
}

// TestWaitersOnOtherSidecars: callers that wait elsewhere have the answer soon after it is there.
func TestWaitersOnOtherSidecars(t *testing.T) {
	type held struct{ let, in chan bool }
	var gate atomic.Pointer[held]
	a := act(t, func(x *scene) {
		g := gate.Load()
		close(g.in)
		<-g.let
		ok(x)
	})
	k := keep(t)
	all := k.fleet(3, []settings{a.tool("pay", nil)}, nil)
	measure := func(how string, rounds int) []time.Duration {
		var mu sync.Mutex
		var took []time.Duration
		for round := range rounds {
			g := &held{make(chan bool), make(chan bool)}
			gate.Store(g)
			body := fmt.Sprintf(`{"%s":%d}`, how, round)
			done := later(func() time.Time { all[0].call("pay", body); return time.Now() })
			got(t, "the tool is asked", g.in)
			var waiters sync.WaitGroup
			ends := make([]time.Time, 8)
			for i := range ends {
				waiters.Go(func() {
					if r := all[1+i%2].call("pay", body); r.status != 200 || !r.replayed() {
						t.Errorf("%d %s", r.status, r.body)
					}
					ends[i] = time.Now()
				})
			}
			eventually(t, "they wait", func() bool { return all[1].running()+all[2].running() == len(ends) })
			close(g.let)
			end := got(t, "the holder's answer", done)
			waiters.Wait()
			mu.Lock()
			for _, e := range ends {
				took = append(took, max(0, e.Sub(end)))
			}
			mu.Unlock()
		}
		return took
	}
	pushed := p99(measure("pushed", 25))
	t.Logf("waiters on other sidecars had the answer %v after it was there (p99; wanted 50ms)", pushed)
	if pushed > 500*time.Millisecond {
		t.Errorf("%v", pushed)
	}
	over, cut := make(chan bool), make(chan bool)
	go func() {
		defer close(cut)
		for {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
				k.say("CLIENT KILL TYPE pubsub")
			}
		}
	}()
	polled := p99(measure("polled", 5))
	close(over)
	<-cut
	t.Logf("with pub/sub cut: %v (p99; wanted 600ms)", polled)
	if polled > 6*time.Second {
		t.Errorf("%v", polled)
	}
	if ran := a.ran("pay"); ran != 30 {
		t.Errorf("30 calls ran %d times", ran)
	}
}

// TestRedisAway: what needs a claim is refused at once and nothing is sent, reads and waived tools go on and are counted,
// the kubelet does not restart anybody, and all is well again when the server is.
func TestRedisAway(t *testing.T) {
	a := act(t, ok)
	k := keep(t)
	s := k.fleet(1, []settings{
		a.tool("pay", nil), a.tool("look", settings{"effect": "read"}), a.tool("waived", settings{"on_store_error": "allow"}),
	}, nil)[0]
	if r := s.call("pay", `{"n":0}`); r.status != 200 {
		t.Fatal(r.status, r.body)
	}
	k.kill()
	var worst time.Duration
	for n := range 20 {
		began := time.Now()
		r := s.call("pay", fmt.Sprintf(`{"away":%d}`, n))
		worst = max(worst, time.Since(began))
		if problem(t, "pay", r, 503, "store_unavailable"); r.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	t.Logf("refused within %v while Redis is away (wanted 250ms)", worst)
	if worst > 2500*time.Millisecond {
		t.Error(worst)
	}
	for _, name := range []string{"look", "waived"} {
		if r := s.call(name, `{"away":1}`); r.status != 200 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := s.send("GET", "http://"+s.health+"/livez", ""); r.status != http.StatusOK {
		t.Error("livez", r.status)
	}
	if r := s.send("GET", "http://"+s.health+"/readyz?verbose", ""); r.status != http.StatusServiceUnavailable || !strings.Contains(r.body, "redis: away") {
		t.Error("readyz", r.status, r.body)
	}
	if n := s.metric(`oo_sidecar_fail_open_total{check="store"}`); n != "2" {
		t.Error("fail open", n)
	}
	if _, _, code := s.cli("agent", "disable", "e2e-agent", "--reason", "while Redis is away"); code != 0 {
		t.Error("the switch does not work while Redis is away")
	}
	problem(t, "disabled", s.call("look", `{"away":2}`), 403, "agent_disabled")
	k.run()
	other := k.fleet(1, []settings{a.tool("pay", nil)}, nil)[0]
	eventually(t, "the switch reaches the others", func() bool { return other.call("pay", `{"n":0}`).code() == "agent_disabled" })
	eventually(t, "it is ready again", func() bool { return s.send("GET", "http://"+s.health+"/readyz", "").status == 200 })
	if _, errs, code := s.cli("agent", "enable", "e2e-agent"); code != 0 {
		t.Fatal(errs)
	}
	eventually(t, "the replay is back", func() bool { return s.call("pay", `{"n":0}`).replayed() })
	if ran := a.ran("pay"); ran != 1 {
		t.Errorf("pay ran %d times", ran)
	}
}

// TestRedisKilledUnderLoad: at most one execution for each key, whatever happens to the server meanwhile, and every call
// that was answered 200 ran.
func TestRedisKilledUnderLoad(t *testing.T) {
	a := act(t, ok)
	k := keep(t)
	all := k.fleet(3, []settings{a.tool("pay", nil)}, nil)
	const keys, rounds = 600, 3
	var seen atomic.Int64
	killed := later(func() bool {
		for n := range 3 {
			for seen.Load() < int64(n+1)*keys*rounds/4 {
				time.Sleep(time.Millisecond) // the load is what is waited for
			}
			k.kill()
			k.run()
		}
		return true
	})
	type said struct {
		key  int
		code string
		ok   bool
	}
	answers := many(keys*rounds, 48, func(i int) said {
		key := i / rounds
		r := all[i%3].call("pay", fmt.Sprintf(`{"key":%d}`, key))
		seen.Add(1)
		return said{key, r.code(), r.status == 200}
	})
	got(t, "three kills", killed)
	served, codes := map[int]bool{}, map[string]int{}
	for _, r := range answers {
		if r.ok {
			served[r.key] = true
			continue
		}
		if codes[r.code]++; !slices.Contains([]string{"store_unavailable", "outcome_unknown", "in_flight"}, r.code) {
			t.Errorf("key %d: %q", r.key, r.code)
		}
	}
	t.Logf("%d of %d keys served; refusals: %v", len(served), keys, codes)
	for key := range keys {
		body := fmt.Sprintf(`{"key":%d}`, key)
		if ran := a.times(body); ran > 1 || ran == 0 && served[key] {
			t.Errorf("key %d ran %d times, served %v", key, ran, served[key])
		}
	}
	if len(served) < keys/4 {
		t.Errorf("only %d keys were ever served", len(served))
	}
	eventually(t, "all three serve again", func() bool {
		for i, s := range all {
			if s.call("pay", fmt.Sprintf(`{"after":%d}`, i)).status != 200 {
				return false
			}
		}
		return true
	})
	for _, s := range all {
		s.verify()
	}
}

// TestCommandsOnRedis: the commands that ask a sidecar ask one of many alike.
func TestCommandsOnRedis(t *testing.T) {
	a := act(t, func(x *scene) {
		if x.name() == "lost" {
			x.reset()
			return
		}
		ok(x)
	})
	all := keep(t).fleet(2, []settings{a.tool("pay", nil), a.tool("lost", nil)}, settings{"policies": []settings{{"agent_id": "e2e-agent", "max_actions_per_hour": 100}}})
	one, other := all[0], all[1]
	lost := one.call("lost", `{"n":1}`)
	problem(t, "lost", lost, 504, "upstream_outcome_unknown")
	problem(t, "lost elsewhere", other.call("lost", `{"n":1}`), 409, "outcome_unknown")
	key := lost.header.Get("X-OnceOnly-Key")
	if list, errs, code := other.cli("unknown", "ls", "-o", "json"); code != 0 || !strings.Contains(list, key) {
		t.Fatal(list, errs)
	}
	if out, errs, code := other.cli("unknown", "resolve", key, "--outcome", "not-executed", "--why", "test", "--force"); code != 0 {
		t.Fatal(out, errs, other.log)
	}
	problem(t, "lost again", one.call("lost", `{"n":1}`), 504, "upstream_outcome_unknown")
	if ran := a.ran("lost"); ran != 2 {
		t.Errorf("ran %d times", ran)
	}
	shown := other.call("pay", `{"n":2}`).header.Get("X-OnceOnly-Key")
	if out, errs, _ := one.cli("explain", "POST", a.URL+"/pay", "-H", "Content-Type: application/json", "-d", `{"n":2}`); shown == "" || !strings.Contains(out, shown) {
		t.Errorf("the key is not shown as %q\n%s%s", shown, out, errs)
	}
	file := t.TempDir() + "/change.yaml"
	if err := os.WriteFile(file, []byte("version: 1\npolicies: [{agent_id: e2e-agent, blocked_tools: [pay]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := one.cli("apply", "-f", file); code != 0 || !strings.Contains(out, "changed") {
		t.Fatal(out, errs)
	}
	eventually(t, "the policy holds elsewhere", func() bool { return other.call("pay", `{"n":2}`).code() == "tool_explicitly_blocked" })
	if out, errs, _ := other.cli("explain", "POST", "/tools/pay", "-d", "{}"); !strings.Contains(out, "tool_explicitly_blocked") {
		t.Errorf("the policy is not explained elsewhere: %s%s", out, errs)
	}
	if out, errs, code := other.cli("agent", "ls"); code != 0 || !strings.Contains(out, "e2e-agent") {
		t.Error(out, errs)
	}
	if out, errs, code := one.cli("audit", "export"); code != 0 || strings.Count(out, "\n") < 2 {
		t.Error(out, errs)
	}
	for _, s := range all {
		s.verify()
	}
}
