package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

var _ lease.Store = (*shared)(nil)

// Taking a lock. ARGV: ttl and skew in µs. The answer: 1 when it was taken, and its two ends in µs. A caller whose reply
// was lost asks again with its nonce.
var lockScript = newScript("lock", `#!lua
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] + ARGV[2]
local stands = redis.call('GET', KEYS[1])
if stands then
  local first, expires, nonce = string.match(stands, '^(%d+) (%d+) (%x+)$')
  if not first then return redis.error_reply('DAMAGED a lock cannot be read') end
  if nonce == ARGV[3] then return {1, first, expires} end
  if now < tonumber(expires) then return {0, first, expires} end
end
local first, expires = string.format('%.0f', now), string.format('%.0f', now + ARGV[1])
redis.call('SET', KEYS[1], first .. ' ' .. expires .. ' ' .. ARGV[3], 'PX', math.max(1, math.ceil(ARGV[1] / 1000)))
return {1, first, expires}`)

// Giving a lock back of which nobody knows whether it was taken, or that too few replicas have.
var unlockScript = newScript("unlock", `#!lua flags=allow-oom
local stands = redis.call('GET', KEYS[1])
if stands and string.match(stands, ' (%x+)$') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`)

// Reading a lease: the server's time in µs and what it has.
var leaseReadScript = newScript("lease-read", `#!lua flags=no-writes
local time = redis.call('TIME')
return {time[1] .. string.format('%06d', time[2]), redis.call('GET', KEYS[1]) or ''}`)

// leaseWrite replaces a lease if it is still the one that was read, and the step's time has not passed. ARGV: old, new, ms to
// keep it, server time in µs after which it is too late, jobs: add, drop or nothing, field, owner. The answer: 1 when the new one
// stands, else 0; and time and what stands.
const leaseWrite = `
local time = redis.call('TIME')
local micros = time[1] .. string.format('%06d', time[2])
local stands = redis.call('GET', KEYS[1]) or ''
if stands ~= ARGV[2] then
  if stands ~= ARGV[1] or tonumber(micros) > tonumber(ARGV[4]) then return {0, micros, stands} end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
if ARGV[5] == 'add' then redis.pcall('HSET', KEYS[2], ARGV[6], ARGV[7])
elseif ARGV[5] == 'drop' then redis.pcall('HDEL', KEYS[2], ARGV[6]) end
return {1, micros, ARGV[2]}`

// An end is written also where the server's memory is full.
var (
	leaseWriteScript = newScript("lease-write", "#!lua"+leaseWrite)
	leaseEndScript   = newScript("lease-end", "#!lua flags=allow-oom"+leaseWrite)
)

// leaseLag is how long after it was decided a step may be written.
const leaseLag = 2 * time.Second

func (id leaseID) String() string { return hex.EncodeToString(id[:]) }

// Lock takes the lock of n: see lease.Store.
func (s *shared) Lock(ctx context.Context, n lease.Name, ttl time.Duration) (lease.Lock, bool, error) {
	if ctx.Err() != nil {
		return lease.Lock{}, false, unavailable(ctx.Err())
	}
	key, nonce := s.c.key("lock", leaseIDOf(n).String()), nonceText()
	reply, err := s.askDurable(context.WithoutCancel(ctx), lockScript, []string{key}, ttl.Microseconds(), s.opt.skew().Microseconds(), nonce)
	if err != nil {
		if !errors.Is(err, errNotExecuted) {
			go s.unlock(key, nonce)
		}
		return lease.Lock{}, false, unavailable(err)
	}
	parts, _ := reply.([]any)
	if len(parts) != 3 {
		return lease.Lock{}, false, unavailable(fmt.Errorf("the lock script answered %T", reply))
	}
	first, err1 := parseMicros(parts[1])
	expires, err2 := parseMicros(parts[2])
	if err := errors.Join(err1, err2); err != nil {
		return lease.Lock{}, false, unavailable(err)
	}
	return lease.Lock{First: first, Expires: expires}, text(parts[0]) == "1", nil
}

// unlock tries as long as a copy of the question could be on its way.
func (s *shared) unlock(key, nonce string) {
	ctx, cancel := context.WithTimeout(s.c.ctx, 2*leaseLag)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := s.ask(ctx, unlockScript, []string{key}, nonce); err == nil {
			return
		}
		pause(ctx, probeEvery)
	}
}

func parseMicros(v any) (time.Time, error) {
	n, err := strconv.ParseInt(text(v), 10, 64)
	return time.UnixMicro(n).UTC(), err
}

// Acquire claims the lease of n: see lease.Store.
func (s *shared) Acquire(ctx context.Context, n lease.Name, c lease.Claim) (lease.View, lease.Verdict, error) {
	var verdict lease.Verdict
	var lost bool
	view, err := s.leaseStep(ctx, n, func(st lease.State, now time.Time) (d decision) {
		lost = st.Live(now) && st.Expired(now)
		d.next, verdict = lease.Acquire(st, c, now)
		d.write = verdict == lease.Acquired
		return d
	})
	view.Lost = lost && verdict == lease.Acquired
	if verdict == lease.Acquired && (errors.Is(err, errLost) || errors.Is(err, errReplicas)) {
		s.undo(n, c.ID)
	}
	return view, verdict, err
}

// Apply takes a step of the holder of n's lease: see lease.Store.
func (s *shared) Apply(ctx context.Context, n lease.Name, st lease.Step) (lease.View, error) {
	view, err := s.leaseStep(ctx, n, applying(st))
	if errors.Is(err, lease.ErrUnavailable) && ends(st.Act) {
		return s.deferEnd(n, st, err)
	}
	return view, err
}

func applying(st lease.Step) func(lease.State, time.Time) decision {
	return func(s lease.State, now time.Time) decision {
		next, changed, err := lease.Apply(s, st, now)
		return decision{next: next, write: changed, must: ends(st.Act), err: err}
	}
}

// Look returns the state of n: see lease.Store.
func (s *shared) Look(ctx context.Context, n lease.Name) (lease.View, error) {
	return s.leaseStep(ctx, n, looked)
}

// leaseStep takes a step after the end that waits for the key, if one does.
func (s *shared) leaseStep(ctx context.Context, n lease.Name, decide func(lease.State, time.Time) decision) (lease.View, error) {
	if ctx.Err() != nil {
		return lease.View{}, unavailable(ctx.Err())
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.finishOwed(ctx, leaseIDOf(n)); err != nil {
		return lease.View{}, err
	}
	return s.tryStep(ctx, n, decide)
}

// tryStep decides about a key on what the server has, and has the server take what was decided if that still stands.
// Otherwise it decides again.
func (s *shared) tryStep(ctx context.Context, n lease.Name, decide func(lease.State, time.Time) decision) (lease.View, error) {
	id := leaseIDOf(n)
	reply, err := s.ask(ctx, leaseReadScript, []string{s.c.key("lease", id.String())})
	for tries := 0; err == nil && tries < 1000; tries++ {
		var now time.Time
		var state lease.State
		parts, _ := reply.([]any)
		if now, state, err = s.parseHeld(parts); err != nil {
			break
		}
		d := decide(state, now)
		if d.err != nil || !d.write {
			return lease.View{State: d.next, Now: now}, d.err
		}
		var took bool
		if took, reply, err = s.writeLease(ctx, id, n, text(parts[1]), state, &d, now); took {
			return lease.View{State: d.next, Now: now, Changed: true}, nil
		}
	}
	if err == nil {
		err = errors.New("the key is changed all the time")
	}
	return lease.View{}, unavailable(err)
}

// parseHeld reads a server's time and a lease. One that cannot be read is never taken for an absent one.
func (s *shared) parseHeld(parts []any) (now time.Time, state lease.State, err error) {
	if len(parts) < 2 {
		return now, state, errors.New("the lease script answered nothing")
	}
	if now, err = parseMicros(parts[0]); err != nil {
		return now, state, err
	}
	if value := text(parts[1]); value != "" {
		_, state, err = parseLease([]byte(value))
	}
	return now.Add(s.opt.skew()), state, err
}

// writeLease has the server take a decision. Where it does not, the reply is what it has.
func (s *shared) writeLease(ctx context.Context, id leaseID, n lease.Name, old string, was lease.State, d *decision, now time.Time) (bool, any, error) {
	late := now.Add(leaseLag)
	if was.Status == lease.InProgress && !was.Expired(now) && was.Deadline.Before(late) {
		late = was.Deadline
	}
	sc := leaseWriteScript
	if d.must {
		sc = leaseEndScript
	}
	job := ""
	switch {
	case d.next.Job != nil && was.Job == nil || d.next.Job != nil && d.next.ID != was.ID:
		job = "add"
	case d.next.Job == nil && was.Job != nil:
		job = "drop"
	}
	keep := max(1, d.next.Until.Sub(now).Milliseconds())
	reply, err := s.askDurable(ctx, sc, []string{s.c.key("lease", id.String()), s.c.key("jobs")},
		old, appendLease(nil, n, &d.next, true), keep, late.Add(-s.opt.skew()).UnixMicro(), job, id.String(), s.opt.Owner)
	if err != nil {
		return false, nil, err
	}
	parts, _ := reply.([]any)
	if len(parts) != 3 {
		return false, nil, fmt.Errorf("the lease script answered %T", reply)
	}
	return text(parts[0]) == "1", parts[1:], nil
}

// Jobs are the jobs in progress that this sidecar took: what a restart goes on with. Those of another one that died are
// taken up when they are asked for again.
func (s *shared) Jobs() []lease.Work {
	if s.c.meeting() != nil {
		return nil // they are asked for again when the server has come
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := s.c.do(ctx, "HGETALL", s.c.key("jobs"))
	if err != nil {
		s.opt.Log.Error("the jobs that were running cannot be read; they go on when they are asked for again", "error", err.Error())
		return nil
	}
	var list []lease.Work
	for field, owner := range pairs(reply) {
		if owner != s.opt.Owner {
			continue
		}
		reply, err := s.ask(ctx, leaseReadScript, []string{s.c.key("lease", field)})
		if err != nil {
			s.opt.Log.Error("a job that was running cannot be read; it goes on when it is asked for again", "error", err.Error())
			continue
		}
		parts, _ := reply.([]any)
		if len(parts) != 2 || text(parts[1]) == "" {
			_, _ = s.c.do(ctx, "HDEL", s.c.key("jobs"), field)
			continue
		}
		n, state, err := parseLease([]byte(text(parts[1])))
		if err == nil && state.Job != nil && state.Status == lease.InProgress {
			list = append(list, lease.Work{Name: n, State: state})
		}
	}
	return list
}

// pendingEnd is an end that the server did not take. It decides every later step of its key here.
type pendingEnd struct {
	name  lease.Name
	step  lease.Step
	until time.Time // it is tried until then, although there was nothing to end; zero: once
}

// maxPendingEnds bounds the ends that wait for the server.
const maxPendingEnds = 10_000

// deferEnd keeps an end until the server takes it.
func (s *shared) deferEnd(n lease.Name, st lease.Step, cause error) (lease.View, error) {
	if !s.owe(pendingEnd{name: n, step: st}) {
		return lease.View{}, cause
	}
	return lease.View{}, fmt.Errorf("%w: %w", lease.ErrDeferred, cause)
}

// undo gives a lease back of which nobody knows whether it was acquired.
func (s *shared) undo(n lease.Name, id string) {
	s.owe(pendingEnd{n, lease.Step{Act: lease.Cancel, ID: id}, time.Now().Add(2 * leaseLag)})
}

func (s *shared) owe(end pendingEnd) bool {
	id := leaseIDOf(end.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pending[id]; ok || len(s.pending) >= maxPendingEnds {
		return false
	}
	s.pending[id] = end
	return true
}

// finishOwed writes the end that waits for the key, if one does, before anything else is said about it.
func (s *shared) finishOwed(ctx context.Context, id leaseID) error {
	s.mu.Lock()
	owed, ok := s.pending[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	view, err := s.tryStep(ctx, owed.name, applying(owed.step))
	if errors.Is(err, lease.ErrUnavailable) {
		return err
	}
	if !view.Changed && time.Now().Before(owed.until) {
		return nil
	}
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
	if err != nil && owed.until.IsZero() {
		s.opt.Log.Warn("the end of a lease came too late for the store", "error", err.Error())
	}
	return nil
}

// finishPending writes the ends that wait.
func (s *shared) finishPending(ctx context.Context) {
	s.mu.Lock()
	var ids []leaseID
	for id := range s.pending {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		if s.finishOwed(ctx, id) != nil {
			return
		}
	}
}
