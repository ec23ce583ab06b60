// Package metrics counts what happens, for Prometheus. Label values come from the registry and from the code only:
// whatever else a request says is counted as "other", so that no caller can grow the number of series or read a
// key, a URL or an argument out of them.
package metrics

import (
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// other stands for every label value that neither registry nor code knows.
const other = "other"

// Metrics are the series of one sidecar. Methods are named after what has happened and may be called from many
// goroutines; those of a request's path do not allocate.
type Metrics struct {
	registry *prometheus.Registry

	calls       *prometheus.CounterVec
	duplicates  *prometheus.CounterVec
	unknowns    *prometheus.CounterVec
	spend       *prometheus.CounterVec
	upstream    *prometheus.HistogramVec
	failOpen    *prometheus.CounterVec
	storeErrors *prometheus.CounterVec
	killSwitch  *prometheus.GaugeVec
	spent       *prometheus.GaugeVec
	caps        *prometheus.GaugeVec
	anomalies   *prometheus.CounterVec

	unknown      prometheus.Gauge
	doubles      prometheus.Counter
	rollbacks    prometheus.Counter
	tunnels      prometheus.Counter
	auditErrors  prometheus.Counter
	dropped      prometheus.Counter
	overhead     prometheus.Histogram
	propagation  prometheus.Histogram
	reloaded     prometheus.Gauge
	storeCreated prometheus.Gauge

	snapshot atomic.Int64 // unix nanoseconds when the policy snapshot was last known to be current

	known atomic.Pointer[names] // swapped whole

	mu       sync.Mutex
	disabled map[string]bool // agents that are switched off; guarded by mu
	budgeted map[string]bool // agents whose budget is shown; guarded by mu
}

// names is which names of tools and agents may stand in a label, with the series of each tool.
type names struct {
	tools  map[string]*series
	other  *series
	agents map[string]bool
}

// New makes the series, all at zero. version is the program's.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), disabled: map[string]bool{}, budgeted: map[string]bool{}}
	m.makeRequests()
	m.makeState()
	m.registry.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "oo_sidecar_build_info", Help: "Always 1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}}, func() float64 { return 1 }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "oo_sidecar_policy_snapshot_age_seconds",
			Help: "Time since policies and tools were last known to be current."}, m.snapshotAge),
	)
	m.reloaded.Set(1)
	m.Current(time.Now())
	m.Registered(nil, nil)
	return m
}

func (m *Metrics) makeRequests() {
	m.calls = m.counters("calls_total", "Requests by tool, decision and reason.", "tool", "decision", "reason")
	m.duplicates = m.counters("duplicates_prevented_total", "Requests answered from a record instead of running again.", "tool")
	m.unknowns = m.counters("unknown_outcomes_total", "Calls after which nobody knew whether they ran.", "tool")
	m.spend = m.counters("spend_micro_usd_total", "Spend settled, in millionths of a US dollar.", "tool")
	m.upstream = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "oo_sidecar_upstream_duration_seconds",
		Help: "Time a tool took to answer.", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}}, []string{"tool"})
	m.overhead = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "oo_sidecar_overhead_seconds",
		Help:    "The sidecar's own time per request, without the tool's and without waiting for another caller's call.",
		Buckets: []float64{25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .25, 1}})
	m.registry.MustRegister(m.upstream, m.overhead)
	m.failOpen = m.counters("fail_open_total", "Checks that were waived because the operator allowed it.", "check")
	m.failOpen.WithLabelValues("store")
	m.tunnels = m.counter("opaque_tunnels_total", "CONNECT tunnels whose content was not governed.")
}

func (m *Metrics) makeState() {
	m.storeErrors = m.counters("store_errors_total", "Steps of the store that failed.", "op")
	m.storeErrors.WithLabelValues("begin")
	m.anomalies = m.counters("anomalies_total", "Agents that did what they had not done before, by rule.", "rule")
	for _, rule := range []string{"identical_refusals", "spend_rate", "first_sensitive_use"} {
		m.anomalies.WithLabelValues(rule) // there from the start, so that an increase can be seen
	}
	m.auditErrors = m.counter("audit_write_errors_total", "Audit records that could not be written when they were due: they waited in memory, or were lost (audit_records_lost in the audit).")
	m.dropped = m.counter("audit_stream_dropped_total", "Audit records that did not get into the stream in Redis; the journal has them.")
	m.doubles = m.counter("possible_double_executions_total", "Late answers whose key another holder had by then.")
	m.rollbacks = m.counter("policy_rollback_refused_total", "Older policies that a control plane or store offered and that were refused.")
	m.unknown = m.gauge("unknown_outcomes", "Calls whose outcome is unknown now.")
	m.reloaded = m.gauge("config_last_reload_successful", "1 when the configuration file was taken the last time it was read.")
	m.storeCreated = m.gauge("store_created", "1 when this start found no journal and made one.")
	m.killSwitch = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "oo_sidecar_kill_switch_active",
		Help: "Agents switched off: 1 for one with a policy or *, and how many of the others."}, []string{"agent"})
	m.propagation = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "oo_sidecar_kill_switch_propagation_seconds",
		Help: "Time from a change of the kill switch until it bound here.", Buckets: []float64{.001, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}})
	m.spent = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "oo_sidecar_spend_today_micro_usd",
		Help: "What an agent with a daily cap has spent since midnight UTC, what its running calls may cost included."}, []string{"agent"})
	m.caps = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "oo_sidecar_spend_cap_micro_usd", Help: "The daily cap of an agent's spend."}, []string{"agent"})
	m.registry.MustRegister(m.killSwitch, m.propagation, m.spent, m.caps)
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "oo_sidecar_" + name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "oo_sidecar_" + name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "oo_sidecar_" + name, Help: help})
	m.registry.MustRegister(g)
	return g
}

// Handler serves the series as text. Before each scrape it calls refresh, for gauges that somebody else knows: how many
// outcomes are unknown, who is switched off.
func (m *Metrics) Handler(refresh ...func(*Metrics)) http.Handler {
	text := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true, MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, f := range refresh {
			f(m)
		}
		text.ServeHTTP(w, r)
	})
}

// Registered says which tools and which agents with a policy there are from now on.
func (m *Metrics) Registered(tools, agents []string) {
	n := &names{tools: make(map[string]*series, len(tools)), agents: make(map[string]bool, len(agents)+1)}
	old := m.known.Load()
	if old == nil {
		n.other = m.series(other)
	} else {
		n.other = old.other
	}
	for _, t := range tools {
		if old != nil && old.tools[t] != nil {
			n.tools[t] = old.tools[t]
		} else {
			n.tools[t] = m.series(t)
		}
	}
	for _, a := range agents {
		n.agents[a] = true
	}
	n.agents["*"] = true
	m.known.Store(n)
	m.showSwitches()
}

// Call counts a request by the record that the audit gets, one for each request, whatever became of it. overhead is
// the sidecar's own time, upstream what was spent with the tool; 0 means that the tool was not asked.
func (m *Metrics) Call(r *audit.Record, overhead, upstream time.Duration) {
	s := m.tool(r.Tool)
	n := float64(max(r.Count, 1))
	s.call(m.calls, r.Decision, r.PolicyReason).Add(n)
	m.overhead.Observe(max(0, overhead.Seconds()))
	if upstream > 0 {
		s.upstream.Observe(upstream.Seconds())
	}
	switch r.Decision {
	case "dedup":
		s.duplicates.Add(n)
	case "executed":
		s.executed(r)
	}
}

// executed counts what a call that was tried has cost, and that nobody knows whether it ran. A failed one costs nothing.
func (s *series) executed(r *audit.Record) {
	switch r.Outcome {
	case "unknown":
		s.unknowns.Inc()
	case "done":
	default:
		return
	}
	if cost, err := tool.ParseMoney(r.SpendUSD); err == nil && cost > 0 {
		s.spend.Add(float64(cost))
	}
}

// FailOpen counts a check that was waived.
func (m *Metrics) FailOpen(check string) { m.failOpen.WithLabelValues(among(checks, check)).Inc() }

// StoreError counts a step of the store that failed.
func (m *Metrics) StoreError(op string) { m.storeErrors.WithLabelValues(among(ops, op)).Inc() }

// AuditError counts an audit record that could not be written when it was due.
func (m *Metrics) AuditError() { m.auditErrors.Inc() }

// Anomaly counts one that was told, by its rule.
func (m *Metrics) Anomaly(rule string) { m.anomalies.WithLabelValues(rule).Inc() }

// StreamDropped counts audit records that did not get into the stream in Redis.
func (m *Metrics) StreamDropped(records int) { m.dropped.Add(float64(records)) }

// Tunnel counts an opaque tunnel.
func (m *Metrics) Tunnel() { m.tunnels.Inc() }

// Unknown says how many outcomes are unknown now.
func (m *Metrics) Unknown(n int) { m.unknown.Set(float64(n)) }

// DoubleExecution counts a late answer whose key another holder had by then: perhaps the call ran twice.
func (m *Metrics) DoubleExecution() { m.doubles.Inc() }

// RollbackRefused counts an older policy that was offered and refused.
func (m *Metrics) RollbackRefused() { m.rollbacks.Inc() }

// Reload says whether the configuration file was taken.
func (m *Metrics) Reload(ok bool) { m.reloaded.Set(number(ok)) }

// StoreCreated says whether this start had to make a journal.
func (m *Metrics) StoreCreated(made bool) { m.storeCreated.Set(number(made)) }

// Current says that policies and tools were known to be current at t.
func (m *Metrics) Current(t time.Time) { m.snapshot.Store(t.UnixNano()) }

func (m *Metrics) snapshotAge() float64 {
	return max(0, time.Since(time.Unix(0, m.snapshot.Load())).Seconds())
}

// KillSwitch says that an agent, or "*", is switched off or on again.
func (m *Metrics) KillSwitch(agent string, active bool) {
	m.mu.Lock()
	if active {
		m.disabled[agent] = true
	} else {
		delete(m.disabled, agent)
	}
	m.mu.Unlock()
	m.showSwitches()
}

// Budget is what an agent has spent of its daily cap.
type Budget struct {
	Agent      string // one that the configuration names: it becomes a label
	Spent, Cap tool.Money
}

// Budgets shows the budgets of the agents that have one now.
func (m *Metrics) Budgets(all []Budget) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := m.budgeted
	m.budgeted = make(map[string]bool, len(all))
	for _, b := range all {
		m.spent.WithLabelValues(b.Agent).Set(float64(b.Spent))
		m.caps.WithLabelValues(b.Agent).Set(float64(b.Cap))
		m.budgeted[b.Agent] = true
		delete(gone, b.Agent)
	}
	for agent := range gone {
		m.spent.DeleteLabelValues(agent)
		m.caps.DeleteLabelValues(agent)
	}
}

// Propagated measures how long a change of the kill switch took to bind here.
func (m *Metrics) Propagated(d time.Duration) { m.propagation.Observe(d.Seconds()) }

func (m *Metrics) showSwitches() {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.known.Load()
	m.killSwitch.Reset()
	for agent := range known.agents {
		m.killSwitch.WithLabelValues(agent).Set(number(m.disabled[agent]))
	}
	others := m.killSwitch.WithLabelValues(other)
	for agent := range m.disabled {
		if !known.agents[agent] {
			others.Inc()
		}
	}
}

// tool finds the series of a tool by its name.
func (m *Metrics) tool(name string) *series {
	known := m.known.Load()
	if s := known.tools[name]; s != nil {
		return s
	}
	return known.other
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
