package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// burst is one round of TestTerminateUnderLoad: what each call came to, by its body.
type burst struct {
	s       *sidecar
	replied atomic.Int64

	mu      sync.Mutex
	results map[string]lastWord // guarded by mu
}

// lastWord is what a client was told, or that it was told nothing.
type lastWord struct {
	answer
	err error
}

// worker calls, each time with other arguments, until a call is not answered by the tool.
func (l *burst) worker(round, n int) {
	for i := 0; ; i++ {
		body := fmt.Sprintf(`{"round":%d,"worker":%d,"call":%d}`, round, n, i)
		if r := l.call(body); r.err != nil || r.status != 200 {
			return
		}
		l.replied.Add(1)
	}
}

func (l *burst) call(body string) lastWord {
	a, err := trySend("POST", "http://"+l.s.proxy+"/tools/pay", body)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[body] = lastWord{a, err}
	return l.results[body]
}

// TestTerminateUnderLoad ends the sidecar by SIGTERM while many calls run, with a drain of ten seconds. No call that was
// accepted is cut; what was refused never ran; the calls that do not end within the drain are unknown, their clients are
// told so, and they are listed after the restart.
func TestTerminateUnderLoad(t *testing.T) {
	t.Parallel()
	rounds := 3
	if os.Getenv("OO_SOAK") != "" {
		rounds = 50
	}
	const workers, stuck = 32, 2
	var hold atomic.Pointer[chan bool] // closed when the stuck calls of the round may end
	arrived := make(chan bool, stuck)
	a := act(t, func(x *scene) {
		if strings.Contains(x.body, "stuck") {
			until := *hold.Load()
			arrived <- true
			<-until
			return
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // the tool's work, so that some is going on at any moment
		x.answer(200, "receipt for "+x.body)
	})
	s := start(t, []settings{a.tool("pay", settings{"timeout": "60s", "max_in_flight": 256})}, settings{"proxy": settings{"drain": "10s"}})
	seen := map[string]int{}
	for round := range rounds {
		gate := make(chan bool)
		hold.Store(&gate)
		l := &burst{s: s, results: map[string]lastWord{}}
		var all, ending sync.WaitGroup
		for n := range stuck {
			ending.Go(func() { l.call(fmt.Sprintf(`{"round":%d,"stuck":%d}`, round, n)) })
			got(t, "the call that does not end began", arrived)
		}
		for n := range workers {
			all.Go(func() { l.worker(round, n) })
		}
		enough := 200 + rand.Int64N(400)
		eventually(t, "the load ran", func() bool { return l.replied.Load() > enough })
		began := time.Now()
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		all.Wait()
		if err := got(t, "the process ended", s.exited); err != nil {
			t.Errorf("round %d: it left with %v:\n%s", round, err, s.log)
		}
		if took := time.Since(began); took < 9*time.Second || took > 30*time.Second {
			t.Errorf("round %d: with two calls that do not end it left after %s", round, took)
		}
		close(gate)
		ending.Wait()
		s.run()
		for body, r := range l.results {
			what := s.settled(a, body, r)
			seen[what]++
			if strings.HasPrefix(what, "WRONG") {
				t.Errorf("round %d: %s: %s: %d %v %.200s", round, body, what, r.status, r.err, r.body)
			}
		}
		if n := s.unknowns(); n != stuck*(round+1) {
			t.Errorf("round %d: %d unknown calls are listed, wanted %d", round, n, stuck*(round+1))
		}
	}
	for what, n := range seen {
		t.Logf("%6d  %s", n, what)
	}
	s.stop()
	s.verify()
}

// settled says what became of a call by what its client was told, what the tool saw, and what a repetition after the
// restart is told.
func (s *sidecar) settled(a *actor, body string, r lastWord) string {
	ran := a.times(body)
	if strings.Contains(body, "stuck") {
		again := s.invoke("pay", body)
		if again.code() != "outcome_unknown" || ran != 1 || r.err != nil || r.code() != "upstream_outcome_unknown" {
			return fmt.Sprintf("WRONG: cannot end, then %d %s, ran %d", again.status, again.code(), ran)
		}
		return "cannot end: unknown, and listed"
	}
	switch {
	case r.err == nil && r.status == 200:
		again := s.invoke("pay", body)
		if !again.replayed() || again.body != r.body || r.body != "receipt for "+body || ran != 1 || a.times(body) != 1 {
			return fmt.Sprintf("WRONG: answered, then %d %q, ran %d", again.status, again.body, a.times(body))
		}
		return "accepted: answered, and kept"
	case ran != 0:
		return fmt.Sprintf("WRONG: it ran %d times and its client was not told", ran)
	case r.err == nil && r.status == 503 && r.code() == "draining":
		return "refused: draining"
	case r.err != nil:
		return "never taken: its connection was closed or refused"
	}
	return "WRONG: neither answered nor refused as draining"
}
