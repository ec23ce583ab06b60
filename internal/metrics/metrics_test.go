package metrics

import (
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	return string(body)
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}

func TestAllSeriesOfTheContractAreThereFromTheStart(t *testing.T) {
	text := scrape(t, New("v1.2.3"))
	for _, name := range strings.Fields(`calls_total duplicates_prevented_total unknown_outcomes unknown_outcomes_total
		possible_double_executions_total policy_rollback_refused_total opaque_tunnels_total overhead_seconds
		upstream_duration_seconds spend_micro_usd_total kill_switch_active kill_switch_propagation_seconds
		policy_snapshot_age_seconds config_last_reload_successful audit_write_errors_total build_info store_created fail_open_total store_errors_total`) {
		if !strings.Contains(text, "# TYPE oo_sidecar_"+name+" ") {
			t.Errorf("oo_sidecar_%s is missing", name)
		}
	}
	wantLines(t, text, "oo_sidecar_config_last_reload_successful 1", `oo_sidecar_kill_switch_active{agent="*"} 0`)
	if n := strings.Count(text, "\n"); n > 250 {
		t.Errorf("%d lines at the start", n)
	}
}

func TestCallsAreCountedFromTheirRecords(t *testing.T) {
	m := New("v")
	m.Registered([]string{"charge"}, nil)
	m.Call(&audit.Record{Tool: "charge", Decision: "executed", PolicyReason: "ok", Outcome: "done", SpendUSD: "0.50"}, time.Millisecond, 40*time.Millisecond)
	m.Call(&audit.Record{Tool: "charge", Decision: "executed", PolicyReason: "upstream_outcome_unknown", Outcome: "unknown", SpendUSD: "0.25"}, time.Millisecond, 0)
	m.Call(&audit.Record{Tool: "charge", Decision: "executed", PolicyReason: "ok", Outcome: "failed", SpendUSD: "0.50"}, -1, time.Second)
	m.FailOpen("store")
	m.Call(&audit.Record{Tool: "charge", Decision: "dedup", PolicyReason: "ok", Outcome: "done"}, time.Millisecond, 0)
	m.Call(&audit.Record{Tool: "charge", Decision: "dedup", PolicyReason: "outcome_unknown", Outcome: "unknown"}, time.Millisecond, 0)
	m.Call(&audit.Record{Tool: "charge", Decision: "blocked", PolicyReason: "tool_disabled", Count: 900}, time.Millisecond, 0)
	wantLines(t, scrape(t, m),
		`oo_sidecar_calls_total{decision="executed",reason="ok",tool="charge"} 2`,
		`oo_sidecar_calls_total{decision="executed",reason="upstream_outcome_unknown",tool="charge"} 1`,
		`oo_sidecar_calls_total{decision="blocked",reason="tool_disabled",tool="charge"} 900`,
		`oo_sidecar_duplicates_prevented_total{tool="charge"} 2`,
		`oo_sidecar_unknown_outcomes_total{tool="charge"} 1`,
		`oo_sidecar_fail_open_total{check="store"} 1`,
		`oo_sidecar_spend_micro_usd_total{tool="charge"} 750000`,
		`oo_sidecar_upstream_duration_seconds_count{tool="charge"} 2`,
		`oo_sidecar_overhead_seconds_count 6`,
	)
}

func TestBudgetsFollowThePolicies(t *testing.T) {
	m := New("v")
	m.Budgets([]Budget{{"billing", 4_200_000, 5_000_000}, {"mail", 0, 1_000_000}})
	wantLines(t, scrape(t, m),
		`oo_sidecar_spend_today_micro_usd{agent="billing"} 4.2e+06`,
		`oo_sidecar_spend_cap_micro_usd{agent="billing"} 5e+06`,
		`oo_sidecar_spend_today_micro_usd{agent="mail"} 0`,
	)
	m.Budgets([]Budget{{"billing", 0, 5_000_000}})
	text := scrape(t, m)
	wantLines(t, text, `oo_sidecar_spend_today_micro_usd{agent="billing"} 0`)
	if strings.Contains(text, "mail") {
		t.Error("an agent without a cap still has a budget")
	}
}

func TestNoCallerCanMakeALabel(t *testing.T) {
	m := New("v")
	m.Registered([]string{"charge"}, []string{"billing"})
	before := strings.Count(scrape(t, m), "\n")
	for _, secret := range []string{"https://api.test/v1/u_42", "POST:evil.example", "sk_live_1"} {
		m.Call(&audit.Record{Tool: secret, Decision: secret, PolicyReason: secret, FailOpen: secret}, time.Millisecond, 0)
		m.Call(&audit.Record{Tool: secret, Decision: "executed", PolicyReason: "ok", Outcome: "done", SpendUSD: "0.000005"}, 0, time.Second)
		m.StoreError(secret)
		m.FailOpen(secret)
		m.KillSwitch(secret, true)
	}
	text := scrape(t, m)
	for _, word := range []string{"u_42", "evil", "sk_live"} {
		if strings.Contains(text, word) {
			t.Errorf("%q stands in the metrics", word)
		}
	}
	wantLines(t, text, `oo_sidecar_calls_total{decision="other",reason="other",tool="other"} 3`,
		`oo_sidecar_spend_micro_usd_total{tool="other"} 15`, `oo_sidecar_kill_switch_active{agent="other"} 3`,
		`oo_sidecar_kill_switch_active{agent="billing"} 0`)
	if after := strings.Count(text, "\n"); after > before+8 {
		t.Errorf("%d lines became %d", before, after)
	}
}

func TestReloadKeepsCountsAndRenamesSwitches(t *testing.T) {
	m := New("v")
	m.Registered([]string{"charge"}, nil)
	spent := &audit.Record{Tool: "charge", Decision: "executed", PolicyReason: "ok", Outcome: "done", SpendUSD: "2.50"}
	m.Call(spent, 0, 0)
	m.KillSwitch("billing", true)
	wantLines(t, scrape(t, m), `oo_sidecar_kill_switch_active{agent="other"} 1`)
	m.Registered([]string{"charge", "refund"}, []string{"billing"})
	spent.SpendUSD = "0.000001"
	m.Call(spent, 0, 0)
	m.Reload(false)
	m.Unknown(7)
	m.Unknown(3)
	wantLines(t, scrape(t, m), `oo_sidecar_spend_micro_usd_total{tool="charge"} 2.500001e+06`,
		`oo_sidecar_kill_switch_active{agent="billing"} 1`, `oo_sidecar_kill_switch_active{agent="other"} 0`,
		"oo_sidecar_config_last_reload_successful 0", "oo_sidecar_unknown_outcomes 3")
	m.KillSwitch("billing", false)
	wantLines(t, scrape(t, m), `oo_sidecar_kill_switch_active{agent="billing"} 0`)
}

func TestGaugesAreRefreshedBeforeEachScrape(t *testing.T) {
	m, n := New("v"), 0
	h := m.Handler(func(m *Metrics) { n++; m.Unknown(n) })
	for _, want := range []string{"oo_sidecar_unknown_outcomes 1\n", "oo_sidecar_unknown_outcomes 2\n"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q", want)
		}
	}
}

func TestConcurrentCallsAndReloads(t *testing.T) {
	m := New("v")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 500 {
				if i%100 == 0 {
					m.Registered([]string{"charge"}, []string{"billing"})
					m.KillSwitch("billing", i%200 == 0)
				}
				m.Call(&audit.Record{Tool: "none", Decision: "blocked", PolicyReason: "tool_not_registered"}, time.Millisecond, 0)
			}
		})
	}
	group.Wait()
	wantLines(t, scrape(t, m), `oo_sidecar_calls_total{decision="blocked",reason="tool_not_registered",tool="other"} 4000`)
}

func TestThePathOfARequestAllocatesNothing(t *testing.T) {
	m := New("v")
	m.Registered([]string{"charge"}, nil)
	r := &audit.Record{Tool: "charge", Decision: "executed", PolicyReason: "ok", Outcome: "done", SpendUSD: "0"}
	if n := testing.AllocsPerRun(100, func() {
		m.Call(r, time.Millisecond, time.Second)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCall(b *testing.B) {
	m := New("v")
	m.Registered([]string{"stripe.charge"}, nil)
	r := &audit.Record{Tool: "stripe.charge", Decision: "dedup", PolicyReason: "ok"}
	for b.Loop() {
		m.Call(r, time.Millisecond, 0)
	}
}
