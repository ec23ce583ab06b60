package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// sidecars open several stores of one namespace.
func sidecars(t *testing.T, n int, cfg RedisConfig) []*Redis {
	t.Helper()
	cfg.Prefix = namespace()
	var all []*Redis
	for range n {
		all = append(all, joinRedis(t, RedisOptions{Options: Options{Config: EmbeddedConfig{Durability: "process"}, Waiters: 4096}, Redis: cfg}))
	}
	return all
}

// fleet runs calls at several sidecars and counts what their tool did.
type fleet struct {
	stores   []*Redis
	claim    func(name string) *dedup.Claim
	mu       sync.Mutex
	executed map[string]int // by name; guarded by mu
	given    map[string]int // answers that callers got; guarded by mu
	away     int            // callers told that the store takes nothing; guarded by mu
	moved    int            // ends of calls whose key another holder had won meanwhile; guarded by mu
}

func newFleet(stores []*Redis) *fleet {
	return &fleet{stores: stores, claim: storetest.NewClaim, executed: map[string]int{}, given: map[string]int{}}
}

// call is what the governor does with one request: claim, run once, tell, or get the first one's answer.
func (f *fleet) call(t *testing.T, at int, name string, took time.Duration) {
	r, c := f.stores[at%len(f.stores)], f.claim(name)
	b, err := r.Begin(context.Background(), c)
	switch {
	case errors.Is(err, dedup.ErrUnavailable):
		f.count(func() { f.away++ })
	case err != nil:
		t.Error(err)
	case b.Status == dedup.Mine:
		f.count(func() { f.executed[name]++ })
		time.Sleep(took)
		err := r.Finish(context.Background(), storetest.Ending(c, b, dedup.Done))
		if errors.Is(err, dedup.ErrOvertaken) {
			f.count(func() { f.moved++ })
		} else if err != nil && !errors.Is(err, dedup.ErrDeferred) {
			t.Errorf("%s: %v", name, err)
		}
		f.count(func() { f.given[name]++ })
	case b.Status == dedup.InFlight:
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if end, err := r.Wait(ctx, c.Agent, b.Key, b.Fence); err != nil {
			t.Errorf("%s: wait: %v", name, err)
		} else if end.Answer != nil {
			f.count(func() { f.given[name]++ })
		}
	case b.Status == dedup.Replay:
		f.count(func() { f.given[name]++ })
	}
}

func (f *fleet) count(add func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add()
}

// once fails the test for each name that was executed more than once.
func (f *fleet) once(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, n := range f.executed {
		if n > 1 {
			t.Errorf("%s was executed %d times", name, n)
		}
	}
	if f.moved > 0 {
		t.Errorf("%d calls were another holder's when they ended", f.moved)
	}
}

func TestOneOfThreeSidecarsWins(t *testing.T) {
	s := redistest.Start(t)
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}}))
	const clients, calls = 64, 20_000
	var next atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= calls; i = next.Add(1) {
				f.call(t, int(i), "the same", 300*time.Millisecond)
			}
		})
	}
	wg.Wait()
	if f.executed["the same"] != 1 || f.given["the same"] != calls-f.away {
		t.Fatalf("executed %d times; of %d callers %d got the answer and %d were refused", f.executed["the same"], calls, f.given["the same"], f.away)
	}
	t.Logf("%d callers were refused because the store was too slow for them", f.away)
}

// TestTooManyAtOnce has more callers at once than the store can answer in time: whoever is refused has claimed nothing.
func TestTooManyAtOnce(t *testing.T) {
	s := redistest.Start(t)
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}}))
	const callers = 2000
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { f.call(t, i, fmt.Sprint("x", i%20), 300*time.Millisecond) })
	}
	wg.Wait()
	f.once(t)
	until(t, "what was given up is released", func() bool {
		u := f.stores[0].Usage("default", "a", "pay")
		return u.HourCalls == int64(len(f.executed)) && u.ToolCalls == u.HourCalls && u.DaySpend == tool.Money(100*u.HourCalls)
	})
	t.Logf("%d of %d callers were refused", f.away, callers)
}

func TestCapsHoldAcrossSidecars(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}})
	limit, most := tool.Money(10_007), int64(60)
	var mine, spend, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			c := storetest.NewClaim(fmt.Sprint("x", i))
			c.Cost, c.Limits = tool.Money(1+i%331), tool.Limits{SpendPerDay: &limit, ActionsPerHour: &most}
			b, err := stores[i%3].Begin(context.Background(), c)
			switch {
			case err != nil:
				refused.Add(1)
			case b.Status == dedup.Mine:
				mine.Add(1)
				spend.Add(int64(c.Cost))
			}
		})
	}
	wg.Wait()
	u := stores[0].Usage("default", "a", "pay")
	if mine.Load() > most || spend.Load() > int64(limit) || refused.Load() == 0 && u != (Usage{mine.Load(), tool.Money(spend.Load()), mine.Load()}) {
		t.Fatalf("%d calls for %d won, %d were refused, and the store has counted %+v", mine.Load(), spend.Load(), refused.Load(), u)
	}
}

// TestWaitersElsewhere measures how long after the end of a call those who wait for it at other sidecars have its answer,
// with the word of its end and without.
func TestWaitersElsewhere(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	for _, told := range []bool{true, false} {
		stores := sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}})
		if !told { // nobody hears anything
			s.Do("ACL", "SETUSER", "deaf"+stores[0].client.tag, "on", "nopass", "~*", "allchannels", "+@all", "-subscribe")
			stores = sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Username: "deaf" + stores[0].client.tag, Password: "x"})
		}
		var late []time.Duration
		for i := range 8 {
			late = append(late, waitersOf(t, stores, fmt.Sprint("x", i))...)
		}
		slices.Sort(late)
		p99 := late[len(late)*99/100]
		t.Logf("told %v: p50 %v, p99 %v of %d", told, late[len(late)/2], p99, len(late))
		if want := map[bool]time.Duration{true: 50 * time.Millisecond, false: 600 * time.Millisecond}[told]; p99 > 10*want {
			t.Errorf("told %v: p99 is %v, ten times the wanted %v", told, p99, want)
		}
	}
}

func waitersOf(t *testing.T, stores []*Redis, name string) (late []time.Duration) {
	c := storetest.NewClaim(name)
	mine, err := stores[0].Begin(t.Context(), c)
	if err != nil || mine.Status != dedup.Mine {
		t.Fatalf("%+v, %v", mine, err)
	}
	var ended atomic.Int64
	var mu sync.Mutex
	var wg, waiting sync.WaitGroup
	for i := range 16 {
		r := stores[1+i%2]
		waiting.Add(1)
		wg.Go(func() {
			b, err := r.Begin(context.Background(), storetest.NewClaim(name))
			waiting.Done()
			if err != nil || b.Status != dedup.InFlight {
				t.Errorf("%+v, %v", b, err)
				return
			}
			end, err := r.Wait(context.Background(), c.Agent, b.Key, b.Fence)
			at := time.Now().UnixNano()
			if err != nil || end.Answer == nil || !end.Answer.Kept {
				t.Errorf("%+v, %v", end, err)
			}
			mu.Lock()
			defer mu.Unlock()
			late = append(late, time.Duration(at-ended.Load()))
		})
	}
	waiting.Wait()
	time.Sleep(20 * time.Millisecond) // the waiters wait
	ended.Store(time.Now().UnixNano())
	if err := stores[0].Finish(t.Context(), storetest.Ending(c, mine, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	return late
}

// TestRoundTrips counts scripts: a first call costs two, a duplicate one, and one whose answer was seen here none.
func TestRoundTrips(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	relay := redistest.NewRelay(t, s.Addr)
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{relay.Addr}, Poll: time.Hour})
	f := newFleet(stores)
	for _, step := range []struct {
		what, name string
		at         int
		want       int64
	}{{"a first call", "x", 0, 2}, {"its duplicate there", "x", 0, 0}, {"its duplicate elsewhere", "x", 1, 1}, {"the next one elsewhere", "x", 1, 0}} {
		least := int64(99) // a beat may come between
		for i := range 3 {
			name := fmt.Sprint(step.name, i)
			before := relay.Scripts()
			f.call(t, step.at, name, 0)
			least = min(least, int64(relay.Scripts()-before))
		}
		if least != step.want {
			t.Errorf("%s costs %d scripts, not %d", step.what, least, step.want)
		}
	}
	if f.executed["x0"] != 1 || f.given["x0"] != 4 {
		t.Fatalf("%+v %+v", f.executed, f.given)
	}
}

func TestADamagedRecordIsUnknown(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	for i, damage := range []func(fence, key string){
		func(fence, _ string) {
			raw := s.Do("GET", r.base+"r:"+fence).(string)
			s.Do("SET", r.base+"r:"+fence, raw[:len(raw)-1]+"!")
		},
		func(fence, _ string) { s.Do("SET", r.base+"r:"+fence, "oo9 0123\nof a newer one") },
		func(fence, _ string) { s.Do("DEL", r.base+"r:"+fence) },
		func(_, key string) { s.Do("SET", r.base+"k:"+key, "what is this") },
	} {
		name := fmt.Sprint("x", i)
		c := storetest.NewClaim(name)
		b, err := r.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Finish(t.Context(), storetest.Ending(c, b, dedup.Done)); err != nil {
			t.Fatal(err)
		}
		r.answers.clear()
		damage(strconv.FormatUint(b.Fence, 10), keyText(c.Keys[0].Key))
		for range 2 {
			if d, err := r.Begin(t.Context(), storetest.NewClaim(name)); err != nil || d.Status != dedup.Blocked {
				t.Fatalf("damage %d: %+v, %v", i, d, err)
			}
		}
		list := r.Unknowns()
		if len(list) != 1 || list[0].Key != c.Keys[0].Key {
			t.Fatalf("damage %d: it is listed as %+v", i, list)
		}
		word := &dedup.Resolution{Key: list[0].Key, Agent: list[0].Agent, Fence: list[0].Fence, Outcome: dedup.NotSent, Who: "ops"}
		if err := r.Resolve(t.Context(), word, "shown"); err != nil {
			t.Fatalf("damage %d: %v", i, err)
		}
		if d, err := r.Begin(t.Context(), storetest.NewClaim(name)); err != nil || d.Status != dedup.Mine {
			t.Fatalf("damage %d, resolved: %+v, %v", i, d, err)
		}
	}
}

func TestALapsedHolder(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	stores := sidecars(t, 2, RedisConfig{Addrs: []string{s.Addr}})
	c := storetest.NewClaim("x")
	b, err := stores[0].Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := stores[1].Begin(t.Context(), storetest.NewClaim("x")); err != nil || d.Status != dedup.InFlight {
		t.Fatalf("%+v, %v", d, err)
	}
	until(t, "the holder has lapsed", func() bool {
		s.Do("DEL", stores[1].base+"i:"+stores[0].instance)
		d, err := stores[1].Begin(t.Context(), storetest.NewClaim("x"))
		return err == nil && d.Status == dedup.Blocked
	})
	if list := stores[1].Unknowns(); len(list) != 1 || list[0].Fence != b.Fence || list[0].Running {
		t.Fatalf("%+v", list)
	}
	if err := stores[0].Finish(t.Context(), storetest.Ending(c, b, dedup.Done)); err != nil {
		t.Fatalf("its late end: %v", err)
	}
	if d, err := stores[1].Begin(t.Context(), storetest.NewClaim("x")); err != nil || d.Status != dedup.Replay {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestTheSwitchStopsAClaim(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}})[0]
	for _, who := range []string{"a", Everyone} {
		s.Do("HSET", r.base+"switch", who, "1 {}")
		if _, err := r.Begin(t.Context(), storetest.NewClaim("x")); !errors.Is(err, dedup.ErrDisabled) {
			t.Fatalf("%v", err)
		}
		s.Do("DEL", r.base+"switch")
	}
	if u := r.Usage("default", "a", "pay"); u != (Usage{}) {
		t.Fatalf("it was charged: %+v", u)
	}
}
