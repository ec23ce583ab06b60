package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
)

// Leases is a store that asks a control plane for a lease before it lets a call run. Between sidecars its promise is
// bounded by the lease; on this one the local store's holds: at most once.
//
// The local claim comes first, durably: should this process die, its own restart knows that bytes may have left. Then the
// lease; only then does the call run. What the control plane is owed, the word of how the call ended, is kept on disk and
// repeated until it is taken.
type Leases struct {
	local    dedup.Store
	client   *client
	cfg      Config
	follower *Follower
	mask     *hmac.Mask // of keys; nil: they go out as SHA-256
	book     *book
	log      *slog.Logger
	alarm    func() // another sidecar had the lease of a call that ran here

	watches watches
}

var _ dedup.Store = (*Leases)(nil)

// elsewhere is the fence under which a call that runs at another sidecar is known here.
const elsewhere = ^uint64(0)

// movedOn is the refusal by which local waiters learn that the call is another sidecar's.
const movedOn = "elsewhere"

var errNoLease = errors.New("its answer names no lease")

// NewLeases puts the control plane that f follows before a local store. Run keeps leases alive and says what is owed.
func NewLeases(local dedup.Store, f *Follower, alarm func()) (*Leases, error) {
	b, err := openBook(f.dir)
	if err != nil {
		return nil, fmt.Errorf("leases of the control plane: %w", err)
	}
	s := &Leases{local: local, client: f.client, cfg: f.cfg, follower: f, book: b, log: f.opt.Log, alarm: alarm}
	s.watches.init()
	if f.cfg.KeySecret != "" {
		s.mask = hmac.NewMask([]byte("oo-sidecar lease key\x00" + f.cfg.KeySecret))
	}
	s.resume()
	return s, nil
}

// goesOut is a key as the control plane sees it: the same at every sidecar of the namespace, and never the key itself.
// HMAC under the api key would differ between sidecars with keys of their own, and over a rotation: two of them would run
// the same call.
func (s *Leases) goesOut(k dedup.Key) string {
	if s.mask != nil {
		return "oo1h_" + s.mask.Shown(k)
	}
	sum := sha256.Sum256(append([]byte("oo-sidecar lease key\x00"), k[:]...))
	return "oo1s_" + hex.EncodeToString(sum[:])
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// keyed says whether a claim is for a call that no other sidecar may run too.
func keyed(c *dedup.Claim) bool { return len(c.Keys) > 0 && !c.Light && c.UnknownFor == 0 }

// counts says whether the control plane counts calls against their agents' limits.
func (s *Leases) counts() bool { return s.follower.Native() }

// asks says whether a claim needs the control plane.
func (s *Leases) asks(c *dedup.Claim) bool {
	l := &c.Limits
	limited := l.ActionsPerHour != nil || l.CallsPerDay != nil || l.SpendPerDay != nil
	return keyed(c) || limited && s.counts()
}

// Begin claims a call here and then everywhere: see dedup.Store.
func (s *Leases) Begin(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	if !s.asks(c) {
		return s.local.Begin(ctx, c)
	}
	if s.book.full() {
		if c.FailOpen {
			b, err := s.local.Begin(ctx, c)
			b.Waived = cmp.Or(b.Waived, "control")
			return b, err
		}
		return dedup.Begun{}, fmt.Errorf("%w: what the control plane is owed can be kept no longer", dedup.ErrUnavailable)
	}
	if c.Renews != 0 {
		return s.renew(ctx, c)
	}
	if keyed(c) {
		if b, ok := s.standing(c); ok {
			return b, nil
		}
	}
	b, err := s.local.Begin(ctx, c)
	if err != nil || b.Status != dedup.Mine {
		return b, err
	}
	return s.lease(ctx, c, b)
}

func (s *Leases) print(c *dedup.Claim) string { return s.goesOut(c.Keys[0].Print) }

// renew goes on with a call under a higher fence: its lease goes on first.
func (s *Leases) renew(ctx context.Context, c *dedup.Claim) (dedup.Begun, error) {
	h := s.book.ofFence(c.Renews)
	if h != nil {
		if err := s.extend(ctx, h, ttlFor(c.Timeout)); err != nil {
			return dedup.Begun{}, fmt.Errorf("%w: the lease cannot be extended: %w", dedup.ErrUnavailable, err)
		}
	}
	b, err := s.local.Begin(ctx, c)
	if err == nil && b.Status == dedup.Mine && h != nil {
		s.move(h, b.Fence, c.Timeout)
	}
	return b, err
}

// move puts a lease under the fence of another attempt.
func (s *Leases) move(h *held, fence uint64, timeout time.Duration) {
	next := s.book.copy(h)
	next.Fence, next.Timeout, next.Again, next.Say, next.GiveUp = fence, timeout, true, "", time.Time{}
	next.busy, next.next = false, time.Now().Add(next.TTL/3)
	if err := s.book.put(&next); err != nil {
		s.log.Error("a lease cannot be kept on disk", "error", err.Error())
	}
}

// ttlFor is how long a lease is asked for.
func ttlFor(timeout time.Duration) time.Duration {
	return max(2*timeout, 20*time.Second).Round(time.Second)
}

// lease asks for the lease of a call that is claimed here.
func (s *Leases) lease(ctx context.Context, c *dedup.Claim, b dedup.Begun) (dedup.Begun, error) {
	w := s.wish(c)
	if keyed(c) {
		if s.takeOver(ctx, c, b, w.Key) {
			return b, nil
		}
	}
	asked := time.Now()
	a, err := s.client.acquire(ctx, w, s.cfg.Timeout)
	if err != nil {
		return s.unasked(c, b, w, err)
	}
	switch {
	case a.Status == "acquired":
		return s.granted(ctx, c, b, &a, w, asked)
	case a.Status == "over_limit" && a.Budget != nil:
		s.release(c, b, a.Budget.Over)
		return dedup.Begun{Status: dedup.Over, Over: dedup.Limit(a.Budget.Over), RetryAfter: time.Duration(a.Budget.Retry) * time.Second, Now: b.Now}, nil
	case a.ended():
		return s.over(ctx, c, b, &a, w)
	}
	if a.forLong() {
		s.release(c, b, "outcome_unknown")
		return dedup.Begun{Status: dedup.Blocked, Key: c.Keys[0].Key, Fence: elsewhere, At: since(&a, b.Now), Now: b.Now}, nil
	}
	s.watches.running(c.Keys[0].Key)
	s.release(c, b, movedOn)
	return dedup.Begun{Status: dedup.InFlight, Key: c.Keys[0].Key, Fence: elsewhere, At: since(&a, b.Now), Now: b.Now}, nil
}

// since is when a key was first leased, or now where nobody says.
func since(a *leaseAnswer, now time.Time) time.Time {
	if at := when(a.FirstSeenAt); !at.IsZero() {
		return at
	}
	return now
}

// takeOver goes on under a lease that this sidecar has of the key already: that of a call whose outcome was unknown. One
// that is to be given back is given back first.
func (s *Leases) takeOver(ctx context.Context, c *dedup.Claim, b dedup.Begun, key string) bool {
	for end := time.Now().Add(s.cfg.Timeout); time.Now().Before(end) && ctx.Err() == nil; {
		h, say, mine := s.book.take(key)
		switch {
		case h == nil:
			return false
		case !mine: // it is being given back
			time.Sleep(2 * time.Millisecond)
		case say == sayCancel:
			now := s.book.copy(h)
			s.say(ctx, h, &now)
			return false
		case s.extend(ctx, h, ttlFor(c.Timeout)) == nil:
			s.move(h, b.Fence, c.Timeout)
			return true
		default:
			s.book.acted(h, time.Now().Add(holdLook))
			return false
		}
	}
	return false
}

func (s *Leases) wish(c *dedup.Claim) *wish {
	w := &wish{TTL: int64(ttlFor(c.Timeout) / time.Second), Metadata: settings{"agent_id": c.Agent, "tool": c.Tool}}
	if keyed(c) {
		w.Key = s.goesOut(c.Keys[0].Key)
	} else {
		w.Key = "oo1n_" + rand.Text()
	}
	if s.counts() {
		w.ClaimID = "lease_" + rand.Text()
		w.Budget = &budgetClaim{Agent: c.Agent, Tool: c.Tool, Cost: c.Cost.String()}
	}
	return w
}

// granted notes a lease, unless too little of it is left.
func (s *Leases) granted(ctx context.Context, c *dedup.Claim, b dedup.Begun, a *leaseAnswer, w *wish, asked time.Time) (dedup.Begun, error) {
	ttl := time.Duration(min(a.TTL, w.TTL)) * time.Second // what is longer than was asked for is not relied on
	h := &held{Key: w.Key, ID: a.LeaseID, Fence: b.Fence, Timeout: c.Timeout, TTL: ttl, Until: asked.Add(ttl), Again: b.Taken, next: time.Now().Add(ttl / 3)}
	if keyed(c) {
		h.Local, h.Print = c.Keys[0].Key, s.print(c)
	}
	if leftUntil(h.Until) < c.Timeout {
		return s.useless(c, b, h, fmt.Errorf("the control plane gives leases of %s, and this tool may take %s", ttl, c.Timeout))
	}
	// Should the power fail now, the next process holds the lease of what may have been sent.
	if err := cmp.Or(s.book.put(h), s.book.durable()); err != nil {
		return s.useless(c, b, h, fmt.Errorf("a lease cannot be kept on disk: %w", err))
	}
	if keyed(c) {
		if found, is, err := s.inTheWay(ctx, c, b, h); is {
			return found, err
		}
	}
	if a.Budget != nil && a.Budget.Shadow != "" {
		b.Shadow = dedup.Limit(a.Budget.Shadow)
	}
	return b, nil
}

// useless gives a lease back under which the call cannot run. A call that may go without one keeps its claim here.
func (s *Leases) useless(c *dedup.Claim, b dedup.Begun, h *held, err error) (dedup.Begun, error) {
	if !c.FailOpen {
		s.returns(c, b, h, "store_unavailable")
		return dedup.Begun{}, fmt.Errorf("%w: %w: %w", dedup.ErrUnavailable, dedup.ErrNoLease, err)
	}
	h.Fence = elsewhere
	s.giveBack(h)
	b.Waived = cmp.Or(b.Waived, "control")
	return b, nil
}

// giveBack has a lease be given back under which nothing was sent.
func (s *Leases) giveBack(h *held) {
	h.Say, h.Outcome, h.next, h.GiveUp = sayCancel, dedup.NotSent.String(), time.Now(), h.Until
	_ = s.book.put(h)
	s.wake()
}

// returns gives a lease back under which nothing was sent, and the local claim.
func (s *Leases) returns(c *dedup.Claim, b dedup.Begun, h *held, refusal string) {
	s.giveBack(h)
	s.release(c, b, refusal)
}

// over answers a call that has run elsewhere.
func (s *Leases) over(ctx context.Context, c *dedup.Claim, b dedup.Begun, a *leaseAnswer, w *wish) (dedup.Begun, error) {
	if len(a.Result) == 0 && !s.counts() {
		if err := s.client.result(ctx, w.Key, a); err != nil && !missing(err) {
			return s.unasked(c, b, nil, err)
		}
	}
	e := s.watches.ended(c.Keys[0].Key, a)
	s.release(c, b, movedOn)
	return s.begun(e, c, c.Keys[0].Key), nil
}

// unasked says what it means for a call that the control plane gave no answer.
func (s *Leases) unasked(c *dedup.Claim, b dedup.Begun, w *wish, err error) (dedup.Begun, error) {
	kind := kindOf(err)
	if c.FailOpen && kind != Denied && w != nil {
		b.Waived = cmp.Or(b.Waived, "control")
		return b, nil
	}
	if kind == Lost && w != nil && w.ClaimID != "" { // it may have been granted
		until := time.Now().Add(time.Duration(w.TTL) * time.Second)
		h := &held{Key: w.Key, ID: w.ClaimID, Fence: b.Fence, TTL: time.Duration(w.TTL) * time.Second, Until: until, Say: sayCancel, Outcome: dedup.NotSent.String(), GiveUp: until}
		if keyed(c) {
			h.Local = c.Keys[0].Key // the same call, asked again here, gives it back first
		}
		_ = s.book.put(h)
	}
	s.release(c, b, "store_unavailable")
	if kind == Denied {
		return dedup.Begun{}, fmt.Errorf("%w: %w: %w: %w", dedup.ErrUnavailable, dedup.ErrNoLease, dedup.ErrDenied, err)
	}
	return dedup.Begun{}, fmt.Errorf("%w: %w: %w", dedup.ErrUnavailable, dedup.ErrNoLease, err)
}

// release gives the local claim back: nothing was sent. Its audit record is that of the request.
func (s *Leases) release(c *dedup.Claim, b dedup.Begun, refusal string) {
	end := &dedup.End{Keys: c.Keys, Agent: c.Agent, Fence: b.Fence, Nonce: c.Nonce, Outcome: dedup.NotSent, Refusal: refusal, Light: c.Light}
	if err := s.local.Finish(context.Background(), end); err != nil && !errors.Is(err, dedup.ErrDeferred) {
		s.log.Error("a claim that no call runs under could not be released", "error", err.Error())
	}
}

// Holds says why the lease of a call may end before an attempt of that length; nil when it does not, or has none.
func (s *Leases) Holds(fence uint64, need time.Duration) error {
	h := s.book.ofFence(fence)
	if h == nil {
		return nil
	}
	now := s.book.copy(h)
	if left := leftUntil(now.Until); left < need {
		return fmt.Errorf("%s are left of the lease", left.Round(time.Millisecond))
	}
	return nil
}

// leftUntil is how long it is until t: by the monotonic clock, which a machine that sleeps stops, or by the wall clock,
// which may be put back, whichever says less.
func leftUntil(t time.Time) time.Duration {
	return min(time.Until(t), t.Round(0).Sub(time.Now().Round(0)))
}

// Finish ends a claim here; what the control plane is owed for it is said from then on.
func (s *Leases) Finish(ctx context.Context, e *dedup.End) error {
	err := s.local.Finish(ctx, e)
	if h := s.book.ofFence(e.Fence); h != nil {
		s.owe(h, e, err)
	}
	return err
}

// owe notes what is to be said of a lease whose call has ended, and has it said.
func (s *Leases) owe(h *held, e *dedup.End, err error) {
	outcome := e.Outcome
	known := err == nil || errors.Is(err, dedup.ErrDeferred)
	keyless := h.Local == dedup.Key{}
	s.book.change(h, func() {
		if !known || h.Again && outcome != dedup.Done {
			outcome = dedup.Unknown
		}
		h.Outcome, h.Keep, h.GiveUp = outcome.String(), e.Keep, time.Now().Add(max(e.Keep, h.TTL))
		switch {
		case outcome == dedup.Done:
			h.Say = sayComplete
			h.result, h.Hash = encodeResult(e.Answer, h.Print, s.cfg.Results)
		case outcome == dedup.Unknown && !keyless:
			h.Say, h.GiveUp = sayHold, time.Time{}
		case outcome == dedup.Unknown:
			h.Say = sayComplete
		default:
			h.Say, h.GiveUp = sayCancel, h.Until
		}
		h.next, h.tries = time.Now(), 0
	})
	s.wake()
}

// State says in words what is held and owed.
func (s *Leases) State() string {
	running, owed, unknown := s.book.counts()
	keys := "SHA-256; control.key_secret would keep them from being guessed"
	if s.mask != nil {
		keys = "HMAC under control.key_secret"
	}
	return fmt.Sprintf("%d of running calls, %d to be told of, %d of unknown outcomes; keys go out as %s", running, owed, unknown, keys)
}

// Delivered is the local store's: calls whose window it shortens have no lease.
func (s *Leases) Delivered(agent string, k dedup.Key, fence uint64, window time.Duration) {
	s.local.Delivered(agent, k, fence, window)
}

// copy is h as it stands.
func (b *book) copy(h *held) held {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *h
}
