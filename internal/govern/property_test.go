package govern_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// judge watches the tools' side for what must never happen, whatever tools, agents and operators do.
type judge struct {
	*testing.T
	mu    sync.Mutex
	calls map[string]*judged // by tool and arguments; guarded by mu
}

// judged is what became of one call.
type judged struct {
	effect  string
	running bool
	ran     bool   // an attempt did, or may have done, what was asked
	key     string // upstream, of the last such attempt
	fence   uint64
}

// enters holds an attempt against what went before.
func (j *judge) enters(a *govern.Attempt) *judged {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := a.Tool.Name + " " + string(a.Body)
	c := j.calls[id]
	if c == nil {
		c = &judged{effect: a.Tool.Effect.String()}
		j.calls[id] = c
	}
	key, fence := header(a.Header, "Idempotency-Key"), fenceOf(a)
	switch {
	case c.running:
		j.Errorf("%s is at the tool twice at once", id)
	case c.ran && c.effect == "mutating":
		j.Errorf("%s is executed a second time", id)
	case c.ran && c.effect == "idempotent" && (key != c.key || fence <= c.fence):
		j.Errorf("%s is sent again with key %s, fence %d after %s, %d", id, key, fence, c.key, c.fence)
	}
	c.running = true
	return c
}

func fenceOf(a *govern.Attempt) (n uint64) {
	_, _ = fmt.Sscan(header(a.Header, "X-OnceOnly-Fence"), &n)
	return n
}

func (j *judge) leaves(c *judged, a *govern.Attempt, ran bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c.running = false
	if ran {
		c.ran, c.key, c.fence = true, header(a.Header, "Idempotency-Key"), fenceOf(a)
	}
}

// whims are what a tool may do, and whether it may have run then.
var whims = []struct {
	act act
	ran bool
}{
	{answers(200, "done", jsonType), true},
	{answers(201, "done"), true},
	{answers(302, "elsewhere"), true},
	{answers(404, "no"), false},
	{answers(429, "later"), false},
	{answers(500, "oops"), true},
	{halves(200, "do"), true},
	{streams(200, nil, "do", "ne"), true},
	{streams(200, errors.New("played"), "do"), true},
	{loses(govern.Queued, govern.ErrUnreachable), false},
	{loses(govern.Dialled, govern.ErrUntrusted), false},
	{loses(govern.FirstByte, govern.ErrBroken), true},
	{loses(govern.Flushed, context.DeadlineExceeded), true},
	{panics, true},
}

// play does something at random, in some time.
func (j *judge) play(pick func(int) int) act {
	return func(ctx context.Context, a *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		c := j.enters(a)
		whim := whims[pick(len(whims))]
		defer func() { j.leaves(c, a, whim.ran) }()
		time.Sleep(time.Duration(pick(5)) * time.Second)
		return whim.act(ctx, a)
	}
}

func TestNothingRunsTwice(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { nothingRunsTwice(t, seed) })
		if t.Failed() {
			return
		}
	}
}

func nothingRunsTwice(t *testing.T, seed uint64) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	pick := func(n int) int { mu.Lock(); defer mu.Unlock(); return random.IntN(n) }
	hour, spend := int64(12), 4*tool.USD
	s := fourEffects().under(policy.Config{MaxActionsPerHour: &hour, MaxSpendUSDPerDay: &spend})
	s.answerBytes = []int64{1, 64}[pick(2)]
	for i := range s.tools {
		s.tools[i].MaxRetries, s.tools[i].MaxInFlight = ptr(pick(3)), 1+pick(4)
	}
	in(t, s, func(w *world) {
		j := &judge{T: t, calls: map[string]*judged{}}
		w.stage.always = j.play(pick)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 6 {
					time.Sleep(time.Duration(pick(3000)) * time.Millisecond)
					a := named([]string{"mutating", "mutating", "idempotent", "read"}[pick(4)], fmt.Sprintf(`{"n":%d}`, pick(3)))
					a.hangsUp = pick(4) == 0
					r := w.ask(a)
					truthful(t, r)
				}
			})
		}
		all.Go(func() { // an operator who cannot make up his mind
			for range 3 {
				time.Sleep(time.Duration(pick(5000)) * time.Millisecond)
				w.off("ag")
				time.Sleep(time.Duration(pick(300)) * time.Millisecond)
				w.on("ag")
			}
		})
		all.Wait()
		synctest.Wait()
		settled(w, hour, spend)
	})
}

// truthful: an answer contradicts neither itself nor what was sent.
func truthful(t *testing.T, r *reply) {
	t.Helper()
	if r.Decision == govern.Blocked && r.Outcome != "not_sent" {
		t.Errorf("blocked with the outcome %q", r.Outcome)
	}
	if r.Refusal == nil {
		return
	}
	var problem struct {
		Code      string
		Retryable bool
	}
	if err := json.Unmarshal(r.Body, &problem); err != nil || problem.Code != r.Reason || r.Status < 400 {
		t.Errorf("%d says %q in its header and %s", r.Status, r.Reason, r.Body)
	}
	if problem.Retryable && (r.Outcome == "unknown" || r.Outcome == "done") {
		t.Errorf("%s with the outcome %s invites a retry", problem.Code, r.Outcome)
	}
}

// settled holds what the agent is charged against what the audit says became of its calls.
func settled(w *world, hour int64, spend tool.Money) {
	w.Helper()
	var spent tool.Money
	for _, r := range w.records("") {
		cost, err := tool.ParseMoney(r.SpendUSD)
		if err != nil {
			w.Error(err)
		}
		spent += cost
		if cost > 0 && r.Outcome != "done" && r.Outcome != "unknown" {
			w.Errorf("spent on %+v", r)
		}
	}
	u := w.store.Usage("default", "ag", "mutating")
	if u.DaySpend != spent || u.DaySpend > spend || u.HourCalls > hour {
		w.Errorf("charged %d calls, %s; the audit says %s; the caps are %d, %s", u.HourCalls, u.DaySpend, spent, hour, spend)
	}
}
