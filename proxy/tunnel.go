package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// tunnelStart is how long an agent has to send the first bytes that say what its tunnel carries.
const tunnelStart = 30 * time.Second

// way is what becomes of a tunnel.
type way uint8

const (
	opaque    way = iota // bytes pass unread, but for the first
	forwarded            // opaque, to a host that the operator named in passthrough
	clearOnly            // to a tool's host: HTTP in the clear is read and governed, all else is refused
	opened               // HTTP is read and governed, in the clear and over TLS; all else is refused
)

// reads says that the tunnel ends here: there is no far end, each request in it is sent by itself.
func (w way) reads() bool { return w == clearOnly || w == opened }

// connect serves a CONNECT. It is routed by its target alone: clients send it without a Host.
func (s *Server) connect(c *conn, r *govern.Request) {
	s.enter()
	defer s.leave()
	defer s.rescue(nil, c, r)
	c.head.close = true
	way, refusal := s.judgeTunnel(s.base, r)
	if refusal != nil {
		s.deny(c, r, refusal)
		return
	}
	t := &tunnel{s: s, c: c, r: r, way: way}
	if !way.reads() {
		if refusal := t.dial(s.base); refusal != nil {
			s.deny(c, r, refusal)
			return
		}
		defer t.far.Close()
	}
	s.track(t)
	defer s.untrack(t)
	switch { // it may have been switched off, or have left, before the tunnel could be found
	case s.Disabled(r.Agent):
		s.deny(c, r, s.Refuse(r, "agent_disabled", ""))
		return
	case !s.stays(c):
		s.deny(c, r, s.Refuse(r, "proxy_auth_required", ""))
		return
	}
	c.answered = true
	if c.send([]byte("HTTP/1.1 200 Connection established\r\nX-Request-Id: "+r.ID+"\r\n\r\n")) == nil {
		t.run()
	}
}

// deny answers a CONNECT with a refusal. No client shows its body, so the log says it too.
func (s *Server) deny(c *conn, r *govern.Request, refusal *govern.Reply) {
	s.tell(r, refusal)
	c.reply(s.base, refusal, true)
}

// refuse ends a tunnel that was let through. Nobody can be told but the log and the audit.
func (t *tunnel) refuse(code, detail string) { t.s.tell(t.r, t.s.Refuse(t.r, code, detail)) }

func (s *Server) tell(r *govern.Request, refusal *govern.Reply) {
	if refusal.Refusal != nil && s.told.may(time.Now()) {
		s.Log(slog.LevelWarn, "tunnel refused", "agent", r.Agent, "target", r.Target.Authority, "code", refusal.Refusal.Code, "detail", refusal.Refusal.Detail, "request_id", r.ID)
	}
}

// sparing keeps an agent from filling the log: ten lines a second, the rest is in the audit only.
type sparing struct {
	mu     sync.Mutex
	second int64 // guarded by mu
	lines  int   // guarded by mu; in that second
}

func (p *sparing) may(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Unix() != p.second {
		p.second, p.lines = now.Unix(), 0
	}
	p.lines++
	return p.lines <= 10
}

// judgeTunnel decides by name. A tool's host is never tunnelled to: that would be the way around the policy. Nor is a
// tunnel opened to a tool's address under which no tool is registered.
func (s *Server) judgeTunnel(ctx context.Context, r *govern.Request) (way, *govern.Reply) {
	if s.Disabled(r.Agent) {
		return 0, s.Refuse(r, "agent_disabled", "")
	}
	snapshot := s.Snapshot()
	tls, httpsOnly := snapshot.Registry.ToolHost("https", r.Target.Authority)
	clear, _ := snapshot.Registry.ToolHost("http", r.Target.Authority)
	switch {
	case s.Probe != nil && bareHost(r.Target.Authority) == ProbeHost:
		return s.probeTunnel(), nil
	case s.opens(snapshot, r.Target.Authority):
		if !tls && isAddress(r.Target.Authority) && s.isToolAddress(ctx, nil, r.Target.Authority) {
			return 0, s.refuseTunnel(r, "by its address")
		}
		return opened, nil
	case tls && httpsOnly:
		return 0, s.refuseTunnel(r, "by name")
	case tls || clear:
		return clearOnly, nil
	case snapshot.Passthrough != nil && snapshot.Passthrough(bareHost(r.Target.Authority)):
		return forwarded, nil
	case s.Stale != nil && s.Stale() != nil: // whose host it is is not known
		return 0, s.Refuse(r, "policy_stale", "The policies are too old to open tunnels, or none were read yet.")
	case snapshot.Unregistered == govern.Deny:
		return 0, s.Refuse(r, "tool_not_registered", "No tool is registered on "+r.Target.Authority+"; an operator can register it or list it in proxy.passthrough.")
	}
	return opaque, nil
}

func (s *Server) refuseTunnel(r *govern.Request, how string) *govern.Reply {
	return s.Refuse(r, "destination_denied", toToolHost(how))
}

func toToolHost(how string) string {
	return "The tunnel leads to a tool's host (" + how + "). Call the tool by POST /tools/{name}, or through this proxy with an http:// URL, which is sent over TLS; or let proxy.intercept open its tunnels."
}

// dial opens the far end and refuses it when it is a tool's host under another name.
func (t *tunnel) dial(ctx context.Context) *govern.Reply {
	far, err := t.s.Dial(ctx, t.r.Target.Authority)
	switch {
	case errors.Is(err, govern.ErrDestination):
		return t.s.Refuse(t.r, "destination_denied", err.Error())
	case err != nil:
		return t.s.Refuse(t.r, "upstream_unreachable", err.Error())
	}
	t.far = far
	if t.way == opaque && t.s.isToolAddress(ctx, far, t.r.Target.Authority) {
		far.Close()
		return t.s.refuseTunnel(t.r, "by its address")
	}
	return nil
}

// isToolAddress says whether the connection's peer (of far, if there is one), or any address of the tunnel's target, is
// one that a tool on the same port has now.
func (s *Server) isToolAddress(ctx context.Context, far net.Conn, target string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	host, port, _ := net.SplitHostPort(target)
	mine, _ := s.Addresses(ctx, host)
	if far != nil {
		if peer, ok := far.RemoteAddr().(*net.TCPAddr); ok && strconv.Itoa(peer.Port) == port {
			mine = append(mine, peer.AddrPort().Addr().Unmap())
		}
	}
	registry := s.Snapshot().Registry
	for _, name := range registry.HostNames() {
		if tls, _ := registry.ToolHost("https", name+":"+port); !tls {
			continue
		}
		theirs, _ := s.Addresses(ctx, trimBrackets(name))
		if overlap(mine, theirs) {
			return true
		}
	}
	return false
}

func overlap(a, b []netip.Addr) bool {
	for _, x := range a {
		for _, y := range b {
			if samePlace(x, y) {
				return true
			}
		}
	}
	return false
}

func trimBrackets(host string) string {
	if len(host) > 2 && host[0] == '[' {
		return host[1 : len(host)-1]
	}
	return host
}

// tunnel is one CONNECT that was let through.
type tunnel struct {
	s    *Server
	c    *conn // the agent
	r    *govern.Request
	way  way
	far  net.Conn     // nil where the way reads
	last atomic.Int64 // when a byte last passed, Unix nanoseconds

	back     sync.WaitGroup // the goroutine that copies what the far end says
	diverted atomic.Bool    // the far end is not needed after all: its end is not the tunnel's
}

func (s *Server) track(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels[t] = struct{}{}
}

func (s *Server) untrack(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tunnels, t)
}

// CloseTunnels ends the agent's tunnels at once, everyone's for "*". The kill switch calls it.
func (s *Server) CloseTunnels(agent string) {
	s.closeTunnels(func(t *tunnel) bool { return agent == "*" || agent == t.r.Agent })
}

// CloseDeparted ends the tunnels of guests who are gone: a child of `run` that lives on does not keep its way out.
func (s *Server) CloseDeparted() {
	s.closeTunnels(func(t *tunnel) bool { return !s.stays(t.c) })
}

func (s *Server) closeTunnels(which func(*tunnel) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.tunnels {
		if which(t) {
			_ = t.c.Conn.Close()
			if t.far != nil {
				_ = t.far.Close()
			}
		}
	}
}

// run reads what the tunnel carries and serves it. A far end that speaks first is heard meanwhile.
func (t *tunnel) run() {
	if t.way.reads() {
		t.runInside()
		return
	}
	t.last.Store(time.Now().UnixNano())
	t.back.Go(func() { t.pump(t.c.Conn, t.far, t.far.Read) })
	t.runOut()
	t.back.Wait()
}

// runInside governs the HTTP that the tunnel carries and refuses anything else. While it waits nothing is running that a
// shutdown had to wait for.
func (t *tunnel) runInside() {
	t.s.leave()
	defer t.s.enter()
	_ = t.c.SetReadDeadline(time.Now().Add(tunnelStart))
	t.c.readBy = time.Time{}
	first := make([]byte, 1)
	n, _ := t.c.readRaw(first)
	switch {
	case n == 0:
		t.s.Unused(t.r)
	case first[0] == recordHandshake && t.way == opened:
		t.insideTLS(first)
	case t.way == opened && (first[0] < 'A' || first[0] > 'Z'):
		t.refuse("not_supported", "The tunnel carries neither TLS nor HTTP/1.1, which is what proxy.intercept reads. An operator can list the host in proxy.passthrough, or name fewer in proxy.intercept.hosts.")
	case first[0] < 'A' || first[0] > 'Z':
		t.refuse("destination_denied", toToolHost("and carries TLS or another protocol than HTTP"))
	default:
		t.inside(t.c.Conn, first)
	}
}

// inside serves the HTTP requests that the tunnel carries over this connection, governed like any other. began are their
// first bytes. The agent is the CONNECT's.
func (t *tunnel) inside(over net.Conn, began []byte) {
	c := newConn(t.s, over)
	c.inside, c.agent, c.run, c.guest, c.under = t.r.Target.Authority, t.r.Agent, t.r.RunID, t.c.guest, t.c.Conn
	if over != t.c.Conn {
		c.scheme = "https"
	} else {
		began = append(began, t.c.rest()...)
	}
	c.w = copy(c.buf, began)
	if c.w < len(began) {
		c.buf = began
		c.w = len(began)
	}
	t.s.untrack(t) // each request asks the kill switch by itself
	_ = t.s.inner.ServeConn(c)
	if !c.asked {
		t.s.Unused(t.r)
	}
}

// runOut passes what the agent sends, once its first bytes were judged.
func (t *tunnel) runOut() {
	began, refusal := t.judgeStart()
	switch {
	case refusal != "":
		t.refuse("destination_denied", toToolHost(refusal))
		t.close()
		return
	case len(began) > 0 && isHTTP(began):
		t.diverted.Store(true)
		_ = t.far.Close()
		t.back.Wait()
		t.s.leave()
		defer t.s.enter()
		t.inside(t.c.Conn, began)
		return
	}
	t.s.Tunnelled(t.r)
	if len(began) > 0 && t.write(t.far, began) != nil {
		t.close()
		return
	}
	t.pump(t.far, t.c.Conn, t.c.readRaw)
}

func (t *tunnel) close() {
	if t.diverted.Load() {
		return
	}
	_ = t.c.Conn.Close()
	_ = t.far.Close()
}

// buffers are what busy tunnels copy through. A waiting one holds a few hundred bytes.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pump copies one direction. Its end is passed on; a tunnel in which no byte passed either way for tunnel_idle ends.
func (t *tunnel) pump(to, from net.Conn, read func([]byte) (int, error)) {
	var small [512]byte
	for {
		last := time.Unix(0, t.last.Load())
		_ = from.SetReadDeadline(last.Add(t.s.settings.Load().tunnelIdle))
		n, err := read(small[:])
		if n > 0 && t.write(to, small[:n]) != nil {
			t.close()
			return
		}
		if n == len(small) && err == nil {
			err = t.pumpMuch(to, read)
		}
		switch {
		case err == nil:
		case timedOut(err) && t.last.Load() != last.UnixNano():
		case isEOF(err):
			if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
			t.close()
			return
		default:
			t.close()
			return
		}
	}
}

// pumpMuch copies through a large buffer, which it gives back before it would wait.
func (t *tunnel) pumpMuch(to net.Conn, read func([]byte) (int, error)) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := read(buf[:])
		if n > 0 {
			if failed := t.write(to, buf[:n]); failed != nil {
				return failed
			}
		}
		if err != nil || n < len(buf) {
			return err
		}
	}
}

func (t *tunnel) write(to net.Conn, p []byte) error {
	now := time.Now()
	t.last.Store(now.UnixNano())
	_ = to.SetWriteDeadline(now.Add(t.s.settings.Load().tunnelIdle))
	_, err := to.Write(p)
	return err
}
