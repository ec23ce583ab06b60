package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// won claims the call of that name.
func won(t *testing.T, r *Redis, name string) (*dedup.Claim, dedup.Begun) {
	t.Helper()
	c := storetest.NewClaim(name)
	b, err := r.Begin(t.Context(), c)
	if err != nil || b.Status != dedup.Mine {
		t.Fatalf("%s: %+v, %v", name, b, err)
	}
	return c, b
}

// stands claims the call once more, and again while the store says that it takes none.
func stands(t *testing.T, r *Redis, name string, want dedup.Status) dedup.Begun {
	t.Helper()
	var b dedup.Begun
	until(t, "the store says how "+name+" stands", func() (ok bool) {
		var err error
		b, err = r.Begin(t.Context(), storetest.NewClaim(name))
		if err != nil && !errors.Is(err, dedup.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
	if b.Status != want {
		t.Fatalf("%s stands as %+v, not %d", name, b, want)
	}
	return b
}

// TestRedisFailsUnderLoad stops, lets go, kills and restarts a server that keeps every write while three sidecars run
// calls, each asked for four times.
func TestRedisFailsUnderLoad(t *testing.T) {
	s := redistest.Start(t)
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Hold: 200 * time.Millisecond}))
	stop := f.load(t)
	for range 2 {
		time.Sleep(300 * time.Millisecond)
		s.Pause()
		time.Sleep(500 * time.Millisecond)
		s.Resume()
		time.Sleep(300 * time.Millisecond)
		s.Kill()
		time.Sleep(200 * time.Millisecond)
		s.Restart()
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	f.once(t)
	t.Cleanup(func() {
		t.Logf("%+v of %d calls are charged, open are %+v", f.stores[0].Usage("default", "a", "pay"), len(f.executed), f.stores[0].Open())
	})
	until(t, "all is recorded and what was given up is released", func() bool {
		u := f.stores[0].Usage("default", "a", "pay")
		return len(f.stores[0].Open()) == 0 && u.HourCalls == int64(len(f.executed)) && u.DaySpend == tool.Money(100*u.HourCalls)
	})
	t.Logf("%d calls executed, %d answers given, %d refused", len(f.executed), f.given["x1"], f.away)
	if len(f.executed) < 20 {
		t.Errorf("only %d calls came through", len(f.executed))
	}
}

// TestWhatRedisLostIsGivenBack kills a server that keeps nothing.
func TestWhatRedisLostIsGivenBack(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}, Hold: 3 * time.Second})
	a, b := stores[0], stores[1]
	running, mine := won(t, a, "running")
	for name, o := range map[string]dedup.Outcome{"unknown": dedup.Unknown, "done": dedup.Done, "failed": dedup.Failed, "not sent": dedup.NotSent} {
		c, begun := won(t, a, name)
		if err := a.Finish(t.Context(), storetest.Ending(c, begun, o)); err != nil {
			t.Fatal(err)
		}
	}
	before := a.Usage("default", "a", "pay")
	s.Kill()
	s.Restart()
	if n := s.Do("DBSIZE"); n != int64(0) {
		t.Logf("%v keys are back already", n)
	}
	stands(t, b, "running", dedup.InFlight)
	stands(t, b, "unknown", dedup.Blocked)
	if d := stands(t, b, "done", dedup.Replay); !d.Answer.Kept {
		t.Fatalf("its answer is lost: %+v", d.Answer)
	}
	stands(t, b, "failed", dedup.Replay)
	if after := b.Usage("default", "a", "pay"); after != before {
		t.Fatalf("charged were %+v, now %+v", before, after)
	}
	if err := a.Finish(t.Context(), storetest.Ending(running, mine, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	stands(t, b, "running", dedup.Replay)
	stands(t, b, "not sent", dedup.Mine)
	if after := b.Usage("default", "a", "pay"); after.HourCalls != before.HourCalls+1 {
		t.Fatalf("charged were %+v, now %+v", before, after)
	}
}

// TestPossibleDoubleExecution has another sidecar win what Redis has forgotten before its holder could say so.
func TestPossibleDoubleExecution(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}})
	a, b := stores[0], stores[1]
	var told atomic.Int64
	a.OnDoubleExecution(func() { told.Add(1) })
	ended, mine := won(t, a, "ended")
	if err := a.Finish(t.Context(), storetest.Ending(ended, mine, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	running, still := won(t, a, "running")
	s.Do("FLUSHALL")
	s.Do("SET", a.base+"life", *a.home.life.Load()) // nobody notices
	other, _ := won(t, b, "ended")
	won(t, b, "running")
	a.failedOver(a.home)
	until(t, "the double execution is told", func() bool { return told.Load() == 1 })
	if err := a.Finish(t.Context(), storetest.Ending(running, still, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("%v", err)
	}
	a.answers.clear()
	if d := stands(t, a, "ended", dedup.InFlight); d.Fence == mine.Fence {
		t.Fatalf("Redis does not stay with %+v: %+v", other, d)
	}
	if told.Load() != 1 {
		t.Fatalf("told %d times", told.Load())
	}
	var changes int
	for st, err := range a.Journal().Entries(0) {
		if err == nil && st.Kind == audit.KindChange && strings.Contains(string(st.Fact), "possible_double_execution") {
			changes++
		}
	}
	if changes != 1 {
		t.Fatalf("%d changes in the audit tell of it", changes)
	}
}

// TestWhoEndsACallHearsFirst has an assertion find another holder while the call's own end is on its way.
func TestWhoEndsACallHearsFirst(t *testing.T) {
	s := redistest.Start(t)
	a := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	told := 0
	a.OnDoubleExecution(func() { told++ })
	c, mine := won(t, a, "x")
	own, e := a.own.find(c.Agent, mine.Fence, c.Nonce), storetest.Ending(c, mine, dedup.Done)
	if _, repeated, err := a.own.ends(own, e, a.nowIn(a.home), journal.Entry{}); repeated || err != nil {
		t.Fatal(repeated, err)
	}
	a.took(own, "overtaken")
	if overtaken := a.own.finished(own); !overtaken || told != 0 {
		t.Errorf("its end hears %t, and the operator was told %d times", overtaken, told)
	}
	a.took(own, "overtaken")
	if err := a.Finish(t.Context(), e); !errors.Is(err, dedup.ErrOvertaken) || told != 0 {
		t.Errorf("a repeated end says %v, and the operator was told %d times", err, told)
	}
}

// TestTheJournalTakesNoOutcome has Redis alone know how a call ended.
func TestTheJournalTakesNoOutcome(t *testing.T) {
	s := redistest.Start(t)
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}})
	a, b := stores[0], stores[1]
	c, mine := won(t, a, "x")
	full := errors.New("full")
	a.own.mu.Lock()
	takes := a.own.append
	a.own.append = func(...journal.Entry) (*journal.Commit, error) { return nil, full }
	a.own.mu.Unlock()
	if err := a.Finish(t.Context(), storetest.Ending(c, mine, dedup.Done)); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	a.own.mu.Lock()
	a.own.append = takes
	a.own.mu.Unlock()
	if n := len(a.Open()); n != 0 {
		t.Errorf("%d calls are open", n)
	}
	stands(t, b, "x", dedup.Replay)
}

// TestAnOutcomeWhileRedisIsAway is kept here and asserted, also by the next process.
func TestAnOutcomeWhileRedisIsAway(t *testing.T) {
	s := redistest.Start(t)
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}})
	a, b := stores[0], stores[1]
	c, mine := won(t, a, "x")
	d, second := won(t, a, "y")
	s.Pause()
	start := time.Now()
	for _, e := range []*dedup.End{storetest.Ending(c, mine, dedup.Done), storetest.Ending(d, second, dedup.Done)} {
		if err := a.Finish(t.Context(), e); !errors.Is(err, dedup.ErrDeferred) {
			t.Fatalf("%v", err)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	start = time.Now()
	if _, err := a.Begin(t.Context(), storetest.NewClaim("z")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	t.Logf("a new claim was refused after %v", time.Since(start))
	opt := a.opt
	opt.Config.Dir = journalCopy(t, opt.Config.Dir)
	s.Resume()
	next := joinRedis(t, opt)
	for _, r := range []*Redis{next, b} {
		if got := stands(t, r, "x", dedup.Replay); !got.Answer.Kept || got.Fence != mine.Fence {
			t.Fatalf("%+v %+v", got, got.Answer)
		}
	}
	stands(t, b, "y", dedup.Replay)
}

// TestAWaivedClaim runs here while Redis is away, once, and stands there when it is back.
func TestAWaivedClaim(t *testing.T) {
	s := redistest.Start(t)
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}})
	a, b := stores[0], stores[1]
	claim := func(name string) *dedup.Claim {
		c := storetest.NewClaim(name)
		c.FailOpen = true
		return c
	}
	begin := func(c *dedup.Claim, want dedup.Status) dedup.Begun {
		t.Helper()
		got, err := a.Begin(t.Context(), c)
		if err != nil || got.Status != want {
			t.Fatalf("%+v, %v, want %d", got, err, want)
		}
		return got
	}
	s.Pause()
	c, running := claim("ended"), claim("running")
	mine := begin(c, dedup.Mine)
	still := begin(running, dedup.Mine)
	if mine.Waived != "store" || mine.Fence != 0 || mine.Generation == 0 || mine.Generation == still.Generation {
		t.Fatalf("%+v %+v", mine, still)
	}
	begin(claim("ended"), dedup.InFlight)
	if err := a.Finish(t.Context(), storetest.Ending(c, mine, dedup.Done)); !errors.Is(err, dedup.ErrDeferred) {
		t.Fatalf("%v", err)
	}
	if d := begin(claim("ended"), dedup.Replay); !d.Answer.Kept {
		t.Fatalf("%+v", d)
	}
	s.Resume()
	until(t, "Redis has heard of them", func() bool { return !a.own.pending() })
	if d := stands(t, b, "ended", dedup.Replay); !d.Answer.Kept {
		t.Fatalf("%+v", d.Answer)
	}
	stands(t, b, "running", dedup.InFlight)
	if err := a.Finish(t.Context(), storetest.Ending(running, still, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	stands(t, b, "running", dedup.Replay)
	until(t, "both are charged, and nothing that was given up", func() bool {
		return b.Usage("default", "a", "pay") == Usage{HourCalls: 2, DaySpend: 200, ToolCalls: 2}
	})
}

// TestAProcessThatDied leaves what it had open unknown, and what Redis has lost of it too.
func TestAProcessThatDied(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	c, mine := won(t, r, "x")
	opt := r.opt
	opt.Config.Dir = journalCopy(t, opt.Config.Dir)
	_ = r.client.close() // the dead say nothing
	s.Do("FLUSHALL")
	next := joinRedis(t, opt)
	d := stands(t, next, "x", dedup.Blocked)
	if d.RequestID != fmt.Sprintf("req-%d", c.Nonce) {
		t.Fatalf("%+v after %+v", d, mine)
	}
	if list := next.Unknowns(); len(list) != 1 || list[0].Tool != "pay" || list[0].Agent != "a" {
		t.Fatalf("%+v", list)
	}
	recovered := 0
	for st, err := range next.Journal().Entries(0) {
		if err == nil && st.Kind == audit.KindRecord && strings.Contains(string(st.Fact), `"recovered":true`) {
			recovered++
		}
	}
	if recovered != 1 {
		t.Fatalf("%d records were completed", recovered)
	}
	if err := next.Resolve(t.Context(), &dedup.Resolution{Key: d.Key, Agent: "a", Fence: d.Fence, Outcome: dedup.NotSent, Force: true, Who: "ops"}, "shown"); err != nil {
		t.Fatal(err)
	}
	stands(t, next, "x", dedup.Mine)
}

// TestAClaimThatWasGivenUp leaves nothing: neither one whose reply never came, nor one that arrives late.
func TestAClaimThatWasGivenUp(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	relay := redistest.NewRelay(t, s.Addr)
	cfg := RedisConfig{Addrs: []string{relay.Addr}, Poll: time.Hour}
	r := sidecars(t, 1, cfg)[0]
	free := func(name string) {
		t.Helper()
		until(t, name+" is free", func() bool {
			return len(r.Open()) == 0 && r.Usage("default", "a", "pay") == (Usage{})
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	relay.Delay(50 * time.Millisecond)
	if b, err := r.Begin(ctx, storetest.NewClaim("left")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatalf("%+v, %v", b, err)
	}
	relay.Delay(0)
	free("what its caller left")
	relay.Blackhole()
	if b, err := r.Begin(t.Context(), storetest.NewClaim("late")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatalf("%+v, %v", b, err)
	}
	time.Sleep(delayFor + 100*time.Millisecond)
	relay.Open()
	free("what came late")
	stands(t, r, "late", dedup.Mine)
	stands(t, r, "left", dedup.Mine)
}

// TestRedisIsFull lets running calls end, and takes no new ones.
func TestRedisIsFull(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	c, mine := won(t, r, "x")
	s.Do("CONFIG", "SET", "maxmemory", "500kb") // less than is in use
	if _, err := r.Begin(t.Context(), storetest.NewClaim("y")); !errors.Is(err, dedup.ErrUnavailable) {
		t.Fatalf("a new claim: %v", err)
	}
	if err := r.Finish(t.Context(), storetest.Ending(c, mine, dedup.Done)); err != nil {
		t.Fatalf("the end of a running call: %v", err)
	}
	until(t, "the checks have seen it", func() bool { return r.Err() != nil })
	t.Log(r.Err())
	if d := stands(t, r, "x", dedup.Replay); d.Fence != mine.Fence {
		t.Fatalf("%+v", d)
	}
	s.Do("CONFIG", "SET", "maxmemory", "100mb")
	until(t, "there is room again", func() bool { return r.Err() == nil })
	stands(t, r, "y", dedup.Mine)
}

// TestACopyOfAClaimArrivesLate, when its call, whose reply was lost once, is over and its key is free.
func TestACopyOfAClaimArrivesLate(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	relay := redistest.NewRelay(t, s.Addr)
	r := sidecars(t, 1, RedisConfig{Addrs: []string{relay.Addr}, Poll: time.Hour})[0]
	var c *dedup.Claim
	var b dedup.Begun
	for i := 0; c == nil || !r.own.find(c.Agent, b.Fence, c.Nonce).lost; i++ { // a beat may be lost in its place
		relay.Lose(1)
		c, b = won(t, r, fmt.Sprint("x", i))
		if i == 10 {
			t.Fatal("no reply is lost")
		}
	}
	end := storetest.Ending(c, b, dedup.Failed)
	end.Keep = 0
	if err := r.Finish(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	v, err := r.ask(t.Context(), r.home, beginScript, fmt.Sprint(c.Nonce), r.claimArgs(r.home, c, "")...)
	if err != nil || v.word != "mine" {
		t.Fatalf("the copy: %+v, %v", v, err)
	}
	until(t, "nothing stands for it", func() bool {
		return !slices.ContainsFunc(r.Open(), func(u UnknownCall) bool { return u.Key == c.Keys[0].Key })
	})
}

// TestFlushUnderLoad: a server that is made to forget everything, its process going on, lets nothing run twice.
func TestFlushUnderLoad(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Poll: time.Minute}))
	var wg sync.WaitGroup
	var next atomic.Int64
	begin := time.Now()
	for range 24 {
		wg.Go(func() {
			for time.Since(begin) < 9*time.Second {
				i := int(next.Add(1))
				f.call(t, i, fmt.Sprint("x", i/6), 700*time.Millisecond)
			}
		})
	}
	for range 3 {
		time.Sleep(2500 * time.Millisecond)
		s.Do("FLUSHALL")
	}
	wg.Wait()
	for i := range 50 { // and what had ended is known still
		f.call(t, i, fmt.Sprint("x", int(next.Load())/6-i), 0)
	}
	f.once(t)
	if len(f.executed) < 50 {
		t.Errorf("only %d calls came through", len(f.executed))
	}
	t.Logf("%d calls, %d callers were refused", len(f.executed), f.away)
}

// TestAServerThatFallsSilentAtTheStart: whichever answer of the start is lost, the store opens and claims soon after.
func TestAServerThatFallsSilentAtTheStart(t *testing.T) {
	server := redistest.Start(t)
	for n := 1; ; n++ {
		relay := redistest.NewRelay(t, server.Addr)
		relay.Lose(n)
		r := joinRedis(t, RedisOptions{Options: Options{Config: EmbeddedConfig{Durability: "process"}}, Redis: RedisConfig{Addrs: []string{relay.Addr}, Prefix: namespace()}})
		asked := relay.Lost() > 0
		came := make(chan struct{}, 1)
		r.Await(func() { came <- struct{}{} })
		if !r.appeared.Load() {
			<-came
		}
		redistest.Eventually(t, "it claims", func() error {
			b, err := r.Begin(t.Context(), &dedup.Claim{Keys: []dedup.Identity{{Key: dedup.Key{byte(n)}}}, Nonce: uint64(n), Timeout: time.Second})
			if err == nil && b.Status != dedup.Mine {
				t.Fatalf("%+v", b)
			}
			return err
		})
		if !asked {
			break
		}
		t.Logf("the answer to script %d was lost", n)
	}
}
