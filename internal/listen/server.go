// Package listen serves net/http handlers on the sidecar's own listeners, api and health: with limits, and only to
// requests that mean the listener. A page in the user's browser can reach loopback under a name of its own.
package listen

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is an http.Server with every limit set. Requests must be whole within 15 s; answers within 60 s.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  15 * time.Second,
		WriteTimeout:                 60 * time.Second,
		IdleTimeout:                  90 * time.Second,
		MaxHeaderBytes:               32 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Limit returns l with at most n connections open at once; further ones wait to be accepted.
func Limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &place{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type place struct {
	net.Conn
	leave func()
}

func (p *place) Close() error {
	err := p.Conn.Close()
	p.leave()
	return err
}
