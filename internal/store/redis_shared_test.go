package store

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// sharing is one sidecar's view of what is shared, on a real server.
type sharing struct {
	*shared
	mu      sync.Mutex
	changes []audit.Change // guarded by mu
}

// joinShared opens one. A test's server is gone when the test ends; so are its clients.
func joinShared(t *testing.T, cfg RedisConfig, opt sharedOptions) *sharing {
	t.Helper()
	c, err := dialRedis(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	x := &sharing{}
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.Change = func(c *audit.Change) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.changes = append(x.changes, *c)
		return nil
	}
	x.shared, err = openShared(t.Context(), c, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.close()
		_ = c.close()
	})
	return x
}

// until waits for what comes by itself, as long as a slow machine needs.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func isOff(s *sharing, agent string) bool {
	_, off := s.Disabled(agent)
	return off
}

func TestRedisLeaseLaw(t *testing.T) {
	server := redistest.Start(t)
	var stores atomic.Int64
	storetest.LeaseLaw(t, func(t *testing.T) *storetest.LeaseBench {
		var ahead atomic.Int64
		n := stores.Add(1)
		opt := sharedOptions{Owner: "me", skew: func() time.Duration { return time.Duration(ahead.Load()) }}
		cfg := RedisConfig{Addrs: []string{server.Addr}, Prefix: fmt.Sprintf("law%d:", n)}
		b := &storetest.LeaseBench{Advance: func(d time.Duration) { ahead.Add(int64(d)) }}
		b.Crash = func(t *testing.T, b *storetest.LeaseBench) { b.Store = joinShared(t, cfg, opt) }
		b.Store = joinShared(t, cfg, opt)
		return b
	})
}

// TestJobsOfOthers: what another sidecar works on is not taken from it.
func TestJobsOfOthers(t *testing.T) {
	server := redistest.Start(t)
	cfg := RedisConfig{Addrs: []string{server.Addr}, Prefix: "jobs:"}
	one, other := joinShared(t, cfg, sharedOptions{Owner: "one"}), joinShared(t, cfg, sharedOptions{Owner: "other"})
	n := lease.Name{Tenant: "default", Key: "k"}
	if _, verdict, err := one.Acquire(t.Context(), n, lease.Claim{ID: "a", TTL: time.Minute, Job: &lease.Job{Run: "r"}}); err != nil || verdict != lease.Acquired {
		t.Fatal(verdict, err)
	}
	if len(one.Jobs()) != 1 || len(other.Jobs()) != 0 {
		t.Fatal(one.Jobs(), other.Jobs())
	}
}

// TestAnEndWhileTheServerIsAway: the word that work is done is kept, decides what this process says of the key, and
// reaches the server once it is back.
func TestAnEndWhileTheServerIsAway(t *testing.T) {
	server := redistest.Start(t)
	s := joinShared(t, RedisConfig{Addrs: []string{server.Addr}, Prefix: "end:"}, sharedOptions{Poll: 50 * time.Millisecond})
	n := lease.Name{Tenant: "default", Key: "k"}
	if _, _, err := s.Acquire(t.Context(), n, lease.Claim{ID: "a", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := s.Apply(t.Context(), n, lease.Step{Act: lease.Complete, ID: "a", Result: []byte(`{"x":1}`)}); !errors.Is(err, lease.ErrDeferred) {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), n, lease.Step{Act: lease.Fail, ID: "a"}); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, _, err := s.Lock(t.Context(), n, time.Minute); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
	server.Restart()
	until(t, "the end is written", func() bool {
		v, err := s.Look(t.Context(), n)
		return err == nil && v.Status == lease.Completed && string(v.Result) == `{"x":1}`
	})
}

// TestTheSwitchReachesOthers: by a hint at once, and by the poll where hints do not arrive.
func TestTheSwitchReachesOthers(t *testing.T) {
	server := redistest.Start(t)
	for _, how := range []string{"push", "poll"} {
		t.Run(how, func(t *testing.T) {
			opt := sharedOptions{Poll: 10 * time.Minute}
			cfg := RedisConfig{Addrs: []string{server.Addr}, Prefix: how + ":"}
			from := joinShared(t, cfg, opt)
			if how == "poll" {
				opt.Poll, opt.deaf = 50*time.Millisecond, true
			}
			to := joinShared(t, cfg, opt)
			if how == "push" {
				until(t, "both listen", func() bool { return listening(t, from, 2) })
			}
			told := make(chan bool, 10)
			to.OnSwitch(func(agent string, off bool) {
				if agent == "a" {
					told <- off
				}
			})
			for _, off := range []bool{true, false, true} {
				turn := from.Enable
				if off {
					turn = from.Disable
				}
				if _, err := turn(t.Context(), "a", "why", "ops"); err != nil {
					t.Fatal(err)
				}
				if got := <-told; got != off || isOff(to, "a") != off || isOff(from, "a") != off {
					t.Fatal(off, got)
				}
			}
			if sw, _ := to.Disabled("a"); sw.Reason != "why" || sw.Who != "ops" || sw.Since.IsZero() {
				t.Fatalf("%+v", sw)
			}
			if _, err := from.Disable(t.Context(), Everyone, "", "ops"); err != nil {
				t.Fatal(err)
			}
			until(t, "everyone is off", func() bool { return isOff(to, "b") })
			if len(from.changes) != 4 || from.changes[1].What != "agent_enabled" {
				t.Fatalf("%+v", from.changes)
			}
		})
	}
}

// listening says whether so many sidecars hear hints.
func listening(t *testing.T, s *sharing, n int64) bool {
	reply, err := s.c.do(t.Context(), "PUBSUB", "NUMSUB", s.hints())
	list, ok := reply.([]any)
	return err == nil && ok && len(list) == 2 && list[1] == n
}

// TestASwitchOutlivesItsServer: one thrown while the server is away binds here, and everywhere once it is back; what the
// server forgets is given back; what was let go stays so.
func TestASwitchOutlivesItsServer(t *testing.T) {
	server := redistest.Start(t)
	cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: "away:"}, sharedOptions{Poll: 50 * time.Millisecond}
	one, other := joinShared(t, cfg, opt), joinShared(t, cfg, opt)
	if _, err := one.Disable(t.Context(), "kept", "", "ops"); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := one.Disable(t.Context(), "a", "", "ops"); !errors.Is(err, dedup.ErrDeferred) || !isOff(one, "a") {
		t.Fatal(err)
	}
	if _, err := one.Enable(t.Context(), "kept", "", "ops"); !errors.Is(err, dedup.ErrUnavailable) || !isOff(one, "kept") {
		t.Fatal(err)
	}
	server.Restart()
	until(t, "the other one knows", func() bool { return isOff(other, "a") })
	server.Do("FLUSHALL")
	fresh := joinShared(t, cfg, opt)
	until(t, "it is given back", func() bool { return isOff(fresh, "a") && isOff(fresh, "kept") })
	if _, err := fresh.Enable(t.Context(), "a", "", "ops"); err != nil {
		t.Fatal(err)
	}
	until(t, "all let it go", func() bool { return !isOff(one, "a") && !isOff(other, "a") })
	for range 5 {
		if err := errors.Join(one.read(t.Context()), fresh.read(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if isOff(fresh, "a") || isOff(one, "a") {
		t.Fatal("it came back")
	}
}

// TestTheSwitchWorksInFullMemory: nobody can be kept from stopping an agent by filling the server.
func TestTheSwitchWorksInFullMemory(t *testing.T) {
	server := redistest.Start(t)
	s := joinShared(t, RedisConfig{Addrs: []string{server.Addr}, Prefix: "full:"}, sharedOptions{})
	n := lease.Name{Tenant: "default", Key: "k"}
	if _, _, err := s.Acquire(t.Context(), n, lease.Claim{ID: "a", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	server.Do("CONFIG", "SET", "maxmemory", "1")
	if _, err := s.Disable(t.Context(), "a", "", "ops"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), Entry{Kind: PolicyEntry, Name: "a", Value: []byte(`{}`)}, "ops"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), n, lease.Step{Act: lease.Complete, ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lock(t.Context(), n, time.Minute); !errors.Is(err, lease.ErrUnavailable) {
		t.Fatal(err)
	}
}

func shown(s *sharing) []string {
	var list []string
	for _, e := range s.Entries() {
		list = append(list, fmt.Sprintf("%s %s %s %s", e.Source, e.Kind, e.Name, e.Value))
	}
	return list
}

func filed(kind EntryKind, name, value string) Entry {
	return Entry{Kind: kind, Name: name, Value: []byte(value)}
}

// TestEntriesAreShared: a file's hold where nobody shared one of the name, changes of any sidecar hold on all, and of two
// changes of the same revision one is told that it came late.
func TestEntriesAreShared(t *testing.T) {
	server := redistest.Start(t)
	cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: "entries:"}, sharedOptions{Poll: 50 * time.Millisecond}
	one, other := joinShared(t, cfg, opt), joinShared(t, cfg, opt)
	told := make(chan struct{}, 100)
	other.OnEntries(func() { told <- struct{}{} })
	ctx := t.Context()
	if err := one.LoadFile(ctx, []Entry{filed(PolicyEntry, "a", `1`), filed(ToolEntry, "t", `1`)}); err != nil {
		t.Fatal(err)
	}
	<-told
	if err := other.LoadFile(ctx, []Entry{filed(PolicyEntry, "a", `2`), filed(PolicyEntry, "b", `2`)}); err != nil {
		t.Fatal(err)
	}
	want := []string{"file policy a 1", "file policy b 2", "file tool t 1"}
	until(t, "both have all", func() bool { return slices.Equal(shown(one), want) && slices.Equal(shown(other), want) })

	seen := one.Entries()[0].Revision
	put := func(s *sharing, value string, replaces *uint64) error {
		return s.Put(ctx, Entry{Kind: PolicyEntry, Name: "a", Value: []byte(value), Replaces: replaces}, "ops")
	}
	if err := put(other, `3`, &seen); err != nil {
		t.Fatal(err)
	}
	if err := put(one, `4`, &seen); !errors.Is(err, ErrMoved) {
		t.Fatal(err)
	}
	none := uint64(0)
	if err := put(one, `4`, &none); !errors.Is(err, ErrMoved) {
		t.Fatal(err)
	}
	want[0] = "api policy a 3"
	until(t, "the change is everywhere", func() bool { return slices.Equal(shown(one), want) && slices.Equal(shown(other), want) })
	if err := one.Delete(ctx, PolicyEntry, "b", "ops"); err != nil {
		t.Fatal(err)
	}
	if err := one.Delete(ctx, PolicyEntry, "nobody", "ops"); !errors.Is(err, ErrNoEntry) {
		t.Fatal(err)
	}
	until(t, "it is gone everywhere", func() bool { return len(other.Entries()) == 2 })
	fresh := joinShared(t, cfg, opt)
	if err := fresh.LoadFile(ctx, []Entry{filed(PolicyEntry, "a", `5`), filed(PolicyEntry, "b", `5`)}); err != nil {
		t.Fatal(err)
	}
	if got := shown(fresh); !slices.Equal(got, []string{want[0], want[2]}) {
		t.Fatal("a file overruled what somebody changed", got)
	}
	if err := fresh.Put(ctx, Entry{Kind: PolicyEntry, Name: "b", Value: []byte(`6`), Replaces: &none}, "ops"); err != nil {
		t.Fatal("what is gone is not there", err)
	}
}

// TestEntriesOutliveTheirServer: a server that lost its data, or came back with older ones, gets them from those who know.
func TestEntriesOutliveTheirServer(t *testing.T) {
	server := redistest.Start(t)
	cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: "lost:"}, sharedOptions{Poll: 50 * time.Millisecond}
	s := joinShared(t, cfg, opt)
	var refused atomic.Int64
	events := deaf()
	events.Refused = func() { refused.Add(1) }
	s.Notify(*events)
	ctx := t.Context()
	if err := s.Put(ctx, filed(PolicyEntry, "a", `1`), "ops"); err != nil {
		t.Fatal(err)
	}
	old := text(server.Do("HGET", s.c.key("entries"), "policy a"))
	if err := s.Put(ctx, filed(PolicyEntry, "a", `2`), "ops"); err != nil {
		t.Fatal(err)
	}
	for _, loss := range [][]string{{"FLUSHALL"}, {"HSET", s.c.key("entries"), "policy a", old}} {
		server.Do(loss...)
		server.Do("DEL", s.c.key("entries-revision"))
		fresh := joinShared(t, cfg, opt)
		fresh.Notify(*events)
		until(t, "it is given back", func() bool { return slices.Equal(shown(fresh), []string{"api policy a 2"}) })
	}
	if refused.Load() == 0 {
		t.Fatal("nobody heard of the older one")
	}
}

// TestADamagedEntryIsNotAbsent: nothing holds without it, so that no limit goes with it.
func TestADamagedEntryIsNotAbsent(t *testing.T) {
	server := redistest.Start(t)
	cfg, opt := RedisConfig{Addrs: []string{server.Addr}, Prefix: "damaged:"}, sharedOptions{Poll: 50 * time.Millisecond}
	s := joinShared(t, cfg, opt)
	server.Do("HSET", s.c.key("entries"), "policy a", "17 ab {\"v\":9}")
	fresh := joinShared(t, cfg, opt)
	if err := fresh.LoadFile(t.Context(), []Entry{filed(PolicyEntry, "a", `{}`)}); err != nil {
		t.Fatal(err)
	}
	if list := fresh.Entries(); len(list) != 1 || len(list[0].Value) > 0 {
		t.Fatalf("%+v", list)
	}
}

// TestOneSecret: a key is shown under one name by all sidecars, and by one of them after a restart.
func TestOneSecret(t *testing.T) {
	server := redistest.Start(t)
	cfg, dir := RedisConfig{Addrs: []string{server.Addr}, Prefix: "secret:"}, t.TempDir()
	one, other := joinShared(t, cfg, sharedOptions{}), joinShared(t, cfg, sharedOptions{Dir: dir})
	if one.Secret() != other.Secret() || one.Secret() == ([32]byte{}) {
		t.Fatal("two secrets")
	}
	if own, err := shownKey(shownKeyPath(dir)); err != nil || own != one.Secret() {
		t.Fatal("not kept", err)
	}
}

// TestTheAuditStream: records arrive, and while the server is away or slow they are dropped and counted, never waited for.
func TestTheAuditStream(t *testing.T) {
	server := redistest.Start(t)
	s := joinShared(t, RedisConfig{Addrs: []string{server.Addr}, Prefix: "audit:"}, sharedOptions{Owner: "me"})
	var dropped atomic.Int64
	events := deaf()
	events.Dropped = func(n int) { dropped.Add(int64(n)) }
	s.Notify(*events)
	length := func() any { return server.Do("XLEN", s.c.key("audit")) }
	for i := range 500 {
		s.Publish(fmt.Appendf(nil, `{"n":%d}`, i))
	}
	until(t, "all are there", func() bool { return length() == int64(500) })
	last, _ := server.Do("XREVRANGE", s.c.key("audit"), "+", "-", "COUNT", "1").([]any)
	if got := fmt.Sprint(last); len(last) != 1 || !strings.Contains(got, `sidecar me record {"n":499}`) {
		t.Fatal(got)
	}
	server.Pause()
	for range 2 * maxStreamWaiting {
		s.Publish([]byte(`{}`))
	}
	if dropped.Load() < maxStreamWaiting/2 {
		t.Fatal(dropped.Load())
	}
	server.Resume()
}

// TestTheAuditStreamIsToldOf: the log says once that records do not arrive, and once that they do again, with how many did
// not.
func TestTheAuditStreamIsToldOf(t *testing.T) {
	server := redistest.Start(t)
	relay := redistest.NewRelay(t, server.Addr)
	var log lines
	s := joinShared(t, RedisConfig{Addrs: []string{relay.Addr}, Prefix: "told:"}, sharedOptions{Owner: "me", Log: slog.New(slog.NewTextHandler(&log, nil))})
	s.Notify(*deaf())
	s.Publish([]byte(`{}`))
	until(t, "it is there", func() bool { return server.Do("XLEN", s.c.key("audit")) == int64(1) })
	relay.Blackhole()
	for n := range int64(3) {
		s.Publish([]byte(`{}`))
		until(t, "it is dropped", func() bool { return s.stream.dropped.Load() == n+1 })
	}
	relay.Open()
	until(t, "records arrive again, and that is said", func() bool {
		s.Publish([]byte(`{}`))
		time.Sleep(20 * time.Millisecond) // what a server that is back takes
		return strings.Contains(log.String(), "get into the stream in Redis again")
	})
	if got := log.String(); strings.Count(got, "do not get into the stream") != 1 || strings.Count(got, "Redis again") != 1 {
		t.Error(got)
	}
}

// TestLocksOnReplicas: a lock or lease that too few replicas have is not taken, and the next who asks gets it.
func TestLocksOnReplicas(t *testing.T) {
	server := redistest.Start(t)
	host, port := split(server.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	redistest.Eventually(t, "the replica follows", func() error {
		if replica.Info("master_link_status") != "up" {
			return errors.New("not yet")
		}
		return nil
	})
	s := joinShared(t, RedisConfig{Addrs: []string{server.Addr}, Prefix: "wait:", WaitReplicas: 1}, sharedOptions{Poll: 50 * time.Millisecond})
	n := lease.Name{Tenant: "default", Key: "k"}
	lock := func() (bool, error) {
		_, took, err := s.Lock(t.Context(), n, time.Hour)
		return took, err
	}
	acquire := func() (bool, error) {
		_, verdict, err := s.Acquire(t.Context(), n, lease.Claim{ID: "a", TTL: time.Hour})
		return verdict == lease.Acquired, err
	}
	replica.Pause()
	for _, take := range []func() (bool, error){lock, acquire} {
		if took, err := take(); !errors.Is(err, lease.ErrUnavailable) {
			t.Errorf("taken without a replica: %v, %v", took, err)
		}
	}
	replica.Resume()
	for _, take := range []func() (bool, error){lock, acquire} {
		until(t, "it was given back", func() bool {
			took, err := take()
			return took && err == nil
		})
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
