package govern_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// between is the real store with something that happens, once, behind a claim or before an end.
type between struct {
	dedup.Store
	claimed, ending func()
	once            sync.Once
}

func (b *between) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	got, err := b.Store.Begin(ctx, c)
	if b.claimed != nil && got.Status == dedup.Mine {
		b.once.Do(b.claimed)
	}
	return got, err
}

func (b *between) Finish(ctx context.Context, e *dedup.End) error {
	if b.ending != nil {
		b.once.Do(b.ending)
	}
	return b.Store.Finish(ctx, e)
}

func retrying(effect string, n int) setting {
	return oneTool(func(c *tool.Config) { c.Effect, c.MaxRetries, c.Price = effect, &n, tool.USD/2 })
}

func TestKillSwitch(t *testing.T) {
	const stopped = "403 blocked agent_disabled not_sent"
	t.Run("before anything", func(t *testing.T) {
		s := oneTool(nil)
		s.passthrough, s.unregistered = "model.test", govern.Lightly
		in(t, s, func(w *world) {
			w.off("ag")
			for _, a := range []*asking{
				named("t", "{}"), named("nobody", "{}"), forwarded(t, "POST", "https://t.test/run", "{}"),
				forwarded(t, "POST", "https://model.test/v1", "{}"), forwarded(t, "POST", "https://free.test/", "{}"), forwarded(t, "GET", "https://free.test/", ""),
			} {
				r := w.ask(a)
				r.want(t, stopped)
				if rec := w.record(r); rec.RiskLevel != "high" {
					t.Errorf("the risk is %q", rec.RiskLevel)
				}
			}
			w.ask(named("t", "{}").with(func(r *govern.Request) { r.Agent = "other" })).want(t, "200 executed ok done")
		})
	})
	t.Run("between claim and send", func(t *testing.T) {
		in(t, retrying("mutating", 0), func(w *world) {
			w.gov.Store = &between{Store: w.store, claimed: func() { w.off("ag") }}
			r := w.ask(named("t", "{}"))
			r.want(t, stopped)
			if got := w.usage("t"); got != uncharged || w.stage.sends() != 0 {
				t.Errorf("charged %q, sent %d times", got, w.stage.sends())
			}
			w.on("ag")
			w.ask(named("t", "{}")).want(t, "200 executed ok done")
		})
	})
	t.Run("between claim and re-send", func(t *testing.T) {
		in(t, retrying("idempotent", 0), func(w *world) {
			w.stage.then(loses(govern.Flushed, govern.ErrBroken))
			w.ask(named("t", "{}"))
			w.gov.Store = &between{Store: w.store, claimed: func() { w.off("ag") }}
			w.ask(named("t", "{}")).want(t, stopped)
			if got := w.usage("t"); got != charged || w.store.UnknownCount() != 1 {
				t.Errorf("charged %q, %d unknown: that nothing was sent now says nothing of the first attempt", got, w.store.UnknownCount())
			}
		})
	})
	t.Run("behind a re-send that was not sent", func(t *testing.T) {
		in(t, retrying("idempotent", 0), func(w *world) {
			w.stage.then(loses(govern.Flushed, govern.ErrBroken), first(func() { w.off("ag") }, loses(govern.Queued, govern.ErrUnreachable)))
			w.ask(named("t", "{}"))
			w.ask(named("t", "{}")).want(t, stopped)
			if got := w.usage("t"); got != charged || w.store.UnknownCount() != 1 {
				t.Errorf("charged %q, %d unknown", got, w.store.UnknownCount())
			}
		})
	})
	t.Run("between attempts that were not sent", func(t *testing.T) {
		in(t, retrying("mutating", 5), func(w *world) {
			refused := loses(govern.Queued, govern.ErrUnreachable)
			w.stage.then(refused, first(func() { w.off("ag") }, refused))
			w.ask(named("t", "{}")).want(t, stopped)
			if got := w.usage("t"); got != uncharged || w.stage.sends() != 2 {
				t.Errorf("charged %q, sent %d times", got, w.stage.sends())
			}
		})
	})
	t.Run("between attempts that were sent", func(t *testing.T) {
		in(t, retrying("idempotent", 5), func(w *world) {
			w.stage.then(first(func() { w.off("ag") }, answers(503, "later")))
			w.ask(named("t", "{}")).want(t, "503 executed ok unknown")
			if got := w.usage("t"); got != charged || w.stage.sends() != 1 {
				t.Errorf("charged %q, sent %d times", got, w.stage.sends())
			}
		})
	})
	t.Run("while the tool is at it", func(t *testing.T) {
		in(t, retrying("mutating", 0), func(w *world) {
			w.stage.then(first(func() { w.off("ag") }, answers(200, "a")))
			w.ask(named("t", "{}")).want(t, "200 executed ok done")
			w.ask(named("t", "{}")).want(t, stopped)
		})
	})
	t.Run("while waiting for a place", func(t *testing.T) {
		in(t, oneTool(func(c *tool.Config) { c.MaxInFlight = 1 }), func(w *world) {
			gate := make(chan struct{})
			w.stage.then(at(gate, answers(200, "a")))
			all := w.together(named("t", "1"), named("t", "2"), named("t", "1"))
			w.off("ag")
			close(gate)
			got := all()
			got[0].want(t, "200 executed ok done")
			got[1].want(t, stopped)
			got[2].want(t, stopped) // also one that would be answered from a record
		})
	})
}

// TestTheHoldersSwitch: it says nothing of a waiter that is another agent.
func TestTheHoldersSwitch(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.Dedup.Scope = "global" }), func(w *world) {
		gate := make(chan struct{})
		w.gov.Store = &between{Store: w.store, claimed: func() { <-gate }}
		other := named("t", "{}").with(func(r *govern.Request) { r.Agent = "other" })
		all := w.together(named("t", "{}"), named("t", "{}"), other)
		w.off("ag")
		close(gate)
		got := all()
		got[0].want(t, "403 blocked agent_disabled not_sent")
		got[1].want(t, "403 blocked agent_disabled not_sent")
		got[2].want(t, "409 dedup in_flight not_sent")
		w.ask(other).want(t, "200 executed ok done")
	})
}

func (w *world) on(agent string) {
	if _, err := w.store.Enable(context.Background(), agent, "test", "operator"); err != nil {
		w.Error(err)
	}
}

func TestDraining(t *testing.T) {
	const draining = "503 blocked draining not_sent"
	s := oneTool(func(c *tool.Config) { c.MaxInFlight = 1 })
	s.unregistered = govern.Pass
	in(t, s, func(w *world) {
		gate := make(chan struct{})
		w.stage.then(at(gate, answers(200, "a")))
		all := w.together(named("t", "1"), named("t", "2"))
		w.gov.Draining.Store(true)
		for _, a := range []*asking{named("t", "3"), forwarded(t, "GET", "https://free.test/", "")} {
			r := w.ask(a)
			r.want(t, draining)
			if r.header["Retry-After"] == "" {
				t.Error("draining does not say when to come back")
			}
		}
		close(gate)
		got := all()
		got[0].want(t, "200 executed ok done")
		got[1].want(t, draining)
	})
}

// TestPlaces: whatever becomes of a call, it gives its place back.
func TestPlaces(t *testing.T) {
	s := oneTool(func(c *tool.Config) { c.MaxInFlight = 1 })
	for name, v := range map[string]struct {
		act act
		ask *asking
	}{
		"an answer":                 {answers(200, "a"), named("t", "{}")},
		"an unknown outcome":        {answers(500, "a"), named("t", "{}")},
		"nothing sent":              {loses(govern.Queued, govern.ErrUnreachable), named("t", "{}")},
		"a forbidden address":       {loses(govern.Queued, govern.ErrDestination), named("t", "{}")},
		"a panic":                   {panics, named("t", "{}")},
		"a stream":                  {streams(200, nil, "a"), named("t", "{}")},
		"a stream that is cut":      {streams(200, context.Canceled, "a"), named("t", "{}")},
		"a stream nobody reads":     {streams(200, nil, "a"), &asking{Request: named("t", "{}").Request, hangsUp: true}},
		"a stream that breaks":      {streams(200, nil, "a"), &asking{Request: named("t", "{}").Request, breaks: true}},
		"arguments that are no one": {nil, named("t", `{"a":1,"a":2}`)},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, s, func(w *world) {
				if v.act != nil {
					w.stage.then(v.act)
				}
				w.ask(v.ask)
				w.ask(v.ask) // a duplicate
				start := time.Now()
				w.ask(named("t", `"another"`)).want(t, "200 executed ok done")
				if time.Since(start) > 0 {
					t.Error("another call had to wait for the place")
				}
			})
		})
	}
}

// TestAWaiterHoldsNoPlace: only a call that runs keeps one.
func TestAWaiterHoldsNoPlace(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.MaxInFlight = 2 }), func(w *world) {
		gate := make(chan struct{})
		w.stage.then(at(gate, answers(200, "a")))
		all := w.together(five(named("t", "1"))...)
		start := time.Now()
		w.ask(named("t", "2")).want(t, "200 executed ok done")
		if time.Since(start) > 0 {
			t.Error("waiters kept the place from another call")
		}
		close(gate)
		all()
	})
}

func TestAPlaceIsWaitedFor(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.MaxInFlight, c.Timeout = 2, time.Minute }), func(w *world) {
		gate := make(chan struct{})
		w.stage.always = at(gate, answers(200, "a"))
		all := w.together(named("t", "1"), named("t", "2"), named("t", "3"))
		if n := w.stage.sends(); n != 2 {
			t.Fatalf("%d calls run at once", n)
		}
		time.Sleep(20 * time.Second)
		late := w.together(named("t", "4"), named("t", "1")) // a duplicate of the first waits for a place, then for its answer
		time.Sleep(6 * time.Second)
		synctest.Wait()
		close(gate)
		got, more := all(), late()
		got[0].want(t, "200 executed ok done")
		got[2].want(t, "503 blocked overloaded not_sent")
		if got[2].header["Retry-After"] == "" {
			t.Error("overloaded does not say when to come back")
		}
		more[0].want(t, "200 executed ok done")
		more[1].want(t, "200 dedup tool_idempotency done")
		if w.meter.negative {
			t.Error("a negative overhead was counted")
		}
	})
}

// TestPatienceIsOne: a place and the call that is repeated are waited for with the same patience.
func TestPatienceIsOne(t *testing.T) {
	in(t, oneTool(func(c *tool.Config) { c.MaxInFlight, c.Timeout = 2, time.Minute }), func(w *world) {
		gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
		w.stage.then(at(gates[0], answers(200, "a")), at(gates[1], answers(200, "a")))
		all := w.together(named("t", "1"), named("t", "2"))
		var patience time.Duration
		var dup sync.WaitGroup
		dup.Go(func() {
			start := time.Now()
			w.ask(named("t", "2")).want(t, "409 dedup in_flight -")
			patience = time.Since(start)
		})
		time.Sleep(20 * time.Second)
		close(gates[0]) // a place is free, and what is repeated still runs
		dup.Wait()
		if patience != 25*time.Second {
			t.Errorf("it waited %v in all", patience)
		}
		close(gates[1])
		all()
	})
}

func TestPanics(t *testing.T) {
	body := func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
		return answerOf(&played{panics: true}, 200, 4, nil), govern.FirstByteRead, nil
	}
	const sent = "500 executed internal "
	for name, v := range map[string]struct {
		act  act
		told map[string]string
	}{
		"in the sender":   {panics, map[string]string{"mutating": sent + "unknown", "idempotent": sent + "unknown", "read": sent + "failed"}},
		"within the body": {body, map[string]string{"mutating": sent + "unknown", "idempotent": sent + "unknown", "read": sent + "failed"}},
	} {
		for effect, told := range v.told {
			t.Run(name+", "+effect, func(t *testing.T) {
				in(t, retrying(effect, 0), func(w *world) {
					w.stage.then(v.act)
					r := w.ask(named("t", "{}"))
					r.want(t, told)
					if len(w.lines("panic")) != 1 || w.stage.leaked() != 0 {
						t.Errorf("logged %q, %d answers left open", w.logged, w.stage.leaked())
					}
					again := w.ask(named("t", "{}"))
					switch effect {
					case "mutating":
						again.want(t, "409 dedup outcome_unknown unknown")
					default:
						again.want(t, "200 executed ok done")
					}
				})
			})
		}
	}
	broken := func() { panic("the store broke") }
	t.Run("behind the claim", func(t *testing.T) { // it is durable, nobody holds it: it stands
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, oneTool(nil))
			w.gov.Store = &between{Store: w.store, claimed: broken}
			w.ask(named("t", "{}")).want(t, "500 blocked internal not_sent")
			w.ask(named("t", "{}")).want(t, "409 dedup in_flight -")
			w.ask(named("t", "2")).want(t, "200 executed ok done")
			if n := w.stage.sends(); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	})
	t.Run("at the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, oneTool(func(c *tool.Config) { c.MaxInFlight = 1 }))
			w.gov.Store = &between{Store: w.store, ending: broken}
			r := w.ask(named("t", "{}"))
			r.want(t, "500 executed internal unknown")
			if rec := w.record(r); rec.Outcome != "unknown" || rec.PolicyReason != "internal" {
				t.Errorf("recorded as %+v", rec)
			}
			w.ask(named("t", "2")).want(t, "200 executed ok done")
			w.ask(named("t", "{}")).want(t, "409 dedup in_flight -")
			if n := w.stage.sends(); n != 2 {
				t.Errorf("sent %d times", n)
			}
		})
	})
	t.Run("in a stream", func(t *testing.T) {
		in(t, oneTool(nil), func(w *world) {
			w.stage.then(func(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
				return answerOf(&played{panics: true}, 200, -1, nil), govern.FirstByteRead, nil
			})
			r := w.ask(named("t", "{}"))
			r.want(t, "200 executed ok -")
			if rec := w.record(r); r.whole || rec.Outcome != "unknown" || w.stage.leaked() != 0 {
				t.Errorf("whole %t, recorded as %+v", r.whole, rec)
			}
			w.ask(named("t", "{}")).want(t, "409 dedup outcome_unknown unknown")
		})
	})
}
