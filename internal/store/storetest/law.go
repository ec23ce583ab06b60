// Package storetest is the law of dedup.Store as tests: one body that every store must pass.
package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Bench is a store under test with what its operator and its fate may do to it.
type Bench struct {
	Store dedup.Store
	// Advance moves the store's clock.
	Advance func(time.Duration)
	// Crash ends the process without a word and starts it again; Store is then the new one.
	Crash func(t *testing.T, b *Bench)
	// Resolve is an operator's word.
	Resolve func(*dedup.Resolution) error
	// Used is what the agent is charged: calls in the hour, spend of the day, calls of the tool on the day.
	Used func(tenant, agent, name string) (int64, tool.Money, int64)
	// Waiters is how many may wait for one key.
	Waiters int
}

// Law runs every clause against fresh stores that open makes.
func Law(t *testing.T, open func(t *testing.T) *Bench) {
	clauses := map[string]func(*testing.T, *Bench){
		"the first claim wins and its duplicates get the answer": firstWins,
		"one of many concurrent claims wins":                     oneWins,
		"every key of a call stands for it":                      allKeys,
		"a key of another call is reused":                        reusedKey,
		"a forced call does not pass an open one":                guarded,
		"failed is kept for a while":                             failedKept,
		"released runs anew with a new generation":               released,
		"not sent frees the key and keeps the generation":        notSent,
		"unknown stands until it is resolved":                    unknownStands,
		"not executed frees the key":                             notExecuted,
		"an operator's answer is replayed":                       resolvedDone,
		"unknown of an idempotent tool is taken over":            takenOver,
		"a take-over that fails changes nothing":                 takeOverFails,
		"a holder goes on under a higher fence":                  renewed,
		"take-overs end with the window":                         takeOverWindow,
		"a late answer settles":                                  lateAnswer,
		"an overtaken end changes nothing":                       overtaken,
		"an unknown light call blocks for its window":            unknownFor,
		"an unknown read binds nobody":                           unknownRead,
		"the window counts from the outcome":                     window,
		"waiters get the ending, also of what is released":       waiters,
		"too many waiters":                                       tooManyWaiters,
		"a caller that leaves stops waiting":                     waiterLeaves,
		"a crash makes running calls unknown":                    crashUnknown,
		"a crash loses no answer":                                crashKeeps,
		"caps hold under concurrency":                            caps,
		"spend holds to the micro-dollar":                        spendCap,
		"zero means none":                                        zeroCaps,
		"shadow charges and does not block":                      shadow,
		"settlement":                                             settlement,
		"the hour slides by minutes":                             hourSlides,
		"the day is UTC":                                         dayTurns,
		"calls without keys are charged only":                    keyless,
		"answers that are not kept":                              notKept,
	}
	for name, clause := range clauses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clause(t, open(t))
		})
	}
}

// K is a key made of words.
func K(words ...any) dedup.Key { return sha256.Sum256([]byte(fmt.Sprint(words...))) }

func identities(name string) []dedup.Identity {
	return []dedup.Identity{{Key: K(name), Print: K(name)}}
}

var nonces struct {
	sync.Mutex
	n uint64
}

// NewClaim is a claim of a mutating call with that name.
func NewClaim(name string) *dedup.Claim {
	nonces.Lock()
	defer nonces.Unlock()
	nonces.n++
	record := fmt.Appendf(nil, `{"ts":"2026-01-02T03:04:05.000000Z","tool":"pay","request_id":"req-%d"}`, nonces.n)
	return &dedup.Claim{
		Keys: identities(name), Nonce: nonces.n, Tenant: "default", Agent: "a", Tool: "pay", Timeout: time.Minute, Cost: 100,
		Record: func() []byte { return record },
	}
}

func idempotent(name string) *dedup.Claim {
	c := NewClaim(name)
	c.Effect, c.Resend = tool.Idempotent, time.Hour
	return c
}

func begin(t *testing.T, b *Bench, c *dedup.Claim) dedup.Begun {
	t.Helper()
	r, err := b.Store.Begin(t.Context(), c)
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return r
}

func wants(t *testing.T, b *Bench, c *dedup.Claim, want dedup.Status) dedup.Begun {
	t.Helper()
	r := begin(t, b, c)
	if r.Status != want {
		t.Fatalf("Begin says %d, want %d: %+v", r.Status, want, r)
	}
	return r
}

// Ending is how the claim that won with r ended.
func Ending(c *dedup.Claim, r dedup.Begun, o dedup.Outcome) *dedup.End {
	e := &dedup.End{Keys: c.Keys, Fence: r.Fence, Nonce: c.Nonce, Outcome: o, Record: c.Record()}
	if o == dedup.Done || o == dedup.Failed {
		e.Keep = 24 * time.Hour
		body := []byte("answer of " + fmt.Sprint(c.Nonce))
		e.Answer = &dedup.Answer{Status: 200, Header: []tool.Header{{Name: "Content-Type", Value: "text/plain"}}, Body: body, Size: int64(len(body)), SHA256: sha256.Sum256(body), Kept: true}
	}
	return e
}

func finish(t *testing.T, b *Bench, e *dedup.End) {
	t.Helper()
	if err := b.Store.Finish(t.Context(), e); err != nil {
		t.Fatalf("Finish: %v", err)
	}
}

func run(t *testing.T, b *Bench, c *dedup.Claim, o dedup.Outcome) dedup.Begun {
	t.Helper()
	r := wants(t, b, c, dedup.Mine)
	finish(t, b, Ending(c, r, o))
	return r
}

func used(t *testing.T, b *Bench, calls int64, spend tool.Money) {
	t.Helper()
	hour, day, byTool := b.Used("default", "a", "pay")
	if hour != calls || day != spend || byTool != calls {
		t.Fatalf("charged %d calls in the hour, %d spent, %d calls of the tool; want %d, %d, %d", hour, day, byTool, calls, spend, calls)
	}
}

func firstWins(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	if r.Fence == 0 || r.Generation != r.Fence || r.Attempt != 1 || r.Taken || r.Key != c.Keys[0].Key {
		t.Fatalf("%+v", r)
	}
	d := wants(t, b, NewClaim("x"), dedup.InFlight)
	if d.Fence != r.Fence || d.Key != c.Keys[0].Key || d.Outcome != dedup.Running || d.At.IsZero() {
		t.Fatalf("%+v", d)
	}
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	d = wants(t, b, NewClaim("x"), dedup.Replay)
	sameAnswer(t, d.Answer, e.Answer)
	if d.Outcome != dedup.Done || d.Fence != r.Fence || d.At.Before(r.Now) {
		t.Fatalf("%+v", d)
	}
	if want := requestOf(c); d.RequestID != want {
		t.Fatalf("the first request was %q, not %q", want, d.RequestID)
	}
	used(t, b, 1, 100)
}

func requestOf(c *dedup.Claim) string { return fmt.Sprintf("req-%d", c.Nonce) }

func sameAnswer(t *testing.T, got, want *dedup.Answer) {
	t.Helper()
	if got == nil || !got.Kept || got.Status != want.Status || string(got.Body) != string(want.Body) || got.Size != want.Size || got.SHA256 != want.SHA256 ||
		fmt.Sprint(got.Header) != fmt.Sprint(want.Header) {
		t.Fatalf("the answer is %+v, want %+v", got, want)
	}
}

func oneWins(t *testing.T, b *Bench) {
	const callers = 64
	status := make([]dedup.Begun, callers)
	claims := make([]*dedup.Claim, callers)
	var wg sync.WaitGroup
	for i := range callers {
		claims[i] = NewClaim("x")
		wg.Go(func() {
			var err error
			if status[i], err = b.Store.Begin(context.Background(), claims[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	won := -1
	for i, s := range status {
		if s.Status == dedup.Mine && won >= 0 {
			t.Fatal("two won")
		}
		if s.Status == dedup.Mine {
			won = i
		}
	}
	if won < 0 {
		t.Fatal("none won")
	}
	used(t, b, 1, 100)
	finish(t, b, Ending(claims[won], status[won], dedup.Done))
	used(t, b, 1, 100)
}

func allKeys(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Keys = append(c.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	r := wants(t, b, c, dedup.Mine)
	for _, k := range c.Keys {
		d := NewClaim("x")
		d.Keys = []dedup.Identity{k}
		if got := wants(t, b, d, dedup.InFlight); got.Key != k.Key || got.Fence != r.Fence {
			t.Fatalf("%+v", got)
		}
	}
	finish(t, b, Ending(c, r, dedup.Done))
	for _, k := range c.Keys {
		d := NewClaim("x")
		d.Keys = []dedup.Identity{k}
		wants(t, b, d, dedup.Replay)
	}
	// A call that knows one key more is the same call, and does not bind it.
	d := NewClaim("x")
	d.Keys = append(d.Keys, dedup.Identity{Key: K("other client"), Print: K("x")})
	wants(t, b, d, dedup.Replay)
	y := NewClaim("y")
	y.Keys = append(y.Keys, dedup.Identity{Key: K("other client"), Print: K("y")})
	wants(t, b, y, dedup.Mine)
}

func reusedKey(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Keys = append(c.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	r := wants(t, b, c, dedup.Mine)
	y := NewClaim("y")
	y.Keys = append(y.Keys, dedup.Identity{Key: K("client"), Print: K("y")})
	wants(t, b, y, dedup.Reused)
	finish(t, b, Ending(c, r, dedup.Done))
	wants(t, b, y, dedup.Reused)
	used(t, b, 1, 100)
	b.Advance(25 * time.Hour)
	wants(t, b, y, dedup.Mine)
}

func guarded(t *testing.T, b *Bench) {
	plain := NewClaim("x")
	r := wants(t, b, plain, dedup.Mine)
	forced := NewClaim("x forced")
	forced.Forced, forced.Guards = true, []dedup.Key{plain.Keys[0].Key}
	if g := wants(t, b, forced, dedup.InFlight); !g.Guard || g.Key != plain.Keys[0].Key {
		t.Fatalf("%+v", g)
	}
	finish(t, b, Ending(plain, r, dedup.Unknown))
	if g := wants(t, b, forced, dedup.Blocked); !g.Guard {
		t.Fatalf("%+v", g)
	}
	finish(t, b, Ending(plain, r, dedup.Done))
	f := run(t, b, forced, dedup.Done)
	if f.Generation == r.Generation {
		t.Fatal("a forced call is another run")
	}
	again := NewClaim("x forced")
	again.Guards = forced.Guards
	wants(t, b, again, dedup.Replay)
}

func failedKept(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Failed)
	e.Keep = 10 * time.Second
	finish(t, b, e)
	if d := wants(t, b, NewClaim("x"), dedup.Replay); d.Outcome != dedup.Failed {
		t.Fatalf("%+v", d)
	}
	used(t, b, 1, 0)
	b.Advance(10 * time.Second)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation == r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func released(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Failed)
	e.Keep = 0
	finish(t, b, e)
	used(t, b, 1, 0)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation == r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func notSent(t *testing.T, b *Bench) {
	r := run(t, b, NewClaim("x"), dedup.NotSent)
	used(t, b, 0, 0)
	c := NewClaim("x")
	d := run(t, b, c, dedup.NotSent)
	if d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 1 {
		t.Fatalf("%+v after %+v", d, r)
	}
	b.Crash(t, b)
	if d = run(t, b, NewClaim("x"), dedup.Done); d.Generation != r.Generation {
		t.Fatalf("the generation is forgotten: %+v after %+v", d, r)
	}
	b.Advance(25 * time.Hour)
	if d = wants(t, b, NewClaim("x"), dedup.Mine); d.Generation != d.Fence {
		t.Fatalf("%+v", d)
	}
}

func unknownStands(t *testing.T, b *Bench) {
	r := run(t, b, NewClaim("x"), dedup.Unknown)
	b.Advance(400 * 24 * time.Hour)
	if d := wants(t, b, NewClaim("x"), dedup.Blocked); d.Fence != r.Fence || d.Outcome != dedup.Unknown || d.RequestID == "" {
		t.Fatalf("%+v", d)
	}
	late := idempotent("x") // the tool is now said to be idempotent: this call was not
	wants(t, b, late, dedup.Blocked)
}

func notExecuted(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	word := &dedup.Resolution{Key: c.Keys[0].Key, Fence: r.Fence, Outcome: dedup.NotSent, Why: "the dashboard shows nothing", Who: "ops"}
	rejected(t, b, word, dedup.ErrStillRunning)
	finish(t, b, Ending(c, r, dedup.Unknown))
	rejected(t, b, word, dedup.ErrTooYoung)
	b.Advance(2 * time.Minute)
	moved := *word
	moved.Fence++
	rejected(t, b, &moved, dedup.ErrMoved)
	used(t, b, 1, 100)
	if err := b.Resolve(word); err != nil {
		t.Fatal(err)
	}
	used(t, b, 0, 0)
	rejected(t, b, word, dedup.ErrNotUnknown)
	if err := b.Store.Finish(t.Context(), Ending(c, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("a late answer after not executed: %v", err)
	}
	b.Crash(t, b)
	if d := wants(t, b, NewClaim("x"), dedup.Mine); d.Generation != r.Generation || d.Fence <= r.Fence {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
}

func rejected(t *testing.T, b *Bench, r *dedup.Resolution, want error) {
	t.Helper()
	if err := b.Resolve(r); !errors.Is(err, want) {
		t.Fatalf("Resolve: %v, want %v", err, want)
	}
}

func resolvedDone(t *testing.T, b *Bench) {
	for _, kept := range []bool{true, false} {
		name := fmt.Sprint("x", kept)
		c := NewClaim(name)
		r := run(t, b, c, dedup.Unknown)
		word := &dedup.Resolution{Key: c.Keys[0].Key, Fence: r.Fence, Outcome: dedup.Done, Why: "seen in the ledger", Who: "ops"}
		given := Ending(c, r, dedup.Done).Answer
		if kept {
			word.Answer = given
		}
		if err := b.Resolve(word); err != nil {
			t.Fatal(err)
		}
		d := wants(t, b, NewClaim(name), dedup.Replay)
		if !kept && d.Answer.Kept {
			t.Fatalf("%+v", d.Answer)
		}
		if kept {
			sameAnswer(t, d.Answer, given)
		}
		finish(t, b, Ending(c, r, dedup.Done)) // a late answer of the holder itself is no double execution
	}
	used(t, b, 2, 200)
}

func takenOver(t *testing.T, b *Bench) {
	first := idempotent("x")
	r := run(t, b, first, dedup.Unknown)
	second := idempotent("x")
	second.Keys = append(second.Keys, dedup.Identity{Key: K("client"), Print: K("x")})
	d := wants(t, b, second, dedup.Mine)
	if !d.Taken || d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 2 || d.Key != first.Keys[0].Key {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
	if err := b.Store.Finish(t.Context(), Ending(first, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("the first holder's late answer: %v", err)
	}
	wants(t, b, idempotent("x"), dedup.InFlight)
	finish(t, b, Ending(second, d, dedup.Done))
	used(t, b, 1, 100)
	for _, k := range second.Keys {
		c := idempotent("x")
		c.Keys = []dedup.Identity{k}
		if got := wants(t, b, c, dedup.Replay); got.RequestID != requestOf(first) {
			t.Fatalf("%+v", got)
		}
	}
}

// renewed is a holder that tries an idempotent tool again under its own claim: whoever waited for it goes on waiting.
func renewed(t *testing.T, b *Bench) {
	first := idempotent("x")
	r := wants(t, b, first, dedup.Mine)
	ended := make(chan dedup.Ending, 1)
	go func() {
		e, err := b.Store.Wait(context.Background(), first.Keys[0].Key, r.Fence)
		if err != nil {
			t.Error(err)
		}
		ended <- e
	}()
	again := idempotent("x")
	again.Renews = r.Fence
	d := wants(t, b, again, dedup.Mine)
	if !d.Taken || d.Generation != r.Generation || d.Fence <= r.Fence || d.Attempt != 2 {
		t.Fatalf("%+v after %+v", d, r)
	}
	used(t, b, 1, 100)
	wants(t, b, idempotent("x"), dedup.InFlight)
	if err := b.Store.Finish(t.Context(), Ending(first, r, dedup.Done)); !errors.Is(err, dedup.ErrOvertaken) {
		t.Fatalf("an end under the former fence: %v", err)
	}
	finish(t, b, Ending(again, d, dedup.Done))
	if e := <-ended; e.Outcome != dedup.Done {
		t.Fatalf("the waiter learned %+v", e)
	}
	used(t, b, 1, 100)
	stale := idempotent("x")
	stale.Renews = d.Fence
	wants(t, b, stale, dedup.Replay)
	mutating := NewClaim("y")
	m := wants(t, b, mutating, dedup.Mine)
	other := NewClaim("y")
	other.Renews = m.Fence
	wants(t, b, other, dedup.InFlight)
}

func takeOverFails(t *testing.T, b *Bench) {
	r := run(t, b, idempotent("x"), dedup.Unknown)
	for i, o := range []dedup.Outcome{dedup.NotSent, dedup.Failed, dedup.Unknown} {
		d := run(t, b, idempotent("x"), o)
		if !d.Taken || d.Attempt != i+2 || d.Generation != r.Generation {
			t.Fatalf("%+v", d)
		}
		used(t, b, 1, 100)
	}
	wants(t, b, NewClaim("x"), dedup.Blocked)
	b.Crash(t, b)
	wants(t, b, NewClaim("x"), dedup.Blocked)
	if d := run(t, b, idempotent("x"), dedup.Done); d.Attempt != 5 || d.Generation != r.Generation {
		t.Fatalf("%+v", d)
	}
	wants(t, b, NewClaim("x"), dedup.Replay)
	used(t, b, 1, 100)
}

func takeOverWindow(t *testing.T, b *Bench) {
	run(t, b, idempotent("x"), dedup.Unknown)
	b.Advance(40 * time.Minute)
	run(t, b, idempotent("x"), dedup.Unknown)
	b.Advance(20 * time.Minute)
	wants(t, b, idempotent("x"), dedup.Blocked)
}

func lateAnswer(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := run(t, b, c, dedup.Unknown)
	wants(t, b, NewClaim("x"), dedup.Blocked)
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	finish(t, b, e) // once more: the reply was lost
	sameAnswer(t, wants(t, b, NewClaim("x"), dedup.Replay).Answer, e.Answer)
	used(t, b, 1, 100)
}

func overtaken(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	for _, e := range []dedup.End{{Fence: r.Fence + 1, Nonce: c.Nonce}, {Fence: r.Fence, Nonce: c.Nonce + 1000}} {
		e.Keys, e.Outcome, e.Keep = c.Keys, dedup.Done, time.Hour
		if err := b.Store.Finish(t.Context(), &e); !errors.Is(err, dedup.ErrOvertaken) {
			t.Fatalf("Finish: %v", err)
		}
	}
	wants(t, b, NewClaim("x"), dedup.InFlight)
	finish(t, b, Ending(c, r, dedup.Done))
}

func unknownFor(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.UnknownFor = time.Minute
	r := run(t, b, c, dedup.Unknown)
	d := NewClaim("x")
	d.UnknownFor = time.Minute
	wants(t, b, d, dedup.Blocked)
	b.Advance(time.Minute)
	d = NewClaim("x") // of the former nothing is won any more
	d.UnknownFor = time.Minute
	got := run(t, b, d, dedup.Done)
	if got.Generation == r.Generation {
		t.Fatalf("%+v", got)
	}
	used(t, b, 2, 200)
	b.Advance(time.Hour)
	if err := b.Resolve(&dedup.Resolution{Key: c.Keys[0].Key, Fence: r.Fence, Outcome: dedup.NotSent, Who: "ops"}); err != nil {
		t.Fatalf("it stays listed: %v", err)
	}
	wants(t, b, NewClaim("x"), dedup.Replay) // of the second run
}

func unknownRead(t *testing.T, b *Bench) {
	c := NewClaim("x")
	c.Effect, c.Light = tool.Read, true
	run(t, b, c, dedup.Unknown)
	used(t, b, 1, 100)
	wants(t, b, NewClaim("x"), dedup.Mine)
}

func window(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	b.Advance(30 * time.Hour)
	wants(t, b, NewClaim("x"), dedup.InFlight)
	finish(t, b, Ending(c, r, dedup.Done))
	b.Advance(24*time.Hour - time.Second)
	wants(t, b, NewClaim("x"), dedup.Replay)
	b.Advance(time.Second)
	d := wants(t, b, NewClaim("x"), dedup.Mine)
	if d.Fence <= r.Fence || d.Generation == r.Generation {
		t.Fatalf("%+v after %+v", d, r)
	}
}

func waiters(t *testing.T, b *Bench) {
	for i, end := range []dedup.End{
		{Outcome: dedup.Done, Keep: time.Hour}, {Outcome: dedup.Done}, {Outcome: dedup.Failed, Keep: time.Minute}, {Outcome: dedup.Failed},
		{Outcome: dedup.NotSent, Refusal: "upstream_unreachable"}, {Outcome: dedup.Unknown},
	} {
		c := NewClaim(fmt.Sprint("x", i))
		r := wants(t, b, c, dedup.Mine)
		endings := make(chan dedup.Ending, b.Waiters)
		for range b.Waiters {
			go func() {
				e, err := b.Store.Wait(context.Background(), c.Keys[0].Key, r.Fence)
				if err != nil {
					t.Error(err)
				}
				endings <- e
			}()
		}
		full(t, b, c.Keys[0].Key, r.Fence)
		e := Ending(c, r, end.Outcome)
		e.Keep, e.Refusal = end.Keep, end.Refusal
		finish(t, b, e)
		for range b.Waiters {
			got := <-endings
			if got.Outcome != end.Outcome || got.Refusal != end.Refusal || got.At.IsZero() || (got.Answer == nil) != (e.Answer == nil) {
				t.Fatalf("%+v, want %+v", got, end)
			}
			if e.Answer != nil {
				sameAnswer(t, got.Answer, e.Answer)
			}
		}
		// Whoever comes too late for what was released learns that it has ended, and no answer.
		late, err := b.Store.Wait(t.Context(), c.Keys[0].Key, r.Fence)
		if err != nil || (late.Answer != nil) != (end.Keep > 0) {
			t.Fatalf("too late: %+v, %v", late, err)
		}
	}
}

// full returns once all places for waiters of the key are taken.
func full(t *testing.T, b *Bench, k dedup.Key, fence uint64) {
	t.Helper()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		_, err := b.Store.Wait(gone, k, fence)
		if errors.Is(err, dedup.ErrTooManyWaiters) {
			return
		}
		if t.Context().Err() != nil || !errors.Is(err, context.Canceled) {
			t.Fatalf("waiting for waiters: %v", err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func tooManyWaiters(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, b.Waiters+1)
	for range b.Waiters + 1 {
		go func() {
			_, err := b.Store.Wait(ctx, c.Keys[0].Key, r.Fence)
			results <- err
		}()
	}
	if err := <-results; !errors.Is(err, dedup.ErrTooManyWaiters) {
		t.Fatalf("%v", err)
	}
	cancel()
	for range b.Waiters {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
	}
	// The places are free again.
	done := make(chan error, 1)
	go func() {
		_, err := b.Store.Wait(context.Background(), c.Keys[0].Key, r.Fence)
		done <- err
	}()
	finish(t, b, Ending(c, r, dedup.Done))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func waiterLeaves(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Store.Wait(ctx, c.Keys[0].Key, r.Fence); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func crashUnknown(t *testing.T, b *Bench) {
	c, read := NewClaim("x"), NewClaim("r")
	read.Effect = tool.Read
	r := wants(t, b, c, dedup.Mine)
	wants(t, b, read, dedup.Mine)
	i := wants(t, b, idempotent("i"), dedup.Mine)
	b.Crash(t, b)
	used(t, b, 3, 300)
	d := wants(t, b, NewClaim("x"), dedup.Blocked)
	if d.Fence != r.Fence || d.RequestID != requestOf(c) {
		t.Fatalf("%+v", d)
	}
	wants(t, b, NewClaim("r"), dedup.Mine)
	if d := wants(t, b, idempotent("i"), dedup.Mine); !d.Taken || d.Generation != i.Generation || d.Fence <= i.Fence {
		t.Fatalf("%+v", d)
	}
	used(t, b, 4, 400)
}

func crashKeeps(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	for range 3 {
		b.Crash(t, b)
		d := wants(t, b, NewClaim("x"), dedup.Replay)
		sameAnswer(t, d.Answer, e.Answer)
		if d.RequestID != requestOf(c) || d.Fence != r.Fence {
			t.Fatalf("%+v", d)
		}
		used(t, b, 1, 100)
	}
}

func caps(t *testing.T, b *Bench) {
	limit := int64(50)
	for _, l := range []tool.Limits{{ActionsPerHour: &limit}, {CallsPerDay: &limit}} {
		const callers = 200
		agent := fmt.Sprintf("a%v", l.CallsPerDay != nil)
		mine := race(t, b, callers, func(i int) *dedup.Claim {
			c := NewClaim(fmt.Sprint(agent, i))
			c.Agent, c.Limits = agent, l
			return c
		})
		if mine != 50 {
			t.Fatalf("%d calls passed a cap of 50", mine)
		}
		if hour, spend, calls := b.Used("default", agent, "pay"); hour != 50 || spend != 5000 || calls != 50 {
			t.Fatal(hour, spend, calls)
		}
	}
}

func race(t *testing.T, b *Bench, n int, claim func(int) *dedup.Claim) (mine int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := b.Store.Begin(context.Background(), claim(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case r.Status == dedup.Mine:
				mine++
			case r.Status != dedup.Over || r.RetryAfter <= 0:
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	return mine
}

func spendCap(t *testing.T, b *Bench) {
	limit := tool.Money(1_000_003)
	mine := race(t, b, 200, func(i int) *dedup.Claim {
		c := NewClaim(fmt.Sprint(i))
		c.Cost, c.Limits.SpendPerDay = 13_337, &limit
		return c
	})
	if mine != 74 { // 74 × 13,337 = 986,938; 75 would pass the cap
		t.Fatalf("%d calls", mine)
	}
	exact := NewClaim("exact")
	exact.Limits.SpendPerDay = &limit
	exact.Cost = limit - 74*13_337
	wants(t, b, exact, dedup.Mine)
	more := NewClaim("more")
	more.Limits.SpendPerDay, more.Cost = &limit, 1
	if r := wants(t, b, more, dedup.Over); r.Over != dedup.SpendPerDay {
		t.Fatalf("%+v", r)
	}
	huge := NewClaim("huge")
	huge.Limits.SpendPerDay, huge.Cost = &limit, 1<<63-1
	wants(t, b, huge, dedup.Over)
	free := NewClaim("free")
	free.Limits.SpendPerDay, free.Cost = &limit, 0
	wants(t, b, free, dedup.Mine)
	used(t, b, 76, limit)
}

func zeroCaps(t *testing.T, b *Bench) {
	none, nothing := int64(0), tool.Money(0)
	for limit, l := range map[dedup.Limit]tool.Limits{
		dedup.ActionsPerHour: {ActionsPerHour: &none}, dedup.CallsPerDay: {CallsPerDay: &none}, dedup.SpendPerDay: {SpendPerDay: &nothing},
	} {
		c := NewClaim("x" + string(limit))
		c.Limits = l
		r := wants(t, b, c, dedup.Over)
		if r.Over != limit || r.RetryAfter <= 0 || r.RetryAfter > 24*time.Hour || limit == dedup.ActionsPerHour && r.RetryAfter != time.Hour {
			t.Fatalf("%+v", r)
		}
	}
	free := NewClaim("free")
	free.Cost, free.Limits.SpendPerDay = 0, &nothing
	wants(t, b, free, dedup.Mine)
	used(t, b, 1, 0)
}

func shadow(t *testing.T, b *Bench) {
	none := int64(0)
	c := NewClaim("x")
	c.Limits.ActionsPerHour, c.Shadow = &none, true
	if r := wants(t, b, c, dedup.Mine); r.Shadow != dedup.ActionsPerHour {
		t.Fatalf("%+v", r)
	}
	used(t, b, 1, 100)
}

func settlement(t *testing.T, b *Bench) {
	calls, spend := int64(0), tool.Money(0)
	for _, s := range []struct {
		o     dedup.Outcome
		keep  time.Duration
		calls int64
		spend tool.Money
	}{
		{dedup.Done, time.Hour, 1, 100}, {dedup.Done, 0, 1, 100}, {dedup.Failed, time.Minute, 1, 0}, {dedup.Failed, 0, 1, 0},
		{dedup.NotSent, 0, 0, 0}, {dedup.Unknown, 0, 1, 100},
	} {
		c := NewClaim(fmt.Sprint(s))
		r := wants(t, b, c, dedup.Mine)
		used(t, b, calls+1, spend+100)
		e := Ending(c, r, s.o)
		e.Keep = s.keep
		finish(t, b, e)
		_ = b.Store.Finish(t.Context(), e) // once more settles nothing
		calls, spend = calls+s.calls, spend+s.spend
		used(t, b, calls, spend)
	}
	b.Crash(t, b)
	used(t, b, calls, spend)
	limit := calls
	over := NewClaim("over")
	over.Limits.ActionsPerHour = &limit
	wants(t, b, over, dedup.Over)
	replay := NewClaim(fmt.Sprint(struct {
		o     dedup.Outcome
		keep  time.Duration
		calls int64
		spend tool.Money
	}{dedup.Done, time.Hour, 1, 100}))
	replay.Limits.ActionsPerHour = &limit
	wants(t, b, replay, dedup.Replay) // a duplicate costs nothing and needs no room
	used(t, b, calls, spend)
}

func hourSlides(t *testing.T, b *Bench) {
	limit := int64(2)
	ask := func(name string) *dedup.Claim {
		c := NewClaim(name)
		c.Limits.ActionsPerHour = &limit
		return c
	}
	wants(t, b, ask("1"), dedup.Mine)
	b.Advance(30 * time.Minute)
	wants(t, b, ask("2"), dedup.Mine)
	r := wants(t, b, ask("3"), dedup.Over)
	if r.RetryAfter <= 29*time.Minute || r.RetryAfter > 31*time.Minute {
		t.Fatalf("retry after %v", r.RetryAfter)
	}
	b.Advance(r.RetryAfter - time.Second)
	wants(t, b, ask("3"), dedup.Over)
	b.Advance(time.Second)
	wants(t, b, ask("3"), dedup.Mine)
	wants(t, b, ask("4"), dedup.Over)
}

func dayTurns(t *testing.T, b *Bench) {
	limit, spend := int64(1), tool.Money(100)
	ask := func(name string) *dedup.Claim {
		c := NewClaim(name)
		c.Limits = tool.Limits{CallsPerDay: &limit, SpendPerDay: &spend}
		return c
	}
	first := ask("1")
	r := wants(t, b, first, dedup.Mine)
	over := wants(t, b, ask("2"), dedup.Over)
	midnight := over.Now.Truncate(24 * time.Hour).Add(24 * time.Hour)
	if got := over.Now.Add(over.RetryAfter); !got.Equal(midnight) {
		t.Fatalf("retry at %v, want %v", got, midnight)
	}
	b.Advance(over.RetryAfter)
	wants(t, b, ask("2"), dedup.Mine)
	finish(t, b, Ending(first, r, dedup.NotSent)) // gives back what was charged yesterday, and nothing of today's
	if r := wants(t, b, ask("3"), dedup.Over); r.Over != dedup.CallsPerDay {
		t.Fatalf("%+v", r)
	}
	if _, day, calls := b.Used("default", "a", "pay"); day != 100 || calls != 1 {
		t.Fatal(day, calls)
	}
}

func keyless(t *testing.T, b *Bench) {
	for range 2 {
		c := NewClaim("")
		c.Keys = nil
		r := wants(t, b, c, dedup.Mine)
		finish(t, b, Ending(c, r, dedup.Done))
	}
	c := NewClaim("")
	c.Keys = nil
	wants(t, b, c, dedup.Mine)
	b.Crash(t, b)
	used(t, b, 3, 300)
}

func notKept(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Done)
	e.Answer.Kept, e.Answer.Body = false, nil
	finish(t, b, e)
	d := wants(t, b, NewClaim("x"), dedup.Replay)
	if a := d.Answer; a.Kept || a.Status != 200 || a.Size != e.Answer.Size || a.SHA256 != e.Answer.SHA256 {
		t.Fatalf("%+v", a)
	}
	none := NewClaim("y")
	r = wants(t, b, none, dedup.Mine)
	e = Ending(none, r, dedup.Done)
	e.Answer = nil
	finish(t, b, e)
	if d := wants(t, b, NewClaim("y"), dedup.Replay); d.Answer == nil || d.Answer.Kept {
		t.Fatalf("%+v", d.Answer)
	}
}
