package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// redisShard is what stands in one hash slot: the calls of a namespace, or with `shard: agent` those of one agent, which
// another master of a cluster may serve. Nothing reaches over two: a claim, its charges, its fence and the copy of the
// switch that stops it are of one shard.
type redisShard struct {
	agent string // whose; empty with `shard: namespace`
	tag   string
	base  string // what every key begins with
	apart bool   // it has a slot of its own, beside that of what the namespace shares

	clock serverClock
	life  *atomic.Pointer[string] // names what the server holds there, from its beginning on: another one has forgotten

	epochs   atomic.Int64 // how often another server, or another life of it, was met
	asserted atomic.Int64 // the same, as of the last time that all own calls were asserted
	heldTill atomic.Int64 // new mutating claims wait until then; since processStart, which no clock that is set changes, ns
	unknown  atomic.Int64 // as of the last beat
	open     atomic.Int64 // the same, running ones included
	used     atomic.Int64 // when a claim last came; since processStart, ns; 0: never

	unbeaten atomic.Pointer[error]  // what the server answered to the last beat, which writes as a claim does; nil: it took it
	damage   atomic.Pointer[string] // the key that cannot be read; nil or empty: none

	joining sync.Mutex  // one caller at a time
	joined  atomic.Bool // this process is known there, and it in the namespace; always, of the namespace's own
	listed  atomic.Bool // the namespace knows of it
}

// What nobody claimed in for idleAfter is joined anew by the next claim.
const idleAfter = time.Minute

// redisShards are those that this process knows of.
type redisShards struct {
	mu   sync.Mutex
	by   map[string]*redisShard // with `shard: agent`, by agent; guarded by mu
	held int64                  // until when all are, as heldTill; guarded by mu
}

// apart stands between the namespace and the agent in a tag. No prefix may hold it, and no escaped agent does.
const apart = "|"

// shardOf is where an agent's calls stand.
func (r *Redis) shardOf(agent string) *redisShard {
	if !r.opt.Redis.apart() {
		return r.home
	}
	r.shards.mu.Lock()
	defer r.shards.mu.Unlock()
	s := r.shards.by[agent]
	if s == nil {
		tag := r.client.tag + apart + url.QueryEscape(agent)
		s = &redisShard{agent: agent, tag: tag, base: r.client.base(tag), apart: true, life: &atomic.Pointer[string]{}}
		s.life.Store(new(string))
		s.clock.offset.Store(clockStart.UnixMicro())
		s.heldTill.Store(r.shards.held)
		r.shards.by[agent] = s
	}
	return s
}

// tagged is the shard of a hash tag; nil when no calls stand under it.
func (r *Redis) tagged(tag string) *redisShard {
	switch name, ok := strings.CutPrefix(tag, r.client.tag+apart); {
	case tag == r.client.tag:
		return r.home
	case ok:
		if agent, err := url.QueryUnescape(name); err == nil {
			return r.shardOf(agent)
		}
	}
	return nil
}

// allShards are all that hold calls, as far as this process knows.
func (r *Redis) allShards() []*redisShard {
	if !r.opt.Redis.apart() {
		return []*redisShard{r.home}
	}
	r.shards.mu.Lock()
	defer r.shards.mu.Unlock()
	all := make([]*redisShard, 0, len(r.shards.by))
	for _, s := range r.shards.by {
		all = append(all, s)
	}
	return all
}

// So many shards are looked at, or told something, at the same time. Those of a master that is away wait for their timeouts,
// and neither signs of life nor the switch may wait for thousands of them elsewhere.
const (
	looksAtOnce = 64
	tellsAtOnce = 1024
)

// each does something in shards, some at a time, and returns the errors.
func each(shards []*redisShard, most int, f func(*redisShard) error) error {
	if len(shards) == 1 {
		return f(shards[0])
	}
	errs := make([]error, len(shards))
	var wait sync.WaitGroup
	limit := make(chan struct{}, most)
	for i, s := range shards {
		limit <- struct{}{}
		wait.Go(func() {
			errs[i] = f(s)
			<-limit
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// now is the time there, as far as it is known without asking.
func (r *Redis) nowIn(s *redisShard) time.Time {
	return instant(s.clock.now() + r.ahead().Microseconds())
}

// The namespace's list of shards: by name, "LIFE SINCE", since when, by the namespace's clock in µs, a shard holds what it
// holds; 0: from its beginning. ARGV: name, life that is offered, life that it replaces or nothing, the namespace's own
// life, agent. The answer: a word, the life, since, the time, and what the switches of the agent and of everyone are and
// were. Joining and reading the switches is one step: whoever turns one sees the shard, or the shard sees the switch.
var joinScript = newScript("join", `#!lua flags=allow-oom
local damaged
local function read(command, key, ...)
  local v = redis.pcall(command, key, ...)
  if type(v) ~= 'table' or not v.err then return v end
  if not string.find(v.err, 'WRONGTYPE', 1, true) then error(v) end
  damaged = key
  return {}
end
if redis.pcall('GET', KEYS[2]) ~= ARGV[4] then return {'lost'} end
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local life, since
local stands = read('HGET', KEYS[1], ARGV[1])
local off = read('HMGET', KEYS[3], ARGV[5], '*')
local on = read('HMGET', KEYS[4], ARGV[5], '*')
if damaged then return {'damaged', damaged} end
if stands then life, since = string.match(stands, '^(%S+) (%d+)$') end
if not life or life == ARGV[3] then
  life, since = ARGV[2], life and now or '0'
  redis.call('HSET', KEYS[1], ARGV[1], life .. ' ' .. since)
end
return {'joined', life, since, now, off[1] or '', on[1] or '0', off[2] or '', on[2] or '0'}`)

// membership is what the namespace says of a shard.
type membership struct {
	life  string
	since time.Duration // how long it has held what it holds; very long: from its beginning
	turns []any         // the switches, as the script of beats takes them
}

// enlist has the namespace know of a shard. replaces: the life of it that nothing is left of.
func (r *Redis) enlist(ctx context.Context, s *redisShard, offered, replaces string) (m membership, err error) {
	keys := []string{r.client.key("shards"), r.client.key("life"), r.client.key("switch"), r.client.key("switch-on")}
	for range 4 {
		name := r.shared.life.Load()
		reply, err := r.shared.ask(ctx, joinScript, keys, url.QueryEscape(s.agent), offered, replaces, *name, s.agent)
		if err != nil {
			return m, err
		}
		parts, _ := reply.([]any)
		if len(parts) == 1 {
			if err := r.readAfter(ctx, name); err != nil {
				return m, err
			}
			continue
		}
		if len(parts) == 2 {
			return m, damagedKey(text(parts[1]))
		}
		if len(parts) != 8 || text(parts[1]) == "" {
			return m, errReply
		}
		m.life, m.since = text(parts[1]), 1<<62
		if since := integer(parts[2]); since > 0 {
			m.since = time.Duration(integer(parts[3])-since) * time.Microsecond
		}
		m.turns = []any{s.agent, text(parts[4]), text(parts[5]), Everyone, text(parts[6]), text(parts[7])}
		s.listed.Store(true)
		return m, nil
	}
	return m, fmt.Errorf("%w: the namespace in Redis is being emptied again and again", errNotExecuted)
}

// join has this process be known in a shard before it claims there: the others see it live, the shard has its agent's
// switch, and what the shard has forgotten since is noticed.
func (r *Redis) join(ctx context.Context, s *redisShard) error {
	if !s.apart {
		return nil
	}
	if s.used.Store(int64(time.Since(processStart))); s.joined.Load() {
		return nil
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	if s.joined.Load() {
		return nil
	}
	offered, replaces := nonceText(), ""
	for tries := 1; tries <= 12; tries++ {
		m, err := r.enlist(ctx, s, offered, replaces)
		if err != nil {
			return err
		}
		name := ""
		if m.life == offered {
			name = offered
		}
		v, err := r.beatWith(ctx, s, name, m.turns)
		if err != nil {
			return err
		}
		stands := v.text(3)
		switch known := *s.life.Load(); {
		case stands == m.life:
			s.life.Store(&stands)
			if known != "" && known != stands {
				r.forgot(s)
			} else if left := r.opt.Redis.holds() - m.since; left > 0 {
				r.holdClaims(s, left)
			}
			s.joined.Store(true)
			return nil
		case stands == "" && tries <= 4: // somebody else may be about to name it
			pause(ctx, 20*time.Millisecond)
			continue
		case stands == "": // what was there is gone
			offered = nonceText()
		default: // others have noticed, and the namespace has not heard of it
			offered = stands
		}
		replaces = m.life // listed anew it is held, here and by whoever joins it next
	}
	return fmt.Errorf("%w: the keys %s in Redis are being emptied again and again", errNotExecuted, s.base)
}

// forgot is failedOver for a shard that has forgotten what it held.
func (r *Redis) forgot(s *redisShard) {
	r.local.log.Error("Redis has forgotten what it held; new calls with effects wait while every sidecar says again what it holds", "keys", s.base)
	r.failedOver(s)
}

// beatWith says that this sidecar lives there. life, if any, is the shard's name where it has none; turns are switches.
func (r *Redis) beatWith(ctx context.Context, s *redisShard, life string, turns []any) (verdict, error) {
	v, err := r.ask(ctx, s, beatScript, r.instance, append([]any{lapseTime.Milliseconds(), life}, turns...)...)
	if err != nil {
		return v, err
	}
	s.unknown.Store(integer(v.at(0)))
	s.open.Store(integer(v.at(1)))
	r.damaged(s, v.text(2))
	return v, nil
}

// beat is beatWith as it is done every second. A shard of its own gets the switches that are known here, and one that
// has forgotten what it held is joined anew.
func (r *Redis) beat(ctx context.Context, s *redisShard) error {
	if !s.apart {
		v, err := r.beatWith(ctx, s, "", nil)
		if err == nil && r.opt.Redis.apart() && v.text(3) != *r.shared.life.Load() { // its shards are to be listed again
			r.shared.hint()
		}
		return err
	}
	turns := append(r.turn(s.agent), r.turn(Everyone)...)
	if !s.joined.Load() {
		err := r.join(ctx, s)
		if err != nil { // the namespace is away: what runs here is seen to live all the same
			_, _ = r.beatWith(ctx, s, "", turns)
		}
		return err
	}
	v, err := r.beatWith(ctx, s, "", turns)
	if err == nil && v.text(3) != *s.life.Load() {
		s.joined.Store(false)
		return r.join(ctx, s)
	}
	return err
}

// inUse are the shards in which somebody claims or something of this process is open. The others are left.
func (r *Redis) inUse() []*redisShard {
	if !r.opt.Redis.apart() {
		return []*redisShard{r.home}
	}
	open, now := r.own.agents(), time.Since(processStart)
	var used []*redisShard
	for _, s := range r.allShards() {
		switch {
		case open[s.agent] || s.joined.Load() && now-time.Duration(s.used.Load()) < idleAfter:
			used = append(used, s)
		default:
			s.joined.Store(false)
		}
	}
	return used
}

// discover reads of which shards the namespace knows.
func (r *Redis) discover(ctx context.Context) ([]*redisShard, error) {
	if !r.opt.Redis.apart() {
		return []*redisShard{r.home}, nil
	}
	reply, err := r.client.do(ctx, "HGETALL", r.client.key("shards"))
	if text, answered := serverError(err); answered && strings.HasPrefix(text, "WRONGTYPE") {
		err = damagedKey(r.client.key("shards"))
	}
	if err != nil {
		return r.allShards(), err
	}
	for name := range pairs(reply) {
		if agent, err := url.QueryUnescape(name); err == nil {
			r.shardOf(agent).listed.Store(true)
		}
	}
	return r.allShards(), nil
}

// listsAll says whether each shard in which somebody claims is among those that were just discovered. Where the namespace
// has lost its list that is so once every sidecar that lives must have noticed with a beat, and listed its own again.
func (r *Redis) listsAll(ctx context.Context) error {
	known := r.shared.life.Load()
	life, err := r.client.do(ctx, "GET", r.client.key("life"))
	if err == nil && text(life) != *known {
		err = r.readAfter(ctx, known)
	}
	if at := time.Duration(r.unlisted.Load()); err == nil && at != 0 && time.Since(processStart)-at < lapseTime {
		err = errors.New("Redis has just come back or forgotten what it held, and not every sidecar has said again whose calls it runs")
	}
	return err
}

// turn is what is known here of a switch, as the script of beats takes it.
func (s *shared) turn(agent string) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	off := ""
	if t, ok := s.off[agent]; ok {
		off = t.text()
	}
	return []any{agent, off, strconv.FormatUint(s.on[agent], 10)}
}

// Disable stops an agent, or Everyone: see shared.Disable. It returns once the claims of every sidecar see it.
func (r *Redis) Disable(ctx context.Context, agent, reason, who string) (Switch, error) {
	sw, err := r.shared.Disable(ctx, agent, reason, who)
	if copied := r.copySwitch(ctx, agent); copied != nil && err == nil {
		err = fmt.Errorf("%w: not all claims in Redis see it yet: %w", dedup.ErrDeferred, copied)
	}
	return sw, err
}

// Enable lets an agent go on: see shared.Enable.
func (r *Redis) Enable(ctx context.Context, agent, reason, who string) (Switch, error) {
	sw, err := r.shared.Enable(ctx, agent, reason, who)
	if err == nil {
		if copied := r.copySwitch(ctx, agent); copied != nil {
			r.local.log.Warn("an agent that was let go is still refused where Redis could not be told; it is told again", "agent", agent, "error", copied.Error())
		}
	}
	return sw, err
}

// copySwitch brings a switch to where claims look at it. What is not there yet is brought with a later beat.
func (r *Redis) copySwitch(ctx context.Context, agent string) error {
	if !r.opt.Redis.apart() {
		return nil
	}
	where, err := []*redisShard{nil}, error(nil)
	if agent == Everyone {
		where, err = r.discover(ctx)
		err = errors.Join(err, r.listsAll(ctx))
	} else {
		where[0] = r.shardOf(agent)
	}
	turn := r.turn(agent)
	if len(where) > 0 {
		err = errors.Join(err, each(where, tellsAtOnce, func(s *redisShard) error {
			_, err := r.beatWith(ctx, s, "", turn)
			return err
		}))
	}
	r.shared.mu.Lock()
	defer r.shared.mu.Unlock()
	if delete(r.uncopied, agent); err != nil {
		r.uncopied[agent] = true
	}
	return err
}

// copies brings the switches that could not be brought.
func (r *Redis) copies() {
	for pause(r.ctx, beatEvery); r.ctx.Err() == nil; pause(r.ctx, beatEvery) {
		r.shared.mu.Lock()
		agents := slices.Collect(maps.Keys(r.uncopied))
		r.shared.mu.Unlock()
		for _, agent := range agents {
			_ = r.copySwitch(r.ctx, agent) // the next round tries again
		}
	}
}
