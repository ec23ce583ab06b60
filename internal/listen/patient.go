package listen

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// Pauses between two tries to accept while the machine has no room for another connection.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
	toldAgain  = time.Minute // a burst of failures is logged once, however often it comes and goes within this time
)

// Patient returns l without the errors that pass: no file descriptors, no memory, a peer that is gone again. Accept
// waits and tries anew, so that a burst of connections ends no server.
func Patient(l net.Listener, log *slog.Logger) net.Listener {
	return &patient{Listener: l, log: log, closed: make(chan struct{})}
}

type patient struct {
	net.Listener
	log    *slog.Logger
	once   sync.Once
	closed chan struct{}

	mu   sync.Mutex
	told time.Time // guarded by mu
}

func (l *patient) Accept() (net.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		c, err := l.Listener.Accept()
		if err == nil || !passes(err) {
			return c, err
		}
		l.tell(err)
		select {
		case <-time.After(pause):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

func (l *patient) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// passes says whether the listener itself is sound, so that a later Accept may succeed.
func passes(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (l *patient) tell(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.told) > toldAgain {
		l.told = now
		l.log.Error("connections wait: none can be accepted now; if it lasts, raise the limit of open files (ulimit -n, LimitNOFILE)", "listener", l.Addr().String(), "error", err)
	}
}
