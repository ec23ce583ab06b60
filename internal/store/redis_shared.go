package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// shared is what the sidecars of a namespace share beside the calls: the kill switch, policies and tools, locks and
// leases, and the secret under which keys are shown. What is read every poll is the truth; a hint by pub/sub only has
// it read at once. Its methods may be called from any goroutine.
type shared struct {
	c   *redisClient
	opt sharedOptions

	switches atomic.Pointer[map[string]Switch]
	offset   atomic.Int64             // of the server's clock against this machine's, ns
	heard    atomic.Int64             // when the switch was last read, ns of this process's monotonic clock; 0: never
	secret   atomic.Pointer[[32]byte] // that of the namespace once agreed, this sidecar's own before; never nil
	joined   bool                     // openShared has read all of it; else Await does; set before begin
	agreed   bool                     // by openShared or, later, by whoever reads
	unlike   atomic.Pointer[error]    // that the namespace's calls are sharded otherwise than here; nil: they are not
	kept     *keptView
	keeping  sync.Mutex // one writer of kept at a time; taken before mu

	life     atomic.Pointer[string] // names what the server holds, from its beginning on: another one has forgotten
	noticing sync.Mutex             // one caller at a time finds out; taken before reading
	onLost   func()                 // called when it is another one; set before begin

	look chan struct{} // a hint came
	stop context.CancelFunc
	done chan struct{} // closed when nothing follows the server any more

	reading sync.Mutex // one look at the server at a time; taken before mu
	mu      sync.Mutex
	off     map[string]thrown      // agents that are off; guarded by mu
	on      map[string]uint64      // the revision at which an agent was let go; guarded by mu
	entries sharedEntries          // guarded by mu
	told    watchers               // guarded by mu
	pending map[leaseID]pendingEnd // ends that the server did not take; guarded by mu

	events atomic.Pointer[SharedEvents]
	stream auditStream
}

// SharedEvents are told what a sidecar measures of what is shared. None may wait.
type SharedEvents struct {
	Read    func()              // kill switch, policies and tools were read
	Failed  func(error)         // or could not be
	Arrived func(time.Duration) // a switch that another sidecar changed so long ago binds here now
	Refused func()              // the server offered an older entry than the one that holds
	Dropped func(records int)   // audit records did not get into the server's stream
}

// Notify has events told from now on. All must be set.
func (s *shared) Notify(events SharedEvents) { s.events.Store(&events) }

func deaf() *SharedEvents {
	return &SharedEvents{func() {}, func(error) {}, func(time.Duration) {}, func() {}, func(int) {}}
}

// sharedOptions configure what is shared.
type sharedOptions struct {
	Poll   time.Duration             // how often the truth is read
	Dir    string                    // of this sidecar's own journal
	Owner  string                    // of jobs: who goes on with them after a restart
	Shard  string                    // how this sidecar shards calls; empty: by namespace
	Log    *slog.Logger              // never nil
	Change func(*audit.Change) error // records an operator's change in this sidecar's own journal

	Lost func() // called when the server has forgotten what it held; nil: nothing

	// For tests.
	skew func() time.Duration // what the server's clock is ahead; nil: nothing
	deaf bool                 // no hint arrives
}

// maxRevision is the largest revision that a script can compare exactly.
const maxRevision = 1 << 53

// Everything that one poll reads. Entries are read only when something changed. The answer: time, secret, switches that
// are off, those that were let go, revision of the entries, the name of its life, the keys of all that cannot be read, how
// calls are sharded, and the entries or nothing.
var pollScript = newScript("poll", `#!lua flags=no-writes
local time, unread = redis.call('TIME'), {}
local function read(command, key, default, gives_way)
  local v = redis.pcall(command, key)
  if type(v) ~= 'table' or not v.err then return v or default end
  if not string.find(v.err, 'WRONGTYPE', 1, true) then error(v) end
  if not gives_way then unread[#unread + 1] = key end
  return default
end
local revision = read('GET', KEYS[4], '', true)
local reply = {time[1] .. string.format('%06d', time[2]), read('GET', KEYS[5], ''), read('HGETALL', KEYS[1], {}), read('HGETALL', KEYS[2], {}), revision, read('GET', KEYS[6], '', true), unread, read('GET', KEYS[7], '')}
if revision ~= ARGV[1] or revision == '' then reply[9] = read('HGETALL', KEYS[3], {}) end
return reply`)

// Naming a life, and saying how its calls are sharded. The first that is offered holds, and the others are told to look.
// What is no name gives way. Where nobody said how, versions that knew one way only have begun.
var lifeScript = newScript("life", `#!lua flags=allow-oom
local stands = redis.pcall('GET', KEYS[1])
if type(stands) == 'string' and stands ~= '' then
  redis.call('SET', KEYS[2], 'namespace', 'NX')
  return {stands, redis.call('GET', KEYS[2])}
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[3], 'NX')
redis.pcall('PUBLISH', ARGV[2], 'life')
return {ARGV[1], redis.call('GET', KEYS[2])}`)

// The first secret that is offered holds.
var secretScript = newScript("secret", `#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])`)

// openShared agrees with the server on the secret, reads what is shared, and follows it from then on. While no server has
// come it goes by what was last known, until begin is called.
func openShared(ctx context.Context, c *redisClient, opt sharedOptions) (*shared, error) {
	if opt.Poll <= 0 {
		opt.Poll = time.Second
	}
	if opt.skew == nil {
		opt.skew = func() time.Duration { return 0 }
	}
	s := &shared{
		c: c, opt: opt, look: make(chan struct{}, 1), done: make(chan struct{}),
		off: map[string]thrown{}, on: map[string]uint64{}, entries: newSharedEntries(), pending: map[leaseID]pendingEnd{},
	}
	s.switches.Store(&map[string]Switch{})
	s.life.Store(new(string))
	if s.onLost = opt.Lost; s.onLost == nil {
		s.onLost = func() {}
	}
	s.events.Store(deaf())
	s.stream.records = make(chan []byte, maxStreamWaiting)
	s.kept = newKeptView(opt.Dir)
	own, err := shownKey(shownKeyPath(opt.Dir))
	if s.secret.Store(&own); err == nil {
		err = s.recall()
	}
	if err == nil && c.meeting() == nil {
		err = s.meet(ctx)
		s.joined = err == nil
	}
	if err == nil && !s.joined || unheard(err) {
		err = s.recallEntries()
	}
	if err != nil {
		return nil, err
	}
	s.begin()
	return s, nil
}

// meet reads what is shared for the first time.
func (s *shared) meet(ctx context.Context) error {
	s.reading.Lock()
	err := s.agree(ctx)
	s.reading.Unlock()
	if err == nil {
		err = s.read(ctx)
	}
	if err != nil {
		return fmt.Errorf("read the kill switch, policies and tools: %w", err)
	}
	return nil
}

// begin follows the server from now on, and streams the audit there.
func (s *shared) begin() {
	following, stop := context.WithCancel(context.Background())
	s.stop = stop
	unsubscribe := func() {}
	if !s.opt.deaf {
		unsubscribe = s.c.subscribe(s.hints(), func(string) { s.hint() })
	}
	var work sync.WaitGroup
	work.Go(func() {
		defer unsubscribe()
		s.follow(following)
	})
	work.Go(func() { s.keepStreaming(following) })
	go func() {
		work.Wait()
		close(s.done)
	}()
}

// close follows the server no more.
func (s *shared) close() {
	s.stop()
	<-s.done
}

// hints is the channel on which sidecars tell each other that something changed.
func (s *shared) hints() string { return s.c.key("hints") }

// hint has the server read at once.
func (s *shared) hint() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// follow reads the truth on each hint and every poll until ctx ends.
func (s *shared) follow(ctx context.Context) {
	tick := time.NewTicker(s.opt.Poll)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.look:
		case <-tick.C:
		}
		err := s.read(ctx)
		if err != nil && ctx.Err() == nil {
			s.events.Load().Failed(err)
		}
		if failing != (err != nil) && ctx.Err() == nil {
			if failing = err != nil; failing {
				s.opt.Log.Warn("the kill switch, policies and tools cannot be read; those that were read last hold", "error", err.Error())
			} else {
				s.opt.Log.Info("the kill switch, policies and tools are read again")
			}
		}
	}
}

// read takes in the truth, and gives back to the server what it has lost.
func (s *shared) read(ctx context.Context) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.mu.Lock()
	known := s.entries.revision
	s.mu.Unlock()
	asked := time.Now()
	reply, err := s.c.run(ctx, pollScript, []string{s.c.key("switch"), s.c.key("switch-on"), s.c.key("entries"), s.c.key("entries-revision"), s.c.key("secret"), s.c.key("life"), s.c.key("shard")}, known)
	if err != nil {
		return err
	}
	parts, ok := reply.([]any)
	if !ok || len(parts) < 8 {
		return fmt.Errorf("the poll script answered %T", reply)
	}
	micros, err := strconv.ParseInt(text(parts[0]), 10, 64)
	if err != nil {
		return fmt.Errorf("the server's time: %w", err)
	}
	s.offset.Store(micros*1000 - asked.Add(time.Since(asked)/2).UnixNano())
	unread := s.unread(parts[6])
	if len(parts) > 8 && unread["entries"] == nil {
		s.takeEntries(text(parts[4]), pairs(parts[8]))
	}
	if err := unread["shard"]; err != nil {
		return err
	}
	if err := s.takeLife(ctx, text(parts[5]), text(parts[7])); err != nil {
		return err
	}
	if unread["switch"] == nil && unread["switch-on"] == nil {
		s.takeSwitches(pairs(parts[2]), pairs(parts[3]))
		s.heard.Store(int64(asked.Sub(processStart)) + 1)
	}
	if len(unread) > 0 { // nothing is given back to what holds something else
		return errors.Join(slices.Collect(maps.Values(unread))...)
	}
	s.events.Load().Read()
	s.keep()
	s.giveBack(ctx, text(parts[1]) == "" || !s.agreed)
	return nil
}

// unread is what is wrong with the keys that the server names, each by its last word.
func (s *shared) unread(names any) map[string]error {
	list, _ := names.([]any)
	wrong := map[string]error{}
	for _, name := range list {
		word, _ := strings.CutPrefix(text(name), s.c.key(""))
		wrong[word] = damagedKey(text(name))
	}
	return wrong
}

// readAfter reads, unless the name of the server's life is another one already.
func (s *shared) readAfter(ctx context.Context, known *string) error {
	s.noticing.Lock()
	defer s.noticing.Unlock()
	if s.life.Load() != known {
		return nil
	}
	return s.read(ctx)
}

// takeLife notices that the server has forgotten everything in between, as after FLUSHALL. A server without a name gets one.
// What is claimed where other sidecars do not look would run twice: calls must be sharded alike.
func (s *shared) takeLife(ctx context.Context, life, sharded string) error {
	own := cmp.Or(s.opt.Shard, "namespace")
	if life == "" || sharded == "" {
		if unlike := s.unlike.Load(); unlike != nil { // those whose calls run say so first, and how they are sharded
			return *unlike
		}
		reply, err := s.ask(ctx, lifeScript, []string{s.c.key("life"), s.c.key("shard")}, nonceText(), s.hints(), own)
		parts, _ := reply.([]any)
		if err != nil || len(parts) != 2 || text(parts[0]) == "" {
			return errors.Join(err, errReply)
		}
		life, sharded = text(parts[0]), text(parts[1])
	}
	if sharded != own {
		err := fmt.Errorf("store.redis.shard is %s here, and the calls under %s are sharded by %s, as the first sidecar there said: write shard: %s, or another store.redis.prefix, which shares nothing with this one", own, s.c.key(""), sharded, sharded)
		s.unlike.Store(&err)
		return err
	}
	s.unlike.Store(nil)
	if old := s.life.Swap(&life); *old != "" && *old != life {
		s.opt.Log.Error("Redis has forgotten what it held; new calls with effects wait while every sidecar says again what it holds")
		s.onLost()
	}
	return nil
}

// giveBack asserts what this process knows and the server does not: what a failover or a flush lost.
func (s *shared) giveBack(ctx context.Context, secret bool) {
	if secret {
		if err := s.agree(ctx); err != nil {
			s.opt.Log.Warn("the secret under which keys are shown cannot be given back to the store", "error", err.Error())
		}
	}
	s.assertSwitches(ctx)
	s.assertEntries(ctx)
	s.finishPending(ctx)
}

// processStart is what durations of the monotonic clock count from.
var processStart = time.Now()

// sinceSwitchHeard is how old the known kill switch is; very old when it was never read.
func (s *shared) sinceSwitchHeard() time.Duration {
	at := s.heard.Load()
	if at == 0 {
		return 1<<63 - 1
	}
	return time.Since(processStart) - time.Duration(at)
}

// now is about the server's time.
func (s *shared) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// revisionNow is a revision for what is changed here and now, while the server cannot be asked.
func (s *shared) revisionNow() uint64 { return uint64(s.now().UnixMicro()) }

// agree takes the secret that all sidecars of the namespace share, or shares this one's own. Call it with reading held.
func (s *shared) agree(ctx context.Context) error {
	own := s.Secret()
	reply, err := s.ask(ctx, secretScript, []string{s.c.key("secret")}, hex.EncodeToString(own[:]))
	if err != nil {
		return fmt.Errorf("agree on the secret under which keys are shown: %w", err)
	}
	p, err := hex.DecodeString(text(reply))
	if err != nil || len(p) != len(own) {
		return fmt.Errorf("%s in the store is damaged: it must be 64 hex digits; remove it and keys will be shown under new names", s.c.key("secret"))
	}
	if !s.agreed {
		s.agreed = true
		s.secret.Store((*[32]byte)(p))
	}
	if string(p) != string(own[:]) {
		return whole.Replace(shownKeyPath(s.opt.Dir), []byte(hex.EncodeToString(p)+"\n"))
	}
	return nil
}

// Secret is the secret under which all sidecars of the namespace show keys; this one's own until the server has come.
func (s *shared) Secret() [32]byte { return *s.secret.Load() }

// record writes an operator's change to this sidecar's own journal. The change holds whether or not that succeeds.
func (s *shared) record(c *audit.Change) {
	if err := s.opt.Change(c); err != nil {
		s.opt.Log.Error("an operator's change holds, and is not in the journal", "what", c.What, "entity", c.Entity, "who", c.Who, "error", err.Error())
	}
}
