package govern

import (
	"context"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// bulkheads bounds how many calls of one tool run at once. A bulkhead lives while somebody is in it or waits, also over
// reloads; when the tool's max_in_flight changes, new callers meet the new bound and the old ones leave through the old.
type bulkheads struct {
	mu sync.Mutex
	by map[bulkheadKey]*bulkhead // guarded by mu
}

type bulkheadKey struct {
	name, scope string
	places      int
}

type bulkhead struct {
	key    bulkheadKey
	places chan struct{}
	users  int // who hold a place or wait for one; guarded by bulkheads.mu
}

// enter takes a place, waiting at most so long and until ctx is done. It returns nil when there was none.
func (b *bulkheads) enter(ctx context.Context, t *tool.Tool, most time.Duration) (h *bulkhead, waited time.Duration) {
	h = b.join(bulkheadKey{t.Name, t.Scope, max(t.MaxInFlight, 1)})
	select {
	case h.places <- struct{}{}:
		return h, 0
	default:
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case h.places <- struct{}{}:
	case <-ctx.Done():
		b.part(h)
		h = nil
	}
	return h, time.Since(start)
}

// leave gives a place back.
func (b *bulkheads) leave(h *bulkhead) {
	<-h.places
	b.part(h)
}

func (b *bulkheads) join(k bulkheadKey) *bulkhead {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.by[k]
	if h == nil {
		if b.by == nil {
			b.by = map[bulkheadKey]*bulkhead{}
		}
		h = &bulkhead{key: k, places: make(chan struct{}, k.places)}
		b.by[k] = h
	}
	h.users++
	return h
}

func (b *bulkheads) part(h *bulkhead) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(b.by, h.key)
	}
}
