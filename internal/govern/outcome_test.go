package govern_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// What an equal call meets after the first one.
const (
	replays  = "replays"            // the answer, for the tool's ttl
	soon     = "replays for 10s"    // then it runs as a new run
	runs     = "runs anew"          // with another upstream key
	goesOn   = "runs with its key"  // the first run never was
	blocked  = "is blocked"         // until an operator resolves it
	resends  = "is sent once more"  // under the same upstream key, with a higher fence
	forgives = "is blocked for 60s" // then it runs
	free     = "runs"               // nothing is known of the first
)

// ending is one row of "What happens to a call": what the tool did, and per effect what the agent is told, what is
// charged (calls in the hour, spend, calls of the tool) and what an equal call meets.
type ending struct {
	does                 string
	act                  act
	mutating, idempotent [3]string
	read, unregistered   [3]string
}

const (
	charged   = "1 0.5 1" // count and spend stay
	counted   = "1 0 1"   // the spend is given back
	uncharged = "0 0 0"   // both are
)

// endings is the table of outcomes of a first attempt. Where a column is empty the first one holds.
func endings() []ending {
	same := func(does string, a act, told, cost, next string) ending {
		w := [3]string{told, cost, next}
		return ending{does: does, act: a, mutating: w, idempotent: w, read: w, unregistered: w}
	}
	var rows []ending
	for _, status := range []int{200, 201, 204, 299, 300, 301, 302, 303, 304, 305, 306} {
		rows = append(rows, same(fmt.Sprint(status), answers(status, "a"), fmt.Sprint(status, " executed ok done"), charged, replays))
	}
	for _, status := range []int{307, 308, 400, 402, 403, 404, 405, 406, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 423, 424, 426, 428, 431, 451, 499} {
		rows = append(rows, same(fmt.Sprint(status), answers(status, "a"), fmt.Sprint(status, " executed ok failed"), counted, soon))
	}
	for _, status := range []int{401, 407, 408, 421, 425, 429} {
		rows = append(rows, same(fmt.Sprint(status), answers(status, "a"), fmt.Sprint(status, " executed ok failed"), counted, runs))
	}
	// A status by which the tool promises that nothing happened; nobody promises that for an unregistered call.
	row := same("460, which the tool names", answers(460, "a"), "460 executed ok failed", counted, runs)
	row.unregistered[2] = soon
	rows = append(rows, row)
	// Whole answers that say nothing of what happened.
	for _, status := range []int{500, 502, 503, 504, 599} {
		told := fmt.Sprint(status, " executed ok ")
		rows = append(rows, ending{
			does: fmt.Sprint(status), act: answers(status, "a"),
			mutating: [3]string{told + "unknown", charged, blocked}, idempotent: [3]string{told + "unknown", charged, resends},
			read: [3]string{told + "failed", counted, runs}, unregistered: [3]string{told + "failed", counted, soon},
		})
	}
	for _, status := range []int{101, 103, 600, 999} {
		told := fmt.Sprint(status, " executed ok ")
		rows = append(rows, ending{
			does: fmt.Sprint(status), act: answers(status, "a"),
			mutating: [3]string{told + "unknown", charged, blocked}, idempotent: [3]string{told + "unknown", charged, resends},
			read: [3]string{told + "failed", counted, runs}, unregistered: [3]string{told + "unknown", charged, forgives},
		})
	}
	lost := func(does string, a act) ending {
		const told = "504 executed upstream_outcome_unknown "
		return ending{
			does: does, act: a,
			mutating: [3]string{told + "unknown", charged, blocked}, idempotent: [3]string{told + "unknown", charged, resends},
			read: [3]string{told + "failed", counted, runs}, unregistered: [3]string{told + "unknown", charged, forgives},
		}
	}
	rows = append(rows,
		lost("a reset at the first byte", loses(govern.FirstByte, govern.ErrBroken)),
		lost("a reset after the request", loses(govern.Flushed, govern.ErrBroken)),
		lost("a reset within the head", loses(govern.FirstByteRead, govern.ErrBroken)),
		lost("a time-out", loses(govern.Flushed, context.DeadlineExceeded)),
		lost("an error of reachability after the first byte", loses(govern.FirstByte, govern.ErrUnreachable)),
		lost("half an answer", halves(200, "a")),
		lost("half a refusal", halves(404, "a")),
		same("a refused dial", loses(govern.Queued, govern.ErrUnreachable), "502 executed upstream_unreachable not_sent", uncharged, goesOn),
		same("a reset before the first byte", loses(govern.Dialled, govern.ErrUnreachable), "502 executed upstream_unreachable not_sent", uncharged, goesOn),
		same("a wrong certificate", loses(govern.Dialled, govern.ErrUntrusted), "502 executed upstream_untrusted not_sent", uncharged, goesOn),
		same("a forbidden address", loses(govern.Queued, govern.ErrDestination), "403 blocked destination_denied not_sent", uncharged, goesOn),
	)
	return rows
}

// effects are the four kinds of calls, each under a policy that prices it.
var effects = []struct {
	name string
	of   func(*ending) [3]string
	ask  func(w *world, args string) *asking
}{
	{"mutating", func(e *ending) [3]string { return e.mutating }, func(_ *world, args string) *asking { return named("mutating", args) }},
	{"idempotent", func(e *ending) [3]string { return e.idempotent }, func(_ *world, args string) *asking { return named("idempotent", args) }},
	{"read", func(e *ending) [3]string { return e.read }, func(_ *world, args string) *asking { return named("read", args) }},
	{"POST:free.test", func(e *ending) [3]string { return e.unregistered }, func(w *world, args string) *asking {
		return forwarded(w.T, "POST", "https://free.test/things", args)
	}},
}

func fourEffects() setting {
	auth := func(secret string) *tool.AuthConfig {
		return &tool.AuthConfig{Type: "hmac_sha256", Secrets: []string{secret}}
	}
	price := tool.USD / 2
	return setting{
		unregistered: govern.Lightly,
		tools: []tool.Config{
			{Name: "mutating", Auth: auth("a"), Price: price, NotExecuted: []int{460}},
			{Name: "idempotent", Effect: "idempotent", Auth: auth("b"), Price: price, NotExecuted: []int{460}},
			{Name: "read", Effect: "read", Auth: auth("c"), Price: price, NotExecuted: []int{460}},
		},
	}
}

func TestOutcomeOfAFirstAttempt(t *testing.T) {
	for _, effect := range effects {
		t.Run(effect.name, func(t *testing.T) {
			for _, row := range endings() {
				t.Run(row.does, func(t *testing.T) {
					want := effect.of(&row)
					in(t, fourEffects(), func(w *world) {
						firstAttempt(w, effect.name, effect.ask, row.act, want)
					})
				})
			}
		})
	}
}

func firstAttempt(w *world, name string, ask func(*world, string) *asking, does act, want [3]string) {
	w.stage.then(does)
	priced := func() *asking {
		return ask(w, `{"n":1}`).with(func(r *govern.Request) { r.Spend = "0.5" })
	}
	r := w.ask(priced())
	r.want(w, want[0])
	synctest.Wait() // the end of a read waits for nobody
	if got := w.usage(name); got != want[1] {
		w.Errorf("charged %q, want %q", got, want[1])
	}
	one := w.stage.last()
	if n := w.stage.sends(); n != 1 {
		w.Fatalf("sent %d times", n)
	}
	if rec := w.record(r); rec.Tool != name || rec.Fence == 0 || rec.Attempt != 1 || rec.SpendUSD != spendOf(want[1]) {
		w.Errorf("recorded as %+v", rec)
	}
	next(w, r, want[2], one, priced)
	if n := w.stage.leaked(); n != 0 {
		w.Errorf("%d answers were never closed", n)
	}
}

// spendOf is the spend in a word of usage.
func spendOf(usage string) string {
	if usage == charged {
		return "0.5"
	}
	return "0"
}

// next asks the same again and holds it against the word of the table.
func next(w *world, first *reply, word string, one seen, ask func() *asking) {
	w.Helper()
	repeats := func() *reply {
		before := w.stage.sends()
		r := w.ask(ask())
		if n := w.stage.sends(); n != before {
			w.Fatalf("an equal call was sent: %+v", r.Reply)
		}
		return r
	}
	again := func() seen {
		before := w.stage.sends()
		r := w.ask(ask())
		r.want(w, "200 executed ok done")
		if n := w.stage.sends(); n != before+1 {
			w.Fatalf("an equal call was sent %d times", n-before)
		}
		return w.stage.last()
	}
	replayed := func() {
		r := repeats()
		r.want(w, fmt.Sprint(first.Status, " dedup tool_idempotency ", first.Outcome))
		if r.body != first.body || r.header["Idempotent-Replayed"] != "true" || r.header["Age"] == "" || r.Key != first.Key {
			w.Errorf("replayed %+v, first %+v", r.header, first.header)
		}
		if rec := w.record(r); rec.FirstID != first.id || rec.SpendUSD != "0" {
			w.Errorf("recorded as %+v", rec)
		}
	}
	anew := func(two seen) {
		if one.key != "" && two.key == one.key {
			w.Error("a new run has the upstream key of the old one")
		}
	}
	switch word {
	case replays:
		replayed()
		time.Sleep(59 * time.Second)
		replayed()
		if one.key != "" { // of an unregistered one the answer was delivered
			time.Sleep(24*time.Hour - 61*time.Second)
			replayed()
		}
		time.Sleep(2 * time.Second)
		anew(again())
	case soon:
		replayed()
		time.Sleep(11 * time.Second)
		anew(again())
	case runs:
		anew(again())
	case goesOn:
		if two := again(); two.key != one.key {
			w.Error("a call that was never sent has another upstream key now")
		}
	case blocked:
		repeats().want(w, "409 dedup outcome_unknown unknown")
		time.Sleep(30 * 24 * time.Hour)
		repeats().want(w, "409 dedup outcome_unknown unknown")
	case resends:
		two := again()
		if two.key != one.key || two.fence <= one.fence || two.n != 2 {
			w.Errorf("sent again with key %s, fence %d, attempt %d after %s, %d, %d", two.key, two.fence, two.n, one.key, one.fence, one.n)
		}
	case forgives:
		repeats().want(w, "409 dedup outcome_unknown unknown")
		time.Sleep(61 * time.Second)
		again()
	}
}

// TestOutcomeOfAResend is the row for calls of which an earlier attempt may have run: only 2xx and 3xx settle them.
func TestOutcomeOfAResend(t *testing.T) {
	const settled, open = true, false
	for _, row := range []struct {
		does    string
		act     act
		told    string
		settles bool
	}{
		{"200", answers(200, "a"), "200 executed ok done", settled},
		{"302", answers(302, "a"), "302 executed ok done", settled},
		{"307", answers(307, "a"), "307 executed ok done", settled},
		{"308", answers(308, "a"), "308 executed ok done", settled},
		{"400", answers(400, "a"), "400 executed ok unknown", open},
		{"401", answers(401, "a"), "401 executed ok unknown", open},
		{"409", answers(409, "a"), "409 executed ok unknown", open},
		{"429", answers(429, "a"), "429 executed ok unknown", open},
		{"460, which the tool names", answers(460, "a"), "460 executed ok unknown", open},
		{"500", answers(500, "a"), "500 executed ok unknown", open},
		{"half an answer", halves(200, "a"), "504 executed upstream_outcome_unknown unknown", open},
		{"a reset", loses(govern.Flushed, govern.ErrBroken), "504 executed upstream_outcome_unknown unknown", open},
		{"a refused dial", loses(govern.Queued, govern.ErrUnreachable), "409 dedup outcome_unknown unknown", open},
		{"a wrong certificate", loses(govern.Queued, govern.ErrUntrusted), "409 dedup outcome_unknown unknown", open},
		{"a forbidden address", loses(govern.Queued, govern.ErrDestination), "409 dedup outcome_unknown unknown", open},
		{"a stream that is cut", streams(200, io.ErrUnexpectedEOF, "a"), "200 executed ok -", open},
		{"a stream", streams(200, nil, "a"), "200 executed ok -", settled},
	} {
		t.Run(row.does, func(t *testing.T) {
			in(t, fourEffects(), func(w *world) {
				ask := func() *reply { return w.ask(named("idempotent", `{"n":1}`)) }
				w.stage.then(loses(govern.Flushed, govern.ErrBroken), row.act)
				ask().want(t, "504 executed upstream_outcome_unknown unknown")
				one := w.stage.last()
				second := ask()
				second.want(t, row.told)
				two := w.stage.last()
				if two.key != one.key || two.fence <= one.fence || two.n != 2 {
					t.Errorf("sent again with key %s, fence %d, attempt %d", two.key, two.fence, two.n)
				}
				if got := w.usage("idempotent"); got != charged {
					t.Errorf("charged %q, want %q", got, charged)
				}
				if rec := w.record(second); rec.SpendUSD != "0" {
					t.Errorf("the re-send says it spent %s; the first attempt's charge covers it", rec.SpendUSD)
				}
				third, sends := ask(), w.stage.sends()
				if row.settles {
					third.want(t, fmt.Sprint(second.Status, " dedup tool_idempotency done"))
					if sends != 2 {
						t.Errorf("sent %d times", sends)
					}
					return
				}
				third.want(t, "200 executed ok done")
				if three := w.stage.last(); sends != 3 || three.key != one.key || three.n != 3 {
					t.Errorf("the third: sent %d times, key %s, attempt %d", sends, three.key, three.n)
				}
			})
		})
	}
}

// TestResendEndsWithTheWindow: the tool promises to know a key for so long, and no longer.
func TestResendEndsWithTheWindow(t *testing.T) {
	in(t, fourEffects(), func(w *world) {
		w.stage.always = loses(govern.Flushed, govern.ErrBroken)
		w.ask(named("idempotent", "{}")).want(t, "504 executed upstream_outcome_unknown unknown")
		time.Sleep(24 * time.Hour)
		w.ask(named("idempotent", "{}")).want(t, "409 dedup outcome_unknown unknown")
		if n := w.stage.sends(); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}
