package listen

import (
	"sync"
	"time"
)

// Room is a number of bytes that requests share. Its zero value has lent none.
type Room struct {
	mu    sync.Mutex
	lent  int64
	freed chan struct{} // closed when something was given back; nil while nobody waits
}

// Take lends n bytes of size, waiting for them until patience is over, and says whether it did.
func (r *Room) Take(n, size int64, patience time.Duration) bool {
	var over <-chan time.Time
	for {
		freed := r.try(n, size)
		if freed == nil {
			return true
		}
		if over == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-freed:
		case <-over:
			return false
		}
	}
}

// try lends n bytes, or returns what tells that others gave some back.
func (r *Room) try(n, size int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lent+n <= size {
		r.lent += n
		return nil
	}
	if r.freed == nil {
		r.freed = make(chan struct{})
	}
	return r.freed
}

// Give takes back what Take lent.
func (r *Room) Give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent -= n
	if r.freed != nil {
		close(r.freed)
		r.freed = nil
	}
}

// Lent is how many bytes are lent.
func (r *Room) Lent() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lent
}
