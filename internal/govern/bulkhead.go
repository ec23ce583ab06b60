package govern

import (
	"context"
	"sync"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// bulkheads bounds how many calls of one tool run at once. A tool keeps its places over reloads; when its
// max_in_flight changes, new callers meet the new bound and the old ones leave through the old.
type bulkheads struct {
	mu sync.Mutex
	by map[bulkheadKey]chan struct{} // guarded by mu
}

type bulkheadKey struct {
	name, scope string
	places      int
}

func (b *bulkheads) of(t *tool.Tool) chan struct{} {
	k := bulkheadKey{t.Name, t.Scope, max(t.MaxInFlight, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.by[k]
	if c == nil {
		if b.by == nil {
			b.by = map[bulkheadKey]chan struct{}{}
		}
		c = make(chan struct{}, k.places)
		b.by[k] = c
	}
	return c
}

// enter takes a place, waiting until ctx is done at most; leave gives it back and may be called once.
func enter(ctx context.Context, places chan struct{}) (ok bool) {
	select {
	case places <- struct{}{}:
		return true
	default:
	}
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
