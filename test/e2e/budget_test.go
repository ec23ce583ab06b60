package e2e

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// callers is how many call at once.
const callers = 200

// sameDay waits past midnight, UTC, when it is near: a cap of the day begins anew there.
func sameDay() {
	if left := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)); left < time.Minute {
		time.Sleep(left)
	}
}

func governed(t testing.TB, policy settings, tools ...settings) *sidecar {
	t.Helper()
	sameDay()
	policy["agent_id"] = "e2e-agent"
	return start(t, tools, settings{"policies": []settings{policy}})
}

// TestCapsUnderConcurrency: of 200 callers at once exactly as many run as the cap permits, and a duplicate of each
// costs nothing.
func TestCapsUnderConcurrency(t *testing.T) {
	a := act(t, ok)
	for _, c := range []struct {
		name   string
		policy settings
		header []string
		ran    int
		code   string
	}{
		{"hour", settings{"max_actions_per_hour": 37}, nil, 37, "max_actions_per_hour_exceeded"},
		{"tool", settings{"max_calls_per_tool": settings{"tool": 11}}, nil, 11, "max_calls_per_tool_exceeded"},
		{"micro", settings{"max_spend_usd_per_day": "0.000137", "pricing_rules": []settings{{"tool": "micro", "price_usd": "0.000001"}}}, nil, 137, "max_spend_usd_per_day_exceeded"},
		{"third", settings{"max_spend_usd_per_day": "10", "pricing_rules": []settings{{"tool": "third", "price_usd": "0.333333"}}}, nil, 30, "max_spend_usd_per_day_exceeded"},
		{"exact", settings{"max_spend_usd_per_day": "9.99999", "pricing_rules": []settings{{"tool": "exact", "price_usd": "0.333333"}}}, nil, 30, "max_spend_usd_per_day_exceeded"},
		{"less", settings{"max_spend_usd_per_day": "9.999989", "pricing_rules": []settings{{"tool": "less", "price_usd": "0.333333"}}}, nil, 29, "max_spend_usd_per_day_exceeded"},
		{"declared", settings{"max_spend_usd_per_day": "0.000010"}, []string{"X-OnceOnly-Spend-Usd", "0.0000001"}, 10, "max_spend_usd_per_day_exceeded"},
		{"lowered", settings{"max_spend_usd_per_day": "1", "pricing_rules": []settings{{"tool": "lowered", "price_usd": "0.25"}}}, []string{"X-OnceOnly-Spend-Usd", "0"}, 4, "max_spend_usd_per_day_exceeded"},
		{"nothing", settings{"max_actions_per_hour": 0}, nil, 0, "max_actions_per_hour_exceeded"},
		{"unpaid", settings{"max_spend_usd_per_day": 0, "pricing_rules": []settings{{"tool": "unpaid", "price_usd": "0.000001"}}}, nil, 0, "max_spend_usd_per_day_exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := governed(t, c.policy, a.tool(c.name, nil))
			answers := many(callers, callers, func(i int) answer { return s.call(c.name, fmt.Sprintf(`{"n":%d}`, i), c.header...) })
			served := 0
			for i, r := range answers {
				switch {
				case r.status == 200:
					served++
					if again := s.call(c.name, fmt.Sprintf(`{"n":%d}`, i), c.header...); !again.replayed() {
						t.Errorf("call %d, past the cap: %d %s instead of a replay", i, again.status, again.code())
					}
				case r.code() != c.code || r.status != 429:
					t.Errorf("call %d: %d %q", i, r.status, r.code())
				default:
					checkEdge(t, r, c.code)
				}
			}
			if ran := a.ran(c.name); ran != c.ran || served != c.ran {
				t.Errorf("%d callers: ran %d times, %d were served, the cap is %d", callers, ran, served, c.ran)
			}
		})
	}
}

// checkEdge holds Retry-After against the window that is full.
func checkEdge(t testing.TB, r answer, code string) {
	t.Helper()
	after, most := number(r.header.Get("Retry-After")), uint64(86400)
	if code == "max_actions_per_hour_exceeded" {
		most = 3660 // a minute's bucket counts until its last instant is an hour old
	}
	if after == 0 || after > most || !strings.Contains(r.body, `"retryable":true`) || !strings.Contains(r.body, fmt.Sprintf(`"retry_after_s":%d`, after)) {
		t.Errorf("Retry-After %d: %s", after, r.body)
	}
}

// TestSpendToTheLastMicroDollar: two prices compete for one budget, and what is left of it is exactly what can still be spent.
func TestSpendToTheLastMicroDollar(t *testing.T) {
	a := act(t, ok)
	s := governed(t, settings{"max_spend_usd_per_day": "10.000140"}, a.tool("dear", settings{"price_usd": "0.333333"}), a.tool("cheap", settings{"price_usd": "0.000001"}))
	answers := many(callers, callers, func(i int) answer {
		return s.call([]string{"dear", "cheap"}[i%2], fmt.Sprintf(`{"n":%d}`, i))
	})
	for i, r := range answers {
		if r.status != 200 && r.code() != "max_spend_usd_per_day_exceeded" {
			t.Errorf("call %d: %d %s", i, r.status, r.body)
		}
	}
	if a.ran("dear") != 30 || a.ran("cheap") != 100 {
		t.Fatalf("%d dear calls and %d cheap ones ran; 30 and 100 fit", a.ran("dear"), a.ran("cheap"))
	}
	many(callers, callers, func(i int) answer { return s.call("cheap", fmt.Sprintf(`{"more":%d}`, i)) })
	if ran := a.ran("cheap"); ran != 150 {
		t.Errorf("of the 50 micro-dollars left %d were spent", ran-100)
	}
	spent := micro(t, s)
	if spent != 10_000_140 {
		t.Errorf("the audit adds up to %d micro-dollars", spent)
	}
}

// micro is what the audit says was spent.
func micro(t testing.TB, s *sidecar) (sum uint64) {
	t.Helper()
	for _, r := range s.records() {
		if r.Decision != "executed" {
			continue
		}
		whole, part, _ := strings.Cut(r.Spend, ".")
		sum += number(whole)*1_000_000 + number((part + "000000")[:6])
	}
	return sum
}

// TestSettlement is semantics.md's "Settlement": what an outcome gives back, and what it keeps, also past a kill -9.
func TestSettlement(t *testing.T) {
	t.Parallel()
	closed := stand.FreeAddr(t)
	a := act(t, func(x *scene) {
		switch x.name() {
		case "unknown":
			x.reset()
		case "failed":
			x.answer(402, "declined")
		case "released":
			x.answer(429, "later")
		default:
			ok(x)
		}
	})
	for _, c := range []struct {
		name       string
		fits       int    // of ten different calls
		code       string // of those that do not fit
		more       int    // calls of another, paid tool that fit afterwards
		moreReason string
	}{
		// Three paid calls fit into the day, five calls into the hour.
		{"unknown", 3, "max_spend_usd_per_day_exceeded", 0, "max_spend_usd_per_day_exceeded"},
		{"failed", 5, "max_actions_per_hour_exceeded", 0, "max_actions_per_hour_exceeded"},
		{"released", 5, "max_actions_per_hour_exceeded", 0, "max_actions_per_hour_exceeded"},
		{"unsent", 10, "", 3, "max_spend_usd_per_day_exceeded"},
		{"done", 3, "max_spend_usd_per_day_exceeded", 0, "max_spend_usd_per_day_exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			paid := settings{"price_usd": "0.333333"}
			first := a.tool(c.name, paid)
			if c.name == "unsent" {
				first["url"], first["max_retries"] = "http://"+closed+"/unsent", 0
			}
			s := governed(t, settings{"max_spend_usd_per_day": "1.00", "max_actions_per_hour": 5}, first, a.tool("other", paid))
			fits := 0
			for i := range 10 {
				if i == 4 {
					s.kill()
					s.run()
				}
				r := s.call(c.name, fmt.Sprintf(`{"n":%d}`, i))
				if r.decision() == "executed" {
					fits++
				} else if r.code() != c.code {
					t.Errorf("call %d: %d %s", i, r.status, r.code())
				}
			}
			s.kill()
			s.run()
			before := a.ran("other")
			for i := range 5 {
				if r := s.call("other", fmt.Sprintf(`{"%s":%d}`, c.name, i)); r.status != 200 && r.code() != c.moreReason {
					t.Errorf("other call %d: %d %s", i, r.status, r.code())
				}
			}
			if more := a.ran("other") - before; fits != c.fits || more != c.more {
				t.Errorf("%d calls fitted and then %d of another tool, wanted %d and %d", fits, more, c.fits, c.more)
			}
		})
	}
}

// TestRefusalsAreFree: what is refused, for whatever reason, and what is a duplicate, leaves the budget as it was.
func TestRefusalsAreFree(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := governed(t, settings{"max_actions_per_hour": 3, "max_spend_usd_per_day": "0.30", "blocked_tools": []string{"blocked"}},
		a.tool("pay", settings{"price_usd": "0.10"}), a.tool("blocked", settings{"price_usd": "0.10"}), a.tool("off", settings{"enabled": false}), a.tool("dear", settings{"price_usd": "0.31"}))
	s.call("pay", `{"n":0}`)
	for range 20 {
		s.call("pay", `{"n":0}`)
		s.call("pay", `{"n":0,"n":0}`)
		s.call("blocked", `{"n":0}`)
		s.call("off", `{"n":0}`)
		s.call("dear", `{"n":0}`)
		s.call("missing", `{"n":0}`)
	}
	for i, want := range []int{200, 200, 429} {
		if r := s.call("pay", fmt.Sprintf(`{"n":%d}`, i+1)); r.status != want {
			t.Errorf("call %d: %d %s, wanted %d", i+1, r.status, r.code(), want)
		}
	}
	if ran := a.ran(""); ran != 3 {
		t.Errorf("ran %d times", ran)
	}
}

// TestWaitersAreFree: 200 callers of one call charge for one.
func TestWaitersAreFree(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 2), make(chan bool)
	a := act(t, func(x *scene) {
		began <- true
		<-goOn
		ok(x)
	})
	s := governed(t, settings{"max_actions_per_hour": 1, "max_spend_usd_per_day": "0.333333"}, a.tool("pay", settings{"price_usd": "0.333333"}))
	var refused atomic.Int64
	answers := later(func() []answer {
		return many(callers, callers, func(i int) answer {
			r := s.call("pay", `{"n":0}`)
			if r.status != 200 {
				refused.Add(1)
			}
			return r
		})
	})
	got(t, "the tool was called", began)
	close(goOn)
	replays := 0
	for _, r := range got(t, "all were answered", answers) {
		if r.replayed() {
			replays++
		}
	}
	if replays != callers-1 || refused.Load() != 0 || a.ran("") != 1 {
		t.Errorf("%d replays, %d refusals, ran %d", replays, refused.Load(), a.ran(""))
	}
}

// TestShadow: a policy in shadow tells what it would have refused, and refuses nothing.
func TestShadow(t *testing.T) {
	t.Parallel()
	a := act(t, ok)
	s := governed(t, settings{"mode": "shadow", "max_actions_per_hour": 2, "blocked_tools": []string{"blocked"}}, a.tool("pay", nil), a.tool("blocked", nil))
	for i := range 4 {
		if r := s.call("pay", fmt.Sprintf(`{"n":%d}`, i)); r.status != 200 {
			t.Errorf("call %d: %d %s", i, r.status, r.code())
		}
	}
	if r := s.call("blocked", "{}"); r.status != 200 {
		t.Errorf("blocked in shadow: %d %s", r.status, r.code())
	}
	out := s.export()
	if over, listed := strings.Count(out, `"shadow_reason":"max_actions_per_hour_exceeded"`), strings.Count(out, `"shadow_reason":"tool_explicitly_blocked"`); over != 2 || listed != 1 {
		t.Errorf("the audit tells of %d calls past the hour and %d blocked ones", over, listed)
	}
}

// TestBulkhead: only so many calls of a tool run at once, and who gets no place in time is told so.
func TestBulkhead(t *testing.T) {
	t.Parallel()
	began, goOn := make(chan bool, 4), make(chan bool)
	a := act(t, func(x *scene) {
		began <- true
		<-goOn
		ok(x)
	})
	s := governed(t, settings{"max_actions_per_hour": 3}, a.tool("slow", settings{"max_in_flight": 2, "dedup": settings{"wait": "200ms"}}))
	var running []<-chan answer
	for i := range 2 {
		running = append(running, later(func() answer { return s.call("slow", fmt.Sprintf(`{"n":%d}`, i)) }))
		got(t, "the tool was called", began)
	}
	over := s.call("slow", `{"n":2}`)
	over.is(t, "the third", 503, "overloaded", "blocked", "not_sent")
	if over.header.Get("Retry-After") == "" {
		t.Error("overloaded without Retry-After")
	}
	close(goOn)
	for _, r := range running {
		if r := got(t, "a running call ended", r); r.status != 200 {
			t.Errorf("%d %s", r.status, r.code())
		}
	}
	if r := s.call("slow", `{"n":2}`); r.status != 200 || a.ran("") != 3 {
		t.Errorf("the third, later: %d %s, ran %d", r.status, r.code(), a.ran(""))
	}
}
