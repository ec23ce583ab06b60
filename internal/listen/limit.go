package listen

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limit returns l with at most n connections open at once; further ones wait to be accepted.
func Limit(l net.Listener, n int) net.Listener { return newLimited(l, n) }

// rested is how long a connection has been without a request before another one may have its place.
const rested = 250 * time.Millisecond

// Serve serves s on l with at most n connections open at once. Where all places are taken a further connection gets that
// of the one that has been longest without a whole request: who only holds connections open keeps nobody out, neither an
// operator from the kill switch nor a probe.
func Serve(s *http.Server, l net.Listener, n int) error {
	limited := newLimited(l, n)
	limited.evicts = true
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := r.Context().Value(placeKey{}).(*place); ok {
			limited.work(p)
		}
		next.ServeHTTP(w, r)
	})
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, placeKey{}, c) }
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if p, ok := c.(*place); ok && (state == http.StateNew || state == http.StateIdle) {
			limited.rest(p)
		}
	}
	return s.Serve(limited)
}

type placeKey struct{}

type limited struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
	evicts bool

	mu      sync.Mutex
	resting list.List // of *place, the longest at rest first; guarded by mu
}

type place struct {
	net.Conn
	l     *limited
	once  sync.Once
	at    *list.Element // among those at rest; guarded by l.mu
	since time.Time     // guarded by l.mu
	gone  bool          // guarded by l.mu
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	if !l.enter() {
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &place{Conn: c, l: l}, nil
}

// enter takes a place, if need be that of a connection at rest. False: the listener is closed.
func (l *limited) enter() bool {
	for {
		var again <-chan time.Time
		select {
		case l.places <- struct{}{}:
			return true
		default:
		}
		if l.evicts && !l.evict(time.Now()) {
			again = time.After(rested)
		}
		select {
		case l.places <- struct{}{}:
			return true
		case <-again:
		case <-l.closed:
			return false
		}
	}
}

// evict closes the connection that has been at rest longest, if that is long enough.
func (l *limited) evict(now time.Time) bool {
	l.mu.Lock()
	first := l.resting.Front()
	if first == nil || now.Sub(first.Value.(*place).since) < rested {
		l.mu.Unlock()
		return false
	}
	p := first.Value.(*place)
	l.remove(p)
	l.mu.Unlock()
	_ = p.Close()
	return true
}

// rest notes that the connection waits for a request.
func (l *limited) rest(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.gone {
		return
	}
	l.remove(p)
	p.since, p.at = time.Now(), l.resting.PushBack(p)
}

// work notes that the connection has a request.
func (l *limited) work(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(p)
}

// leave gives the place back.
func (l *limited) leave(p *place) {
	l.mu.Lock()
	l.remove(p)
	p.gone = true
	l.mu.Unlock()
	<-l.places
}

// remove takes the connection out of those at rest. Call it with mu held.
func (l *limited) remove(p *place) {
	if p.at != nil {
		l.resting.Remove(p.at)
		p.at = nil
	}
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (p *place) Close() error {
	err := p.Conn.Close()
	p.once.Do(func() { p.l.leave(p) })
	return err
}
