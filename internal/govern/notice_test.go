package govern_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// lines are what the log got that holds words.
func (w *world) lines(words string) (found []string) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.logged {
		if strings.Contains(line, words) {
			found = append(found, line)
		}
	}
	return found
}

// TestUnknownOutcomesAreTold: the first one of an agent with all that an operator needs, those of the next minute by
// their number, duplicates not at all.
func TestUnknownOutcomesAreTold(t *testing.T) {
	in(t, oneTool(nil), func(w *world) {
		w.stage.always = loses(govern.Flushed, govern.ErrBroken)
		first := w.ask(named("t", "0"))
		key := w.record(first).Key
		lines := w.lines("outcome is unknown")
		if len(lines) != 1 || len(key) != 64 || !strings.HasPrefix(lines[0], "WARN ") {
			t.Fatalf("key %q, logged %q", key, lines)
		}
		for _, part := range []string{"tool t", "agent ag", "key " + key, "request_id " + first.id} {
			if !strings.Contains(lines[0], part) {
				t.Errorf("%q is not in %q", part, lines[0])
			}
		}
		w.ask(named("t", "0")).want(t, "409 dedup outcome_unknown unknown")
		for n := range 3 {
			w.ask(named("t", fmt.Sprint(n+1)))
		}
		w.ask(named("t", "9").with(func(r *govern.Request) { r.Agent = "another" }))
		if lines := w.lines("outcome is unknown"); len(lines) != 2 || !strings.Contains(lines[1], "agent another") {
			t.Errorf("within the minute: %q", lines)
		}
		time.Sleep(time.Minute)
		if lines := w.lines("further outcomes"); len(lines) != 1 || !strings.HasSuffix(lines[0], "[agent ag calls 3]") {
			t.Errorf("after the minute: %q", lines)
		}
		w.ask(named("t", "5")) // the minute after one with many is told by its number too
		time.Sleep(2 * time.Minute)
		if lines := w.lines("further outcomes"); len(lines) != 2 || !strings.HasSuffix(lines[1], "[agent ag calls 1]") {
			t.Errorf("after two minutes: %q", lines)
		}
		w.ask(named("t", "6"))
		if lines := w.lines("outcome is unknown"); len(lines) != 3 {
			t.Errorf("after a quiet minute: %q", lines)
		}
	})
}

// TestAnAnswerThatSettlesNothingIsTold with its status; passed calls and reads, of which nothing can be resolved, are not.
func TestAnAnswerThatSettlesNothingIsTold(t *testing.T) {
	s := fourEffects()
	s.passthrough = "model.test"
	in(t, s, func(w *world) {
		w.stage.then(answers(500, "a"))
		w.ask(named("mutating", "{}"))
		if lines := w.lines("outcome is unknown"); len(lines) != 1 || !strings.Contains(lines[0], "upstream_status 500") {
			t.Errorf("logged %q", lines)
		}
		w.stage.then(loses(govern.Flushed, govern.ErrBroken), loses(govern.Flushed, govern.ErrBroken))
		w.ask(named("read", "{}").with(func(r *govern.Request) { r.Agent = "reader" }))
		w.ask(forwarded(t, "POST", "https://model.test/", "{}").with(func(r *govern.Request) { r.Agent = "talker" }))
		if lines := w.lines("outcome is unknown"); len(lines) != 1 {
			t.Errorf("logged %q", lines)
		}
	})
}

// TestCallsWithoutAClaimAreToldAsOne: where they begin, and when claims are taken again how many there were.
func TestCallsWithoutAClaimAreToldAsOne(t *testing.T) {
	brokenStore(t, fourEffects(), func(w *world, d *disk) {
		w.ask(named("mutating", "{}"))
		if lines := w.lines("claim"); len(lines) != 0 {
			t.Errorf("nothing had happened, and the log says %q", lines)
		}
		for round := range 2 {
			w.fail(d)
			for n := range 5 {
				w.ask(named("read", fmt.Sprint(n))).want(t, "200 executed ok done")
			}
			w.heal(d)
			w.ask(named("mutating", fmt.Sprint(round)))
			w.ask(named("read", "{}"))
			time.Sleep(time.Minute)
		}
		begins, ends := w.lines("calls run without a claim"), w.lines("claims are taken again")
		if len(begins) != 2 || len(ends) != 2 || !strings.HasPrefix(begins[0], "WARN ") || !strings.Contains(begins[0], "tool read") {
			t.Fatalf("begins %q, ends %q", begins, ends)
		}
		if i := slices.IndexFunc(ends, func(l string) bool { return !strings.Contains(l, "calls_without_claim 5") }); i >= 0 {
			t.Error(ends[i])
		}
	})
}

// TestALapseIsOverOnlyWhenItIs: calls that go without and calls that do not, in turn, are one lapse.
func TestALapseIsOverOnlyWhenItIs(t *testing.T) {
	s := fourEffects()
	s.tools = append(s.tools, tool.Config{Name: "waived", OnStoreError: "allow"})
	in(t, s, func(w *world) {
		store := &fickle{Store: w.gov.Store}
		w.gov.Store = store
		for n := range 10 {
			store.waives.Store(n%2 == 0)
			w.ask(named("waived", fmt.Sprint(n))).want(t, "200 executed ok done")
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		begins, ends := w.lines("under a claim of this sidecar alone"), w.lines("shared is asked again")
		if len(begins) != 1 || len(ends) != 1 || !strings.Contains(ends[0], "calls_under_own_claim 5") {
			t.Errorf("begins %q, ends %q", begins, ends)
		}
	})
}

// fickle is a store that now and then could ask only itself.
type fickle struct {
	dedup.Store
	waives atomic.Bool
}

func (f *fickle) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	b, err := f.Store.Begin(ctx, c)
	if f.waives.Load() {
		b.Waived = "store"
	}
	return b, err
}
