package govern_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// TestRetries: the sidecar tries again what was not sent, and what may be sent twice.
func TestRetries(t *testing.T) {
	refused := loses(govern.Queued, govern.ErrUnreachable)
	lost := loses(govern.Flushed, govern.ErrBroken)
	type want struct {
		told  string
		sends int
		cost  string
	}
	for _, v := range []struct {
		name                       string
		acts                       []act
		mutating, idempotent, read want
	}{
		{"a refused dial, then an answer", []act{refused},
			want{"200 executed ok done", 2, charged}, want{"200 executed ok done", 2, charged}, want{"200 executed ok done", 2, charged}},
		{"refused dials", []act{refused, refused, refused, refused},
			want{"502 executed upstream_unreachable not_sent", 3, uncharged}, want{"502 executed upstream_unreachable not_sent", 3, uncharged}, want{"502 executed upstream_unreachable not_sent", 3, uncharged}},
		{"a wrong certificate", []act{loses(govern.Queued, govern.ErrUntrusted)},
			want{"502 executed upstream_untrusted not_sent", 1, uncharged}, want{"502 executed upstream_untrusted not_sent", 1, uncharged}, want{"502 executed upstream_untrusted not_sent", 1, uncharged}},
		{"a forbidden address", []act{loses(govern.Queued, govern.ErrDestination)},
			want{"403 blocked destination_denied not_sent", 1, uncharged}, want{"403 blocked destination_denied not_sent", 1, uncharged}, want{"403 blocked destination_denied not_sent", 1, uncharged}},
		{"a refusal", []act{answers(429, "later")},
			want{"429 executed ok failed", 1, counted}, want{"429 executed ok failed", 1, counted}, want{"429 executed ok failed", 1, counted}},
		{"a lost answer, then one", []act{lost},
			want{"504 executed upstream_outcome_unknown unknown", 1, charged}, want{"200 executed ok done", 2, charged}, want{"200 executed ok done", 2, charged}},
		{"half an answer, then a whole one", []act{halves(200, "a")},
			want{"504 executed upstream_outcome_unknown unknown", 1, charged}, want{"200 executed ok done", 2, charged}, want{"200 executed ok done", 2, charged}},
		{"503, then an answer", []act{answers(503, "a")},
			want{"503 executed ok unknown", 1, charged}, want{"200 executed ok done", 2, charged}, want{"200 executed ok done", 2, charged}},
		{"503 for ever", []act{answers(503, "a"), answers(503, "a"), answers(503, "b"), answers(503, "c")},
			want{"503 executed ok unknown", 1, charged}, want{"503 executed ok unknown", 3, charged}, want{"503 executed ok failed", 3, counted}},
		{"a lost answer, then a refusal", []act{lost, answers(404, "no"), answers(404, "no")},
			want{"504 executed upstream_outcome_unknown unknown", 1, charged}, want{"404 executed ok unknown", 3, charged}, want{"404 executed ok failed", 2, counted}},
		{"a lost answer, then refused dials", []act{lost, refused, refused},
			want{"504 executed upstream_outcome_unknown unknown", 1, charged}, want{"504 executed upstream_outcome_unknown unknown", 3, charged}, want{"504 executed upstream_outcome_unknown failed", 3, counted}},
		{"a refused dial, then a lost answer", []act{refused, lost},
			want{"504 executed upstream_outcome_unknown unknown", 2, charged}, want{"200 executed ok done", 3, charged}, want{"200 executed ok done", 3, charged}},
	} {
		for effect, want := range map[string]want{"mutating": v.mutating, "idempotent": v.idempotent, "read": v.read} {
			t.Run(v.name+", "+effect, func(t *testing.T) {
				s := retrying(effect, 2)
				s.tools[0].Auth = fourEffects().tools[0].Auth
				in(t, s, func(w *world) {
					w.stage.then(v.acts...)
					r := w.ask(named("t", "{}"))
					r.want(t, want.told)
					synctest.Wait()
					if got := w.usage("t"); got != want.cost {
						t.Errorf("charged %q, want %q", got, want.cost)
					}
					if n := w.stage.sends(); n != want.sends || w.stage.leaked() != 0 {
						t.Fatalf("sent %d times, want %d; %d answers left open", n, want.sends, w.stage.leaked())
					}
					if rec := w.record(r); rec.Attempt != want.sends || rec.Fence != w.stage.last().fence {
						t.Errorf("recorded as %+v", rec)
					}
					sameRun(t, effect, w.stage.seen, w.stage.ran)
				})
			})
		}
	}
}

// sameRun: every attempt has the same upstream key and the next number; behind one that may have run, an idempotent
// tool is shown a higher fence, so that it can tell which came last.
func sameRun(t *testing.T, effect string, attempts []seen, mayHaveRun []bool) {
	t.Helper()
	for i, a := range attempts {
		if a.key != attempts[0].key || a.n != i+1 {
			t.Errorf("attempt %d has key %s and number %d", i+1, a.key, a.n)
		}
		if i == 0 {
			continue
		}
		before := attempts[i-1].fence
		if renewed := effect == "idempotent" && slices.Contains(mayHaveRun[:i], true); renewed != (a.fence > before) || a.fence < before {
			t.Errorf("attempt %d has the fence %d after %d", i+1, a.fence, before)
		}
	}
}

// TestRetriesPause: with full jitter, longer each time, and no time at all for what is not tried again.
func TestRetriesPause(t *testing.T) {
	in(t, retrying("mutating", 6), func(w *world) {
		start := time.Now()
		var at []time.Duration
		w.stage.always = first(func() { at = append(at, time.Since(start)) }, loses(govern.Queued, govern.ErrUnreachable))
		w.ask(named("t", "{}")).want(t, "502 executed upstream_unreachable not_sent")
		for i := 1; i < len(at); i++ {
			gap, most := at[i]-at[i-1], min(100*time.Millisecond<<(i-1), 2*time.Second)+10*time.Millisecond
			if gap < 10*time.Millisecond || gap > most {
				t.Errorf("attempt %d came after %v; 10ms to %v", i+1, gap, most)
			}
		}
		if len(at) != 7 || w.meter.overhead > 0 {
			t.Errorf("%d attempts, %v of our own time: %s", len(at), w.meter.overhead, fmt.Sprint(at))
		}
	})
}
