package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/activity"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// RedisOptions configure a store that several sidecars share. Options are those of the journal beside it.
type RedisOptions struct {
	Options
	Redis RedisConfig
	Owner string // of jobs: who goes on with them after a restart; empty: whoever opens this journal

	Ahead func() time.Duration // for tests: how far the store's clock is ahead of the server's; nil: not at all
}

// Redis is the store of many sidecars. Redis decides who may run; the journal beside it knows what this sidecar did.
// Both records stand before Begin returns. Its methods may be called from any goroutine.
type Redis struct {
	*shared // switch, policies, tools, locks and leases

	opt      RedisOptions
	local    *Embedded
	client   *redisClient
	instance string // names this process among the holders
	base     string // what every key begins with that the namespace shares
	ahead    func() time.Duration

	home    *redisShard // with `shard: namespace` the one that there is
	shards  redisShards
	own     *ownCalls
	answers *answers
	watches watches

	unlisted atomic.Int64    // when the namespace may last have lost which shards there are; since processStart, ns; 0: never
	uncopied map[string]bool // agents whose switch not every shard could be told; guarded by shared.mu
	double   atomic.Pointer[func()]
	doubt    chan struct{} // one token: own calls are to be asserted again
	appeared atomic.Bool   // the server has come, and knows of this process

	waiving    sync.Mutex // one claim that only this process knows of at a time
	waivedLast uint64     // the fence of the last one; guarded by waiving

	ctx  context.Context // ends with Close
	stop func()
	work sync.WaitGroup
}

var _ dedup.Store = (*Redis)(nil)

// A sidecar beats so often, and its calls are unknown when it has not for so long.
const (
	beatEvery = time.Second
	lapseTime = 10 * time.Second
)

// OpenRedis opens the journal beside the store and connects. Calls that this sidecar had running when its last process
// died are unknown when it returns.
func OpenRedis(ctx context.Context, opt RedisOptions) (*Redis, error) {
	opt.fill()
	local, err := OpenEmbedded(opt.Options)
	if err != nil {
		return nil, err
	}
	client, err := dialRedis(ctx, opt.Redis, opt.Log)
	if err != nil {
		return nil, errors.Join(err, local.Close(context.Background()))
	}
	r := &Redis{
		opt: opt, local: local, client: client, own: local.own, answers: newAnswers(opt.CacheBytes), base: client.key(""),
		home: &redisShard{tag: client.tag, base: client.key("")}, shards: redisShards{by: map[string]*redisShard{}},
		ahead: opt.Ahead, doubt: make(chan struct{}, 1), uncopied: map[string]bool{},
	}
	r.watches.at = map[grant]*watch{}
	r.own.apart = opt.Redis.apart()
	r.home.clock.offset.Store(clockStart.UnixMicro()) // until an answer says better
	if r.ahead == nil {
		r.ahead = func() time.Duration { return 0 }
	}
	var id [8]byte
	_, _ = rand.Read(id[:])
	r.instance = hex.EncodeToString(id[:])
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.own.inherit(local.j.Body)
	client.onEpoch(func(tag string, _, _ epoch) { r.metAnother(tag) })
	owner := cmp.Or(opt.Owner, local.Journal().Status().ID)
	r.shared, err = openShared(ctx, client, sharedOptions{Poll: opt.Redis.Poll, Dir: opt.Config.Dir, Owner: owner, Log: opt.Log, Change: local.Change, Shard: opt.Redis.Shard, Lost: r.lostAll, skew: opt.Ahead})
	if err == nil {
		r.home.life = &r.shared.life
		r.OnSwitch(func(string, bool) { r.answers.clear() })
		r.OnEntries(r.answers.clear)
		if r.joined {
			err = r.appear(ctx)
		}
		if unheard(err) { // it passed the checks and then fell silent: Await goes on
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store in Redis: %w", err), r.Close(context.Background()))
	}
	r.begins()
	return r, nil
}

// unheard says that there was no answer, which a later one may make good.
func unheard(err error) bool { return errors.Is(err, errLost) || errors.Is(err, errNotExecuted) }

// appear shows this process to the others, and says what the last one left. Until it has, nothing is claimed.
func (r *Redis) appear(ctx context.Context) error {
	if err := r.beat(ctx, r.home); err != nil {
		return err
	}
	if _, err := r.discover(ctx); err != nil {
		return err
	}
	r.inherit(ctx)
	r.appeared.Store(true)
	return nil
}

// Await waits in the background for a server that was away at the start, and calls f once what is shared is known, before
// the first claim. Without it none is ever made there. It does nothing when the server was there.
func (r *Redis) Await(f func()) {
	if !r.appeared.Load() {
		r.background(func() { r.awaits(f) })
	}
}

// awaits holds the first claims as after a failover: the others may be telling the server what they hold.
func (r *Redis) awaits(f func()) {
	select {
	case <-r.client.met:
	case <-r.ctx.Done():
		return
	}
	for said := ""; r.ctx.Err() == nil; pause(r.ctx, probeEvery) {
		err := r.meet(r.ctx)
		if err != nil {
			if said != err.Error() {
				said = err.Error()
				r.local.log.Warn("redis has come and cannot be used yet", "error", said)
			}
			continue
		}
		f()
		r.holdAll()
		if r.appear(r.ctx) == nil {
			return
		}
	}
}

// begins does what goes on beside the calls.
func (r *Redis) begins() {
	stop := r.client.subscribe(r.base+"ended", r.heardEnd)
	r.work.Go(func() {
		<-r.ctx.Done()
		stop()
	})
	r.work.Go(r.beats)
	r.work.Go(r.reasserts)
	r.work.Go(r.sweeps)
	if r.opt.Redis.apart() {
		r.work.Go(r.copies)
	}
}

// ask runs a script once in a shard and reads its verdict.
func (r *Redis) ask(ctx context.Context, in *redisShard, s *script, echo string, args ...any) (verdict, error) {
	return r.asked(in, echo, func(all []any) (any, error) { return r.client.run(ctx, s, []string{in.base + "fence"}, all...) }, args)
}

// askDurable is ask for what must stand on the replicas. With errReplicas there is a verdict.
func (r *Redis) askDurable(ctx context.Context, in *redisShard, s *script, echo string, args ...any) (verdict, error) {
	return r.asked(in, echo, func(all []any) (any, error) { return r.client.runDurable(ctx, s, []string{in.base + "fence"}, all...) }, args)
}

func (r *Redis) asked(in *redisShard, echo string, run func([]any) (any, error), args []any) (verdict, error) {
	sent := time.Now()
	reply, err := run(append([]any{in.base, r.ahead().Microseconds(), r.instance}, args...))
	if err != nil && !errors.Is(err, errReplicas) {
		return verdict{}, err
	}
	v, perr := parseVerdict(reply, echo)
	if perr != nil {
		return v, fmt.Errorf("%w: %w", errLost, errors.Join(perr, err))
	}
	if by := in.clock.learn(sent, &v); by != 0 {
		r.local.log.Warn("the clock of Redis was set: windows and budgets go by it; have NTP slew it, not step it", "by", by.String())
	}
	return v, err
}

// background runs f beside the calls, unless the store is closing.
func (r *Redis) background(f func()) {
	r.own.mu.Lock()
	defer r.own.mu.Unlock()
	if !r.own.closed {
		r.work.Go(f)
	}
}

func (r *Redis) beats() {
	for pause(r.ctx, beatEvery); r.ctx.Err() == nil; pause(r.ctx, beatEvery) {
		if !r.appeared.Load() {
			continue
		}
		if r.told() && r.own.pending() {
			r.reassert()
		}
		r.own.undoneLately() // forgets the others
	}
}

// beaten notes whether the server takes what is written. One that does not answer is the breaker's to tell.
func (r *Redis) beaten(s *redisShard, err error) {
	if _, answered := serverError(err); !answered {
		s.unbeaten.Store(nil)
		return
	}
	if s.unbeaten.Swap(&err) == nil {
		r.local.log.Error("Redis refuses what a claim needs", "error", err.Error())
	}
}

// refusing says why the server takes no writes.
func (s *redisShard) refusing() error {
	if err := s.unbeaten.Load(); err != nil {
		return fmt.Errorf("Redis refuses what a claim needs: %w", *err)
	}
	return nil
}

// told beats wherever this process is in use, and says whether anybody has heard it.
func (r *Redis) told() bool {
	heard := r.inUse()
	if r.opt.Redis.apart() {
		heard = append(heard, r.home)
	}
	var some atomic.Bool
	_ = each(heard, tellsAtOnce, func(s *redisShard) error {
		err := r.beat(r.ctx, s)
		if r.beaten(s, err); err == nil {
			some.Store(true)
		}
		return err
	})
	return some.Load()
}

// Close makes what is still running unknown, here and in Redis, and gives the directory up. When ctx ends first it
// returns its error and the rest happens in the background.
func (r *Redis) Close(ctx context.Context) error {
	r.own.close()
	r.abandon(ctx)
	r.stop()
	if r.shared != nil {
		r.shared.close()
	}
	err := r.client.close()
	r.work.Wait()
	return errors.Join(err, r.local.Close(ctx))
}

// abandon ends what is running.
func (r *Redis) abandon(ctx context.Context) {
	calls := r.own.running()
	var wait sync.WaitGroup
	limit := make(chan struct{}, 32)
	for _, c := range calls {
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			end := &dedup.End{Keys: c.record.keys, Agent: c.agent(), Fence: c.record.state.Fence, Nonce: c.nonce, Outcome: dedup.Unknown, Record: audit.Recover(c.intent, c.record.state.Fence)}
			if err := r.Finish(ctx, end); err != nil {
				r.local.log.Error("the outcome of a call that was running is not in Redis; its sidecar lapses there", "error", err)
			}
		})
	}
	wait.Wait()
}

// Record appends the audit record of a request that no claim carries. It does not wait for the disk.
func (r *Redis) Record(ctx context.Context, record []byte) error { return r.local.Record(ctx, record) }

// Append is Record, and waits until the record is durable if it is told to.
func (r *Redis) Append(record []byte, wait bool) error { return r.local.Append(record, wait) }

// Change appends a change that the sidecar itself tells of: see Embedded.Change.
func (r *Redis) Change(c *audit.Change) error { return r.local.Change(c) }

// Scarce says that the space that is left in the journal is for claims and outcomes.
func (r *Redis) Scarce() bool { return r.local.Scarce() }

// Journal is the journal beside Redis, for queries of the audit.
func (r *Redis) Journal() *journal.Journal { return r.local.Journal() }

// Book is what callers did.
func (r *Redis) Book() *activity.Book { return r.local.Book() }

// Created says that this process made the journal: nothing of an earlier one is known.
func (r *Redis) Created() bool { return r.local.Created() }

// OnDoubleExecution calls f for each possible double execution that is found after its call has ended. It is set
// before the first call.
func (r *Redis) OnDoubleExecution(f func()) { r.double.Store(&f) }

// Guarantee says in words what the store promises.
func (r *Redis) Guarantee() string { return r.client.judgement().Promise }

// Err says why the store takes no new claims; nil when it does.
func (r *Redis) Err() error {
	err := errors.Join(r.client.err(), r.present(), r.home.readable(), r.home.refusing())
	if err == nil {
		err = r.pressed()
	}
	for _, s := range r.inUse() {
		if err == nil {
			err = r.client.errOf(s.tag)
			if s.apart {
				err = errors.Join(err, s.readable(), s.refusing())
			}
		}
		if err == nil && s.unknown.Load() >= r.opt.Config.MaxUnknown {
			err = s.crowded()
		}
	}
	if err == nil {
		return r.local.Err()
	}
	return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
}

// present says that the server has come and the others do not know of this process yet.
func (r *Redis) present() error {
	if unlike := r.unlike.Load(); unlike != nil {
		return *unlike
	}
	if r.appeared.Load() || r.client.meeting() != nil {
		return nil
	}
	return errors.New("Redis has come, and what is shared there is being read")
}

// pressed says that Redis has no memory for new claims.
func (r *Redis) pressed() error {
	if m := r.client.judgement().Memory; m >= takeClaimsBelow {
		return fmt.Errorf("Redis uses %.0f%% of its maxmemory; give it more, or shorten dedup.ttl of the busiest tools", 100*m)
	}
	return nil
}

func (s *redisShard) crowded() error {
	whose := ""
	if s.apart {
		whose = " of agent " + s.agent
	}
	return fmt.Errorf("%d outcomes%s are unknown, as many as store.embedded.max_unknown allows; resolve some with `oo-sidecar unknown ls` and `unknown resolve`", s.unknown.Load(), whose)
}
