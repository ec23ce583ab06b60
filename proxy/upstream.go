package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Upstream sends calls to tools. It implements govern.Sender: one attempt over HTTP/1.1 and nothing on its own account,
// no retry, no redirect, no header that the attempt does not hold but Host and Content-Length.
type Upstream struct {
	// Snapshot tells which tools there are, so that calls that name none reach none. Set before the first call, or nil:
	// then nobody looks.
	Snapshot func() *govern.Snapshot

	routes atomic.Pointer[routes]
	tools  toolAddresses
}

// routes are the ways that calls may take under one configuration, and the connections made under it.
type routes struct {
	dialer *Dialer
	tls    *tls.Config
	pool   pool
}

// NewUpstream takes proxy.resolve, allow_private, upstream_ca and via from c. own are the sidecar's listeners as they
// were bound: no call may reach them. Its errors name the configuration's key.
func NewUpstream(c Config, own ...netip.AddrPort) (*Upstream, error) {
	u := &Upstream{}
	return u, u.Reload(c, own...)
}

// Reload makes c hold for the next calls. Connections made before serve those that are running and nothing else. On an
// error nothing has changed.
func (u *Upstream) Reload(c Config, own ...netip.AddrPort) error {
	d, err := NewDialer(c, own...)
	if err != nil {
		return err
	}
	roots, err := loadRoots(c.UpstreamCA)
	if err != nil {
		return err
	}
	base := clientTLS(roots, "")
	base.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	u.use(&routes{dialer: d, tls: base})
	return nil
}

func (u *Upstream) use(r *routes) {
	if old := u.routes.Swap(r); old != nil {
		old.pool.close()
	}
}

// Dialer is the dialer in use; ask again after a reload.
func (u *Upstream) Dialer() *Dialer { return u.routes.Load().dialer }

// Close closes the idle connections, and those in use once their answers have been read.
func (u *Upstream) Close() { u.routes.Load().pool.close() }

// defaultTimeout bounds an attempt that names no timeout.
const defaultTimeout = 2 * time.Minute

// Send implements govern.Sender. ctx bounds the whole exchange, the reading of the answer's body included. The answer's
// body must be read to its end or closed; only then is a.Body no longer looked at.
func (u *Upstream) Send(ctx context.Context, a *govern.Attempt) (*govern.Answer, govern.Phase, error) {
	if err := cmp.Or(ctx.Err(), sendable(a)); err != nil {
		return nil, govern.Queued, err
	}
	r := u.routes.Load()
	x := &exchange{pool: &r.pool, gap: a.Timeout, head: a.Method == "HEAD"}
	if x.gap <= 0 {
		x.gap = defaultTimeout
	}
	until := time.Now().Add(x.gap)
	c, err := r.connect(ctx, a, until)
	if err == nil {
		err = u.admits(ctx, r, c, a)
	}
	if err != nil {
		return nil, govern.Queued, err
	}
	x.begin(ctx, c)
	phase, err := x.write(a)
	if phase == govern.Dialled && c.used {
		// Not one byte was taken, so this is still the same attempt: the connection had died since the look at it.
		x.end(false, err)
		if c, err = r.dial(ctx, a, until); err == nil {
			err = u.admits(ctx, r, c, a)
		}
		if err != nil {
			return nil, govern.Queued, err
		}
		x.again(ctx, c)
		phase, err = x.write(a)
	}
	if err != nil {
		x.end(false, err)
		return nil, phase, err
	}
	return x.answer(phase)
}

// connect gives a connection on which nothing has arrived, an idle one if there is one that this call may use.
func (r *routes) connect(ctx context.Context, a *govern.Attempt, until time.Time) (*link, error) {
	to, now := backendOf(a), time.Now()
	for c := r.pool.take(to, now); c != nil; c = r.pool.take(to, now) {
		if c.SetDeadline(until) == nil && r.admits(c, a) && c.quiet() {
			c.used = true
			return c, nil
		}
		c.close()
	}
	return r.dial(ctx, a, until)
}

func backendOf(a *govern.Attempt) backend {
	return backend{https: a.Target.Scheme == "https", authority: a.Target.Authority}
}

// admits says whether the call may use a connection that another tool's call opened: what one tool may reach, another
// may not.
func (r *routes) admits(c *link, a *govern.Attempt) bool {
	if c.judged == a.Tool {
		return true
	}
	at, err := r.place(a)
	if err != nil || c.peer.IsValid() && judge(c.peer, at.rules) != nil || !c.peer.IsValid() && at.rules.clear {
		return false
	}
	c.judged = a.Tool
	return true
}

func (r *routes) place(a *govern.Attempt) (place, error) {
	return r.dialer.place(a.Target.Authority, a.Tool, a.Target.Scheme == "http" && holdsSecret(a.Tool))
}

// holdsSecret says whether calls to the tool carry what the agent must not see: a signature, injected credentials.
func holdsSecret(t *tool.Tool) bool { return t != nil && (t.Auth != nil || len(t.Headers) > 0) }

// dial opens a connection for the call, TLS included.
func (r *routes) dial(ctx context.Context, a *govern.Attempt, until time.Time) (*link, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	at, err := r.place(a)
	if err != nil {
		return nil, err
	}
	conn, peer, err := r.dialer.open(ctx, at)
	if err != nil {
		return nil, err
	}
	c := newLink(conn, backendOf(a), a.Tool, time.Now())
	c.peer = peer
	if c.to.https {
		config := r.tls.Clone()
		config.ServerName = at.host
		if c.tls, c.wire, err = secure(ctx, conn, config); err != nil {
			return nil, err
		}
		c.Conn = c.tls
	} else if c.raw != nil && !c.quiet() {
		conn.Close()
		return nil, unreachable(ctx, "connect "+a.Target.Authority, errForward)
	}
	_ = c.SetDeadline(until) // should it fail, so will the first write
	return c, nil
}
