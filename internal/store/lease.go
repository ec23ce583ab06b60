package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// maxOpenLeases bounds the leases that are held, cancelled or lost. They are kept whole in memory; finished ones are not.
const maxOpenLeases = 100_000

// leases are the locks and leases of clients. A step is decided and appended under mu, holds once it is durable, and
// meanwhile keeps other steps of its key waiting: nobody is told of what may yet fail.
type leases struct {
	mu     sync.Mutex
	locks  map[leaseID]heldLock      // guarded by mu; some may have expired
	open   map[leaseID]*openLease    // guarded by mu: not finished, or not durably so
	ended  map[leaseID]endedLease    // guarded by mu: finished
	moving map[leaseID]chan struct{} // guarded by mu: a step is on its way to the disk; closed when it is over
}

type heldLock struct {
	first, expires int64  // Unix, ns
	seq            uint64 // of the fact
}

type openLease struct {
	name  lease.Name
	state lease.State // replaced whole
	seq   uint64
}

// endedLease is a finished lease as it is kept in memory: what it came to is read from the journal.
type endedLease struct {
	at                 journal.Location
	status             lease.Status
	version            uint32
	first, done, until int64 // Unix, ns
	seq                uint64
}

func newLeases() *leases {
	return &leases{locks: map[leaseID]heldLock{}, open: map[leaseID]*openLease{}, ended: map[leaseID]endedLease{}, moving: map[leaseID]chan struct{}{}}
}

var _ lease.Store = (*Embedded)(nil)

// lockID tells the locks from the leases among the keys that move.
func lockID(n lease.Name) leaseID {
	return leaseIDOf(lease.Name{Tenant: "lock\x00" + n.Tenant, Key: n.Key})
}

// Lock takes the lock of n: see lease.Store.
func (e *Embedded) Lock(ctx context.Context, n lease.Name, ttl time.Duration) (lease.Lock, bool, error) {
	id, t := lockID(n), e.leases
	for {
		t.mu.Lock()
		if moving := t.moving[id]; moving != nil {
			t.mu.Unlock()
			if err := settled(ctx, moving); err != nil {
				return lease.Lock{}, false, err
			}
			continue
		}
		now := e.now()
		next, won := t.locks[id].lock().Take(ttl, now)
		if !won {
			t.mu.Unlock()
			return next, false, nil
		}
		commit, err := e.appendLock(id, next, now)
		if err != nil {
			t.mu.Unlock()
			return lease.Lock{}, false, unavailable(err)
		}
		t.move(id)
		t.mu.Unlock()
		err = commit.Wait(context.WithoutCancel(ctx))
		t.mu.Lock()
		if err == nil {
			t.locks[id] = heldLock{next.First.UnixNano(), next.Expires.UnixNano(), commit.First}
		}
		t.moved(id)
		t.mu.Unlock()
		if err != nil {
			return lease.Lock{}, false, unavailable(err)
		}
		return next, true, nil
	}
}

func (h heldLock) lock() lease.Lock {
	if h.expires == 0 {
		return lease.Lock{}
	}
	return lease.Lock{First: time.Unix(0, h.first).UTC(), Expires: time.Unix(0, h.expires).UTC()}
}

// appendLock appends the fact of a lock, if there is room for one more. Call it with mu held.
func (e *Embedded) appendLock(id leaseID, l lease.Lock, now time.Time) (*journal.Commit, error) {
	t := e.leases
	sweep(t.locks, now, 4, func(h heldLock) int64 { return h.expires })
	if int64(len(t.locks)) >= e.opt.Config.MaxKeys {
		sweep(t.locks, now, len(t.locks), func(h heldLock) int64 { return h.expires })
	}
	if n := int64(len(t.locks)); n >= e.opt.Config.MaxKeys {
		return nil, fmt.Errorf("%d locks stand, as many as store.embedded.max_keys allows; use shorter ttls or raise it", n)
	}
	return e.j.Append(journal.Entry{Kind: kindLock, Fact: appendLock(nil, id, l)})
}

// sweep looks at some entries, which a map yields in random order, and forgets those that are over.
func sweep[V any](m map[leaseID]V, now time.Time, most int, until func(V) int64) {
	for id, v := range m {
		if most--; most < 0 {
			return
		}
		if until(v) <= now.UnixNano() {
			delete(m, id)
		}
	}
}

// move says that a step of the key is on its way. Call it with mu held.
func (t *leases) move(id leaseID) { t.moving[id] = make(chan struct{}) }

// moved lets those go on who waited for the step. Call it with mu held.
func (t *leases) moved(id leaseID) {
	close(t.moving[id])
	delete(t.moving, id)
}

// settled waits for a step that is on its way.
func settled(ctx context.Context, moving chan struct{}) error {
	select {
	case <-moving:
		return nil
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

func unavailable(err error) error {
	if errors.Is(err, lease.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", lease.ErrUnavailable, err)
}
