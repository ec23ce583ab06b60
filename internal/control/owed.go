package control

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

const (
	workers     = 16 // that speak of leases at once
	tick        = 100 * time.Millisecond
	holdFor     = 30 * 24 * time.Hour // how long an unknown call's lease is asked for at once
	holdLook    = 2 * time.Second     // how often it is looked whether an operator has resolved one
	mostBackoff = 30 * time.Second
)

// Run keeps leases alive while their calls run and says what the control plane is owed, until ctx ends.
func (s *Leases) Run(ctx context.Context) {
	places := make(chan struct{}, workers)
	tended := time.Now()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.watches.wake:
		case <-timer.C:
		}
		for _, h := range s.book.due(time.Now(), workers-len(places)) {
			places <- struct{}{}
			go func() {
				defer func() { <-places }()
				s.act(ctx, h)
			}()
		}
		if time.Since(tended) > time.Second {
			tended = time.Now()
			if err := s.book.tend(); err != nil {
				s.log.Error("what the control plane is owed cannot be kept on disk", "error", err.Error())
			}
		}
	}
}

// Close says what it can of what is owed until ctx ends; the rest is said by the next process.
func (s *Leases) Close(ctx context.Context) error {
	for more := true; more && ctx.Err() == nil; {
		more = false
		for _, h := range s.book.due(time.Now(), maxHeld) {
			now := s.book.copy(h)
			if now.Say == "" || now.Say == saidHold || now.tries > 0 {
				continue
			}
			s.act(ctx, h)
			more = true
		}
	}
	return s.book.close()
}

func (s *Leases) wake() {
	select {
	case s.watches.wake <- struct{}{}:
	default:
	}
}

// act does what is due for one lease.
func (s *Leases) act(ctx context.Context, h *held) {
	now := s.book.copy(h)
	switch now.Say {
	case "":
		s.alive(ctx, h)
	case saidHold:
		s.resolved(ctx, h, &now)
	default:
		s.say(ctx, h, &now)
	}
}

// alive extends the lease of a running call.
func (s *Leases) alive(ctx context.Context, h *held) {
	now := s.book.copy(h)
	err := s.extend(ctx, h, now.TTL)
	if over(err) {
		err = s.regain(ctx, h)
	}
	next := time.Now().Add(now.TTL / 3)
	if err != nil {
		next = time.Now().Add(min(time.Second, now.TTL/10))
		if kindOf(err) == Conflict {
			next = time.Now().Add(time.Hour) // it is lost; the end will say what that means
			s.log.Error("the lease of a running call is lost: another sidecar may run it too", "error", err.Error())
		}
	}
	if s.book.copy(h).Say != "" { // it ended meanwhile
		next = time.Now()
	}
	s.book.acted(h, next)
}

// extend moves the end of a lease.
func (s *Leases) extend(ctx context.Context, h *held, ttl time.Duration) error {
	now := s.book.copy(h)
	asked := time.Now()
	got, err := s.client.apply(ctx, "extend", &step{Key: now.Key, LeaseID: now.ID, TTL: int64(ttl / time.Second)})
	if err != nil {
		return err
	}
	if got <= 0 {
		got = ttl
	}
	got = min(got, ttl)
	s.book.change(h, func() { h.TTL, h.Until = got, asked.Add(got) })
	return nil
}

// over says whether the control plane knows the lease no more.
func over(err error) bool { return kindOf(err) == Conflict || kindOf(err) == Forgotten }

// regain takes the key of a lease again that ended because nobody here could extend it: its call runs, or may have run,
// and no other sidecar is to run it. The error is a Conflict when another one came first.
func (s *Leases) regain(ctx context.Context, h *held) error {
	now := s.book.copy(h)
	if now.Local == (dedup.Key{}) {
		return &Error{Kind: Conflict, Err: errTaken}
	}
	w := &wish{Key: now.Key, TTL: int64(max(now.TTL, ttlFor(now.Timeout)) / time.Second), Metadata: settings{}}
	if s.counts() {
		w.ClaimID = "lease_" + rand.Text()
	}
	asked := time.Now()
	a, err := s.client.acquire(ctx, w, stepTimeout)
	switch {
	case err != nil:
		return err
	case a.Status != "acquired":
		return &Error{Kind: Conflict, Err: errTaken}
	}
	ttl := time.Duration(min(a.TTL, w.TTL)) * time.Second
	s.book.rename(h, a.LeaseID, func() { h.TTL, h.Until = ttl, asked.Add(ttl) })
	s.log.Warn("the lease of a call ended before the call did, or before its outcome was known; no other sidecar had taken it, and it is held again")
	return nil
}

var errTaken = errors.New("another sidecar has the lease")

// say tells the control plane how a call ended, again and again until it is taken.
func (s *Leases) say(ctx context.Context, h *held, now *held) {
	st := &step{Key: now.Key, LeaseID: now.ID}
	if s.counts() {
		st.Budget = settings{"outcome": now.Outcome}
	}
	switch now.Say {
	case sayComplete:
		st.Result, st.ResultHash = now.result, now.Hash
		if s.counts() {
			st.Keep = max(1, int64(now.Keep/time.Second))
		}
	case sayHold:
		st.TTL = int64(holdFor / time.Second)
	}
	asked := time.Now()
	got, err := s.client.apply(ctx, now.Say, st)
	switch {
	case err == nil && now.Say == sayHold:
		got = min(got, holdFor)
		s.book.change(h, func() { h.Say, h.TTL, h.Until, h.tries = saidHold, got, asked.Add(got), 0 })
		s.book.acted(h, time.Now().Add(holdLook))
	case err == nil:
		s.book.done(h)
	case over(err):
		s.unheard(ctx, h, now, err)
	case !now.GiveUp.IsZero() && time.Now().After(now.GiveUp):
		s.log.Error("the control plane was not told how a call ended, and no longer needs to know", "say", now.Say, "error", err.Error())
		s.book.done(h)
	default:
		s.again(h, now, err)
	}
}

// again has what was not taken be said later.
func (s *Leases) again(h *held, now *held, err error) {
	s.book.change(h, func() { h.tries++ })
	back := min(mostBackoff, 200*time.Millisecond<<min(now.tries, 8))
	if e, ok := errors.AsType[*Error](err); ok {
		back = min(mostBackoff, max(back, e.RetryAfter))
	}
	s.book.acted(h, time.Now().Add(back/2+mathrand.N(back/2)))
}

// unheard is what becomes of a lease that is no longer this sidecar's: one that merely ended is taken again, for the word
// to be said under it. That a completion was refused means that another sidecar came first.
func (s *Leases) unheard(ctx context.Context, h *held, now *held, err error) {
	e, _ := errors.AsType[*Error](err)
	ended := e.Code == "already_completed" || e.Code == "already_canceled"
	if !ended && (now.Say == sayHold || now.Say == sayComplete && e.Kind == Forgotten) {
		switch err = s.regain(ctx, h); {
		case err == nil:
			s.book.acted(h, time.Now())
			return
		case kindOf(err) != Conflict:
			s.again(h, now, err)
			return
		}
	}
	if now.Say != sayCancel && !ended && now.Local != (dedup.Key{}) {
		s.alarm()
		s.log.Error("possible double execution: the lease of a call that ran here, or may have, went to another sidecar", "outcome", now.Outcome, "error", err.Error())
	}
	s.book.done(h)
}

// resolved looks whether an operator has said how an unknown call ended.
func (s *Leases) resolved(ctx context.Context, h *held, now *held) {
	switch s.localOutcome(now) {
	case dedup.Done:
		s.book.change(h, func() {
			h.Say, h.Outcome, h.Keep, h.GiveUp = sayComplete, "done", 24*time.Hour, time.Now().Add(24*time.Hour)
		})
		s.book.acted(h, time.Now())
	case dedup.NotSent, dedup.Failed:
		s.book.change(h, func() { h.Say, h.Outcome, h.GiveUp = sayCancel, "not_sent", h.Until })
		s.book.acted(h, time.Now())
	default:
		next := time.Now().Add(holdLook)
		if time.Until(now.Until) < now.TTL/2 && over(s.extend(ctx, h, holdFor)) {
			s.book.change(h, func() { h.Say = sayHold })
			next = time.Now()
		}
		s.book.acted(h, next)
	}
}

// localOutcome is how the local store says that the call of a lease ended; Running when it knows nothing of it.
func (s *Leases) localOutcome(h *held) dedup.Outcome {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	end, err := s.local.Wait(ctx, "", h.Local, h.Fence) // with leases it is never Redis, which alone asks whose call it is
	if err != nil {
		return dedup.Unknown
	}
	return end.Outcome
}

// resume decides what is owed for the calls that ran when the last process ended.
func (s *Leases) resume() {
	for _, h := range s.book.due(time.Now(), maxHeld) {
		if h.Say != "" {
			s.book.acted(h, time.Now())
			continue
		}
		outcome := dedup.Unknown
		if h.Local != (dedup.Key{}) {
			outcome = s.localOutcome(h)
		}
		if outcome != dedup.Done && outcome != dedup.Unknown {
			// It was released, or this journal never knew the call, being older than the leases or another sidecar's copy.
			// That nothing was sent is not certain enough to give the key back: the lease ends by itself.
			s.book.done(h)
			continue
		}
		s.book.change(h, func() {
			h.Outcome, h.GiveUp = outcome.String(), time.Now().Add(24*time.Hour)
			switch {
			case outcome == dedup.Done, h.Local == dedup.Key{}:
				h.Say, h.Keep = sayComplete, 24*time.Hour
			default:
				h.Say, h.GiveUp = sayHold, time.Time{}
			}
		})
		s.book.acted(h, time.Now())
	}
}
