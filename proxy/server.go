// Package proxy is the wire: it judges raw requests before anything parses them, hands what they are to the governor, and
// sends what the governor permits. Tunnels are opened, passed on or refused here.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/listen"
)

// Bounds of the listener.
const (
	MaxConns        = 8192     // connections at once, at most; one more is told 503 and closed
	passthroughBody = 64 << 20 // of requests to hosts that are no tools: prompts carry pictures
	bodyBuffer      = 64 << 10 // a request body up to this size is copied out of a pooled buffer, a larger one taken
)

// Backend is what the listener asks of the rest of the sidecar. All functions may be called at the same time.
type Backend struct {
	// Govern takes one request through the whole sequence. Its context does not end with the agent's connection.
	Govern func(context.Context, *govern.Request) *govern.Reply
	// Refuse answers a request that the wire refuses itself, and leaves its record.
	Refuse func(r *govern.Request, code, detail string) *govern.Reply
	// RefuseEarly refuses a request whose head alone decides that, and leaves its record; its body is still to come. nil
	// is no answer: the request goes to Govern when it is whole. A nil function decides nothing.
	RefuseEarly func(r *govern.Request) *govern.Reply
	// Snapshot is what one request sees of registry and hosts.
	Snapshot func() *govern.Snapshot
	// Identity says who may ask; swapped whole on reload.
	Identity func() *Identity
	// Disabled is the kill switch.
	Disabled func(agent string) bool
	// Stale says why policies are too old to open tunnels unread; nil: never, or they are not.
	Stale func() error
	// Tunnelled leaves the record of an opaque tunnel that was opened, and counts it.
	Tunnelled func(r *govern.Request)
	// Unused leaves the record of a tunnel that was to be read and carried no request: one that did is recorded by its
	// requests.
	Unused func(r *govern.Request)
	// Dial opens the far end of an opaque tunnel; its errors are those of govern.Sender.
	Dial func(ctx context.Context, authority string) (net.Conn, error)
	// Addresses are those that calls to the host would be sent to now.
	Addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	// Certificate is one of the local CA for a host (without port and brackets); nil: there is no CA, and no tunnel is
	// opened whatever the configuration says.
	Certificate func(host string) (*tls.Certificate, error)
	// Probe answers requests for ProbeHost, and leaves their record; nil: they are like any other.
	Probe func(r *govern.Request) *govern.Reply
	// Log takes what an operator should know.
	Log func(level slog.Level, msg string, args ...any)
}

// Server is the proxy listener: forward proxy, tunnels and /tools/{name}.
type Server struct {
	Backend
	Conns       int                      // connections at once, MaxConns unless set before Serve
	settings    atomic.Pointer[settings] // swapped whole by Use
	headerBytes int

	fast     *fasthttp.Server
	inner    *fasthttp.Server // inside tunnels
	tls      *tls.Config      // of opened tunnels; one for all, so that sessions are resumed
	base     context.Context  // of the calls; set by Serve
	told     sparing
	draining atomic.Bool
	small    listen.Room   // of the first bytes of bodies that are being read
	large    listen.Room   // of the others
	running  atomic.Int64  // requests being served, tunnels included
	idle     chan struct{} // told when running falls to 0 while draining

	mu        sync.Mutex
	listeners []net.Listener       // guarded by mu
	conns     map[*conn]struct{}   // guarded by mu
	tunnels   map[*tunnel]struct{} // guarded by mu
}

// New makes a listener of the section `proxy`. headerBytes is limits.header_bytes.
func New(c Config, headerBytes int, b Backend) (*Server, error) {
	if headerBytes < 1024 {
		return nil, errors.New("limits.header_bytes: less than 1KiB leaves no room for ordinary requests")
	}
	s := &Server{
		Backend: b, Conns: MaxConns, headerBytes: headerBytes,
		idle: make(chan struct{}, 1), conns: map[*conn]struct{}{}, tunnels: map[*tunnel]struct{}{}, base: context.Background(),
	}
	if err := s.Use(c); err != nil {
		return nil, err
	}
	s.tls = s.tlsConfig()
	s.fast, s.inner = s.reader(false), s.reader(true)
	return s, nil
}

// reader is the fasthttp server under the gate. A sparing one gives its buffers back between two requests, for a little
// time: tunnels are many and mostly wait.
func (s *Server) reader(sparing bool) *fasthttp.Server {
	return &fasthttp.Server{
		Handler: s.handle, ErrorHandler: s.misread, ExpectHandler: s.expect,
		Concurrency:           2 * MaxConns, // the listener counts
		ReadBufferSize:        s.headerBytes + 512,
		WriteBufferSize:       256,         // what fasthttp writes goes nowhere
		MaxRequestBodySize:    math.MaxInt, // the gate counts
		NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true,
		DisableHeaderNamesNormalizing: true, DisablePreParseMultipartForm: true,
		ReduceMemoryUsage: sparing,
		LazyRequestTime:   true, SecureErrorLogMessage: true, Logger: silent{},
	}
}

// settings are what a reload may change.
type settings struct {
	hosts      []string // proxy.hosts, lower case
	maxBody    int64    // proxy.max_request_bytes
	tunnelIdle time.Duration
	opening    *opening // proxy.intercept; nil: off
}

// Use makes hosts, max_request_bytes, tunnel_idle and whose tunnels are opened what the next requests see.
func (s *Server) Use(c Config) error {
	if c.MaxRequestBytes <= 0 {
		return errors.New("proxy.max_request_bytes: must be more than 0")
	}
	next := &settings{hosts: lowered(c.Hosts), maxBody: int64(c.MaxRequestBytes), tunnelIdle: c.TunnelIdle}
	if c.Intercept.Enabled && s.Certificate != nil {
		next.opening = newOpening(c.Intercept.Hosts)
	}
	s.settings.Store(next)
	return nil
}

// silent drops fasthttp's log: it speaks of connections that the gate has dealt with.
type silent struct{}

func (silent) Printf(string, ...any) {}

// Serve answers on ln until Close, or returns the listener's error. Calls run under ctx: ending it abandons them,
// as a crash would.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	s.mu.Lock()
	s.base = ctx
	s.listeners = append(s.listeners, ln)
	s.mu.Unlock()
	return s.fast.Serve(&listener{ln, s})
}

// Drain answers new calls with 503 draining until the running ones have ended, or ctx has, whose error it then returns.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	return s.await(ctx)
}

// await waits until nothing is running. It returns ctx's error when something still was at its end.
func (s *Server) await(ctx context.Context) error {
	for s.running.Load() > 0 {
		select {
		case <-s.idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close closes listener and tunnels, lets what is still running be answered until ctx ends, and closes every connection.
// Calls that outlived Drain are to be abandoned before: they have an answer then.
func (s *Server) Close(ctx context.Context) {
	s.draining.Store(true)
	s.mu.Lock()
	listeners := s.listeners
	s.mu.Unlock()
	for _, ln := range listeners {
		_ = ln.Close()
	}
	s.CloseTunnels("*")
	_ = s.await(ctx)
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.end()
	}
}

// Running is the number of requests and tunnels that are being served.
func (s *Server) Running() int64 { return s.running.Load() }

// enter counts a request in; leave counts it out again.
func (s *Server) enter() { s.running.Add(1) }

func (s *Server) leave() {
	if s.running.Add(-1) == 0 && s.draining.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// listener wraps accepted connections into the gate.
type listener struct {
	net.Listener
	s *Server
}

const overloaded = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, closedIsEOF(err)
		}
		c := newConn(l.s, nc)
		if l.s.remember(c) {
			return c, nil
		}
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = nc.Write([]byte(overloaded))
		_ = nc.Close()
	}
}

// closedIsEOF tells fasthttp that a closed listener is an end and no failure.
func closedIsEOF(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return err
}

func (s *Server) remember(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.Conns {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// handle serves one request that gate and fasthttp have read.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	c := ctx.Conn().(*conn)
	s.enter()
	defer s.leave()
	c.gate.taken = true
	c.release()
	r := s.request(c)
	defer s.rescue(ctx, c, r)
	if reply := s.judge(ctx, c, r, false); reply != nil {
		s.answer(ctx, c, reply)
		return
	}
	if c.head.form == authority {
		c.next = func() { s.connect(c, r) }
		ctx.SetConnectionClose()
		return
	}
	r.Body, r.HasBody = takeBody(ctx), c.head.hasBody()
	s.answer(ctx, c, s.Govern(s.base, r))
}

// answer writes the reply and tells fasthttp whether the connection goes on.
func (s *Server) answer(ctx *fasthttp.RequestCtx, c *conn, reply *govern.Reply) {
	if !c.reply(s.base, reply, s.draining.Load()) {
		ctx.SetConnectionClose()
	}
}

// rescue ends a request in which the sidecar itself failed. ctx is nil where fasthttp is not involved any more.
func (s *Server) rescue(ctx *fasthttp.RequestCtx, c *conn, r *govern.Request) {
	x := recover()
	if x == nil {
		return
	}
	s.Log(slog.LevelError, "serving a request made the sidecar panic", "request_id", r.ID, "panic", fmt.Sprint(x), "stack", string(debug.Stack()))
	if ctx != nil {
		ctx.SetConnectionClose()
	}
	if c.answered {
		c.abort()
		return
	}
	c.head.close = true
	c.reply(s.base, s.Refuse(r, "internal", ""), true)
}

// takeBody is the request's body, owned by the caller.
func takeBody(ctx *fasthttp.RequestCtx) []byte {
	body := ctx.Request.Body()
	if len(body) > bodyBuffer {
		return ctx.Request.SwapBody(nil)
	}
	return append([]byte(nil), body...)
}

// misread is called when fasthttp could not read a request. Either the gate has refused it and answered already, or
// the two do not agree.
func (s *Server) misread(ctx *fasthttp.RequestCtx, _ error) {
	c := ctx.Conn().(*conn)
	if c.gate.phase == refused {
		return
	}
	c.gate.phase = refused
	s.refuse(c, malformed("The request was understood in two ways."))
}

// expect answers Expect: 100-continue, which only the refusals that need no body can keep from being sent.
func (s *Server) expect(ctx *fasthttp.RequestCtx) int {
	c := ctx.Conn().(*conn)
	s.enter()
	defer s.leave()
	r := s.request(c)
	defer s.rescue(ctx, c, r)
	if reply := s.judge(ctx, c, r, true); reply != nil {
		s.turnAway(c, reply)
		return reply.Status
	}
	if c.send([]byte("HTTP/1.1 100 Continue\r\n\r\n")) != nil {
		return fasthttp.StatusBadRequest
	}
	return fasthttp.StatusContinue
}

// admit says whether a request whose body is still to come may send it. If not, it was answered: nobody waits for, or
// keeps, the body of a request that is refused whatever it holds.
func (s *Server) admit(c *conn) (admitted bool) {
	s.enter()
	defer s.leave()
	r := s.request(c)
	defer s.rescue(nil, c, r)
	reply := s.judgeHead(c, r)
	if reply == nil && s.RefuseEarly != nil {
		reply = s.RefuseEarly(r)
	}
	if reply == nil {
		return true
	}
	s.turnAway(c, reply)
	return false
}

// turnAway answers a request whose body is not read any more, and leaves the connection to be closed.
func (s *Server) turnAway(c *conn, reply *govern.Reply) {
	c.gate.phase = refused
	c.head.close = true
	c.release()
	if c.reply(s.base, reply, true); c.failed == nil {
		c.linger()
	}
}

// refuse answers a request that the gate stopped, and leaves the connection to be closed.
func (s *Server) refuse(c *conn, f *fault) {
	s.enter()
	defer s.leave()
	r := s.request(c)
	defer func() {
		if x := recover(); x != nil {
			s.Log(slog.LevelError, "refusing a request made the sidecar panic", "request_id", r.ID, "panic", fmt.Sprint(x))
		}
	}()
	s.turnAway(c, s.Refuse(r, f.code, f.detail))
}
