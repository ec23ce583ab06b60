package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/health"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
	"github.com/oo-sidecar/oo-sidecar/internal/listen"
	"github.com/oo-sidecar/oo-sidecar/internal/metrics"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// sidecar is all parts of one running program, wired. It is made by newSidecar, listens, starts, and shuts down.
type sidecar struct {
	log         *slog.Logger
	cfg         atomic.Pointer[config.Config] // swapped whole by reload
	started     time.Time
	store       backend
	redis       *store.Redis  // the same, when it is that one
	elsewhere   chan struct{} // told when another sidecar changed policies or tools; nil without Redis
	mask        atomic.Pointer[hmac.Mask]
	seal        *store.Seal // of the secrets of tools set through the api
	metrics     *metrics.Metrics
	audit       *audit.Log
	governor    *govern.Governor
	upstream    *proxy.Upstream
	proxy       *proxy.Server
	api         *api.Server
	health      *health.Handler
	identity    atomic.Pointer[proxy.Identity]
	members     *members                     // children of `run`; nil unless one started this sidecar
	instance    string                       // made at the start: by it a probe is told from an answer of something else
	ca          atomic.Pointer[intercept.CA] // nil while interception is off
	keyPath     string                       // of the operator key made here; empty when the configuration has one
	control     *controlled                  // what a control plane says; nil without one
	plane       plane                        // what this sidecar says as a control plane
	draining    atomic.Bool
	waitingAt   atomic.Int64    // when that records cannot be written was last said; Unix, ns
	waiting     atomic.Bool     // that was said, and that they are written again was not
	introducing sync.Mutex      // held while identity is made
	keys        []api.SharedKey // those in use; guarded by editing
	editing     sync.Mutex      // held while entries change: one change at a time is judged against all others

	ctx       context.Context // of the calls; ended when drain is over
	abandon   context.CancelFunc
	listeners struct{ proxy, api, health net.Listener }
	servers   []*http.Server
}

// newSidecar opens the store and puts the parts together. Nothing listens yet.
func newSidecar(cfg *config.Config, log *slog.Logger) (*sidecar, error) {
	s := &sidecar{log: log, started: time.Now(), instance: rand.Text(), metrics: metrics.New(buildVersion()), api: &api.Server{}}
	s.cfg.Store(cfg)
	s.ctx, s.abandon = context.WithCancel(context.Background())
	if err := s.openStore(cfg); err != nil {
		return nil, err
	}
	s.audit = audit.NewLog(s.store.Record, s.unrecorded)
	s.audit.Change, s.audit.Scarce, s.audit.Again = s.store.Change, s.store.Scarce, s.recorded
	s.governor = &govern.Governor{
		Store: s.store, Disabled: s.disabled, Record: s.audit.Append, Audited: s.audit.Healthy, Meter: meter{s}, Limits: cfg.Limits,
		Watch: s.watch, Shown: func(k dedup.Key) string { return s.mask.Load().Shown(k) }, Log: s.logf,
	}
	s.store.OnSwitch(s.ownSwitch)
	if err := s.useKeys(cfg); err != nil {
		s.close(context.Background())
		return nil, err
	}
	return s, nil
}

func (s *sidecar) disabled(agent string) bool {
	_, off := s.store.Disabled(agent)
	return off || s.control.disabled(agent)
}

// unrecorded counts an audit record that could not be written when it was due, and says so at most once in ten seconds.
func (s *sidecar) unrecorded(err error) {
	s.metrics.AuditError()
	now, told := time.Now().UnixNano(), s.waitingAt.Load()
	if now-told > int64(10*time.Second) && s.waitingAt.CompareAndSwap(told, now) {
		s.waiting.Store(true)
		s.log.Error("audit records cannot be written; as many as memory allows wait for the store", "error", err.Error())
	}
}

// recorded says that what unrecorded spoke of is over.
func (s *sidecar) recorded(lost int64) {
	if s.waiting.CompareAndSwap(true, false) {
		s.log.Info("audit records are written again", "lost", lost)
	}
}

// ownSwitch follows the store's kill switch. An agent that the control plane has switched off stays off, also in the
// gauge, whatever is enabled here.
func (s *sidecar) ownSwitch(agent string, off bool) {
	if !off && s.control.holds(agent) {
		s.log.Warn("the agent's own switch is on again; the control plane's keeps it off", "agent", agent)
		return
	}
	s.switched(agent, off)
}

// switched follows the kill switch.
func (s *sidecar) switched(agent string, off bool) {
	s.metrics.KillSwitch(agent, off)
	if off && s.proxy != nil {
		s.proxy.CloseTunnels(agent)
	}
	if !off {
		s.store.Book().Pardon(agent, time.Now())
	}
	said := []any{"agent", agent, "disabled", off}
	if sw, ok := s.store.Disabled(agent); ok && off {
		said = append(said, "reason", sw.Reason)
	}
	s.log.Warn("kill switch", said...)
	s.changed()
}

func (s *sidecar) logf(level slog.Level, msg string, args ...any) {
	s.log.Log(context.Background(), level, msg, args...)
}

// listen binds the three listeners, then makes what must know their addresses.
func (s *sidecar) listen() error {
	cfg := s.cfg.Load()
	var err error
	for _, l := range []struct {
		key, address string
		to           *net.Listener
	}{{"proxy.listen", cfg.Proxy.Listen, &s.listeners.proxy}, {"api.listen", cfg.API.Listen, &s.listeners.api}, {"health.listen", cfg.Health.Listen, &s.listeners.health}} {
		if *l.to, err = net.Listen("tcp", l.address); err != nil {
			return fmt.Errorf("%s: %w; is another sidecar running, or is the port taken? Choose another address in the configuration", l.key, err)
		}
		*l.to = listen.Patient(*l.to, s.log)
	}
	if s.upstream, err = proxy.NewUpstream(cfg.Proxy, s.own()...); err != nil {
		return err
	}
	s.upstream.Snapshot = s.governor.Snapshot
	s.governor.Sender = s.upstream
	if err := s.useControl(cfg); err != nil {
		return err
	}
	if err := s.use(cfg); err != nil {
		return err
	}
	if err := s.useCA(cfg); err != nil {
		return err
	}
	s.proxy, err = proxy.New(cfg.Proxy, int(cfg.Limits.HeaderBytes), proxy.Backend{
		Govern: s.governor.Govern, Refuse: s.governor.Refuse, RefuseEarly: s.governor.RefuseEarly, Snapshot: s.governor.Snapshot,
		Identity: s.identity.Load, Disabled: s.disabled, Stale: s.stale, Log: s.logf, Tunnelled: s.tunnelled, Unused: s.governor.Unused, Probe: s.probed,
		Certificate: func(host string) (*tls.Certificate, error) { return s.ca.Load().Certificate(host) },
		Dial: func(ctx context.Context, authority string) (net.Conn, error) {
			return s.upstream.Dialer().Dial(ctx, authority, nil)
		},
		Addresses: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return s.upstream.Dialer().Addresses(ctx, host)
		},
	})
	if err != nil {
		return err
	}
	s.proxy.Conns = listen.Share(proxyFiles, proxy.MaxConns)
	s.serveAPI()
	s.serveHealth()
	return nil
}

// own are the addresses that no call may reach: the sidecar's own listeners.
func (s *sidecar) own() []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range []net.Listener{s.listeners.proxy, s.listeners.api, s.listeners.health} {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			all = append(all, a.AddrPort())
		}
	}
	return all
}

func (s *sidecar) tunnelled(r *govern.Request) {
	s.metrics.Tunnel()
	s.governor.Tunnelled(r)
}

// probed answers for proxy.ProbeHost: which sidecar this is.
func (s *sidecar) probed(r *govern.Request) *govern.Reply {
	return s.governor.Answer(r, "probe", "oo-sidecar "+s.instance)
}

func (s *sidecar) serveAPI() {
	s.api.Switches, s.api.Unknowns, s.api.Registry = switchboard{s}, unknowns{s}, registry{s}
	s.api.Apply, s.api.Explain = registry{s}.Apply, s.explain
	s.api.Status, s.api.Log = s.status, s.log
	s.api.Crowd = int64(listen.Share(apiFiles, apiConnections) * 7 / 8)
	s.api.Audit, s.api.Walk = s.query, s.walk
	s.api.UseBook(s.store.Book())
	s.api.Record, s.api.Spent = s.audit.Append, s.spent
	s.api.StrictPolicyTools = func() bool { return s.cfg.Load().API.StrictPolicyTools }
	if s.control == nil { // one that has a control plane itself is none: what that one says would end here
		s.api.Published = s.published
	}
	s.api.Leases, s.api.Governor, s.api.Calls = s.store, s.governor, s.ctx
	if s.members != nil {
		s.api.Runs, s.members.changed = s.members, s.introduce
	}
	s.servers = append(s.servers, listen.Server(s.api.Handler(), s.log))
}

func (s *sidecar) serveHealth() {
	s.health = &health.Handler{Metrics: s.metrics.Handler(s.refresh), Lines: s.facts, Checks: []health.Check{
		{Name: "store", Err: s.store.Err},
		{Name: "draining", Err: s.notDraining},
	}}
	if s.control != nil {
		s.health.Checks = append(s.health.Checks, health.Check{Name: "control", Err: s.control.follower.Err})
	}
	s.servers = append(s.servers, listen.Server(s.health.Routes(), s.log))
}

var errDraining = errors.New("shutting down")

func (s *sidecar) notDraining() error {
	if s.draining.Load() {
		return errDraining
	}
	return nil
}

// apiConnections is how many the api listener has at once. Clients of check-lock that wait for one go on without the lock
// after some seconds, so there are more than any agent's pool needs.
const apiConnections = 2048

// How long a connection is without a request before another one may have its place. Clients of the api that wait for five
// seconds go on without the lock, and so may those whose request comes just when their connection is closed. A probe has
// one second, and is asked again.
const (
	apiRested    = 2 * time.Second
	healthRested = 250 * time.Millisecond
)

// Of 32 open files that the process may have, how many each listener's connections may take. Every agent's connection may
// need another one to a tool; what is left is for the store and its journal.
const (
	proxyFiles  = 12
	apiFiles    = 4
	healthFiles = 1
)

// start serves. What it returns is told when a listener fails.
func (s *sidecar) start() <-chan error {
	failed := make(chan error, 3)
	s.startControl()
	go s.watchReadiness(s.ctx, readinessEvery)
	s.api.ResumeJobs() // before anybody can ask for their keys
	if s.redis != nil {
		s.redis.Await(s.redisCame)
	}
	if s.elsewhere != nil {
		go s.followEntries()
	}
	go func() {
		if err := s.proxy.Serve(s.ctx, s.listeners.proxy); err != nil {
			failed <- fmt.Errorf("proxy listener: %w", err)
		}
	}()
	serve := func(server *http.Server, l net.Listener, connections int, rested time.Duration) {
		if err := listen.Serve(server, l, connections, rested); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("listener %s: %w", l.Addr(), err)
		}
	}
	go serve(s.servers[0], s.listeners.api, listen.Share(apiFiles, apiConnections), apiRested)
	go serve(s.servers[1], s.listeners.health, listen.Share(healthFiles, 64), healthRested)
	return failed
}

// shutdown takes no new claims, lets running calls finish within proxy.drain, records what is left as unknown, tells its
// clients, and closes the journal.
func (s *sidecar) shutdown() error {
	s.draining.Store(true)
	s.governor.Draining.Store(true)
	drain := s.cfg.Load().Proxy.Drain
	s.log.Info("draining", "running", s.governor.Running(), "drain", drain.String())
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if err := s.proxy.Drain(ctx); err != nil {
		s.log.Warn("calls were still running when the drain was over; their outcome is unknown unless their answer comes now", "running", s.governor.Running())
	}
	s.api.Drain(ctx)
	s.abandon()
	end, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	s.settle(end)
	for _, server := range s.servers {
		_ = server.Shutdown(end)
	}
	return s.close(end)
}

// settle waits until the abandoned calls have recorded their ends and their clients have been answered, two seconds at
// most.
func (s *sidecar) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.proxy.Close(ctx)
	for s.governor.Running() > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// close flushes and closes what newSidecar and listen opened.
func (s *sidecar) close(ctx context.Context) error {
	if s.audit != nil {
		if lost := s.audit.Close(ctx); lost > 0 {
			s.log.Error("requests leave no audit record, because the store took none", "requests", lost)
		}
	}
	for _, l := range []net.Listener{s.listeners.proxy, s.listeners.api, s.listeners.health} {
		if l != nil {
			_ = l.Close()
		}
	}
	if s.upstream != nil {
		s.upstream.Close()
	}
	s.control.end(ctx)
	unknown := s.store.Stats().Unknown
	err := s.store.Close(ctx)
	s.log.Info("stopped", "unknown_outcomes", unknown)
	return err
}

// welcome says where the sidecar listens and how to use it, one line a listener.
func (s *sidecar) welcome() string {
	cfg := s.cfg.Load()
	var b strings.Builder
	proxy, api, health := dialable(s.listeners.proxy.Addr().String()), s.listeners.api.Addr(), s.listeners.health.Addr()
	fmt.Fprintf(&b, "proxy   http://%s   export HTTP_PROXY=http://%s http_proxy=http://%s, or POST http://%s/tools/NAME\n", proxy, proxy, proxy, proxy)
	key := "operator key: in the configuration"
	if s.keyPath != "" {
		key = "operator key: " + s.keyPath
	}
	fmt.Fprintf(&b, "api     http://%s   Authorization: Bearer KEY; %s\n", dialable(api.String()), key)
	fmt.Fprintf(&b, "health  http://%s   /livez /readyz?verbose /metrics; state: %s\n", dialable(health.String()), cfg.Store.Embedded.Dir)
	return b.String()
}
