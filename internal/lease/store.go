package lease

import (
	"context"
	"errors"
	"time"
)

// Name is a key inside a tenant. Locks and leases have keyspaces of their own.
type Name struct{ Tenant, Key string }

// View is a key's state and the store's time at which it was looked at.
type View struct {
	State
	Now     time.Time
	Changed bool // by the step; false for the repetition of an end
	Lost    bool // of a claim that acquired the key: the lease before had expired
}

// Work is a job in progress.
type Work struct {
	Name Name
	State
}

// Store is where locks and leases live. Its law:
//
//   - Lock, Acquire and Apply are each one atomic step, decided by Lock.Take, Acquire and Apply on the key's state at
//     the store's time, which never goes back. Of any number of concurrent claims of a free key exactly one wins.
//   - What they return is durable. A duplicate is told so only once what stands in its way is durable.
//   - On ErrUnavailable nothing has changed, now or later, with one exception: an end (Complete, Fail, Cancel) that
//     fails with ErrDeferred is known to this process, decides every later step, and is the first thing written once
//     the disk takes writes again.
//   - A key is never forgotten before its time; when there is no room for another one that is ErrUnavailable.
//
// Nobody but the caller retries.
type Store interface {
	// Lock takes the lock of n, or returns the one that stands.
	Lock(ctx context.Context, n Name, ttl time.Duration) (Lock, bool, error)
	// Acquire claims the lease of n, or returns the state that is in the way, as it stands at View.Now.
	Acquire(ctx context.Context, n Name, c Claim) (View, Verdict, error)
	// Apply takes a step of the holder of n's lease. The view is that after the step, also with an error of Apply's.
	Apply(ctx context.Context, n Name, st Step) (View, error)
	// Look returns the state of n; an absent one is ErrAbsent.
	Look(ctx context.Context, n Name) (View, error)
	// Jobs are the jobs in progress, in no order: what a restart goes on with.
	Jobs() []Work
}

var (
	// ErrUnavailable says that the step was not taken. It is wrapped with the reason.
	ErrUnavailable = errors.New("the store takes no locks and leases")
	// ErrDeferred says that an end is known here and not durable yet.
	ErrDeferred = errors.New("the end of the lease is not durable yet")
)
