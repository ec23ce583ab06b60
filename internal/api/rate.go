package api

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// bucket lets a number of requests through per period, evenly refilled (GCRA).
type bucket struct {
	every time.Duration // between two requests
	burst time.Duration // how far ahead of that pace a caller may be

	mu   sync.Mutex
	next time.Time // when the next request would be on pace; guarded by mu
}

var periods = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// newBucket reads a rate such as 100/s, 600/m or 5000/h. An empty one is no limit.
func newBucket(rate string) (*bucket, error) {
	if rate == "" {
		return nil, nil
	}
	count, unit, _ := strings.Cut(rate, "/")
	n, err := strconv.Atoi(count)
	period, ok := periods[unit]
	if err != nil || n < 1 || n > 1_000_000_000 || !ok {
		return nil, fmt.Errorf("rate %q is none; write 100/s, 600/m or 5000/h", rate)
	}
	return &bucket{every: max(1, period/time.Duration(n)), burst: period}, nil
}

// same says whether both are the same rate; no limit is the same as none.
func (b *bucket) same(o *bucket) bool {
	if b == nil || o == nil {
		return b == o
	}
	return b.every == o.every && b.burst == o.burst
}

// take lets one request through and returns 0, or returns how long to wait.
func (b *bucket) take(now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.next
	if next.Before(now) {
		next = now
	}
	next = next.Add(b.every)
	if wait := next.Sub(now) - b.burst; wait > 0 {
		return wait
	}
	b.next = next
	return 0
}
