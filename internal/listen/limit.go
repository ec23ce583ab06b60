package listen

import (
	"container/list"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// again is after what time one who waits for a place looks anew whether a connection may give its own.
const again = 100 * time.Millisecond

// Serve serves s on l, over TLS if s has a TLSConfig, with at most n connections open at once. Where they are, a further
// connection gets the place of the one that has been longest without a whole request, if that is as long as rested: who
// only holds connections open keeps nobody out, neither an operator from the kill switch nor a probe. A client that
// sends on a connection just then closed cannot know whether it was heard, so idle ones are asked to go beforehand:
// while few places are left answers say Connection: close.
//
// The time for a head, and for a whole first request, begins with its first byte. A client that connects ahead of its
// request has s.IdleTimeout for it.
func Serve(s *http.Server, l net.Listener, n int, rested time.Duration) error {
	limited := newLimited(l, n)
	limited.server, limited.rested = s, rested
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if limited.few() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	s.ConnState = func(c net.Conn, state http.ConnState) {
		p, ok := below(c).(*place)
		switch {
		case !ok:
		case state == http.StateNew:
			limited.rest(p)
		case state == http.StateIdle:
			p.late = 0
			limited.rest(p)
		case state == http.StateActive:
			limited.work(p)
		}
	}
	if s.TLSConfig != nil {
		return s.ServeTLS(limited, "", "")
	}
	return s.Serve(limited)
}

// below is the connection that TLS runs over; without TLS, c itself.
func below(c net.Conn) net.Conn {
	if over, ok := c.(*tls.Conn); ok {
		return over.NetConn()
	}
	return c
}

type limited struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
	server *http.Server  // nil: no connection gives way
	rested time.Duration // how long a connection has been without a request before another one may have its place

	mu      sync.Mutex
	resting list.List // of *place, the longest at rest first; guarded by mu
}

type place struct {
	net.Conn
	l      *limited
	once   sync.Once
	opened time.Time
	late   time.Duration // from opened to the first byte, until the first request is answered; owned by the connection's reader
	heard  bool          // a byte ever came; owned by the connection's reader

	at    *list.Element // among those at rest; guarded by l.mu
	since time.Time     // guarded by l.mu
	begun bool          // a byte came since it rests; guarded by l.mu
	asked bool          // to go, by a deadline that is over; guarded by l.mu
	gone  bool          // guarded by l.mu
}

func newLimited(l net.Listener, n int) *limited {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept takes the next connection before it has a place, so that nobody gives way to nobody.
func (l *limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.enter() {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	return &place{Conn: c, l: l, opened: time.Now()}, nil
}

// few says whether less than an eighth of the places is left.
func (l *limited) few() bool { return 8*len(l.places) > 7*cap(l.places) }

// enter takes a place, if need be that of a connection at rest. False: the listener is closed.
func (l *limited) enter() bool {
	select {
	case l.places <- struct{}{}:
		return true
	default:
	}
	for {
		if l.server != nil {
			l.ask(time.Now())
		}
		select {
		case l.places <- struct{}{}:
			return true
		case <-time.After(again):
		case <-l.closed:
			return false
		}
	}
}

// ask has the connection go that has been at rest longest, if that is long enough. Its own reader closes it, once it
// has seen that nothing has come: a request that has arrived is answered.
func (l *limited) ask(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.resting.Front()
	if first == nil {
		return
	}
	p := first.Value.(*place)
	if now.Sub(p.since) < l.rested {
		return
	}
	p.asked, p.since = true, now // if it stays, its turn comes again
	l.resting.MoveToBack(first)
	_ = p.Conn.SetReadDeadline(time.Unix(1, 0))
}

// rest notes that the connection waits for a request.
func (l *limited) rest(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.gone {
		return
	}
	l.remove(p)
	p.begun, p.asked = false, false
	p.since, p.at = time.Now(), l.resting.PushBack(p)
}

// work notes that the connection has a request.
func (l *limited) work(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(p)
	if p.asked {
		p.asked = false
		_ = p.Conn.SetReadDeadline(time.Now().Add(l.server.ReadTimeout))
	}
}

// begin notes the first byte of a request; the others do not lengthen its rest.
func (l *limited) begin(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.at == nil || p.begun {
		return
	}
	p.begun, p.since = true, time.Now()
	l.resting.MoveToBack(p.at)
}

// leaves says whether the connection's reader was told to go, and has it stay for now.
func (l *limited) leaves(p *place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := p.asked && p.at != nil
	if was {
		p.asked = false
		_ = p.Conn.SetReadDeadline(time.Now().Add(l.server.ReadHeaderTimeout))
	}
	return was
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

func (p *place) Read(b []byte) (int, error) {
	if p.l.server == nil {
		return p.Conn.Read(b)
	}
	if !p.heard {
		return p.readFirst(b)
	}
	n, err := p.read(b)
	if n > 0 {
		p.l.begin(p)
	}
	return n, err
}

// readFirst waits for the first byte of all, and has the deadlines begin with it.
func (p *place) readFirst(b []byte) (int, error) {
	_ = p.Conn.SetReadDeadline(p.opened.Add(p.l.server.IdleTimeout))
	n, err := p.read(b)
	if n > 0 {
		p.heard, p.late = true, time.Since(p.opened)
		p.l.begin(p)
		_ = p.Conn.SetReadDeadline(time.Now().Add(p.l.server.ReadHeaderTimeout))
	}
	return n, err
}

// read reads; who is asked to go looks once more for what came meanwhile.
func (p *place) read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !p.l.leaves(p) {
		return n, err
	}
	if late := p.arrived(b); late > 0 {
		return late, nil
	}
	return 0, err
}

// arrived reads what has already come; 0 is nothing, or an end.
func (p *place) arrived(b []byte) (n int) {
	c, ok := p.Conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), b)
		return true
	})
	if err != nil {
		return 0
	}
	return n
}

// SetReadDeadline counts the time for the whole first request from its first byte on.
func (p *place) SetReadDeadline(t time.Time) error {
	if p.l.server != nil && !t.IsZero() {
		t = t.Add(p.late)
	}
	return p.Conn.SetReadDeadline(t)
}
