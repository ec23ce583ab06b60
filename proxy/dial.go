package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const (
	connectTimeout = 10 * time.Second       // of one dial, name look-up and TLS included
	headStart      = 250 * time.Millisecond // of one address before the next is tried beside it (RFC 8305 §8)
	viaLookup      = time.Second            // for a name that the corporate proxy could look up as well
)

// Dialer opens connections to the places that calls may reach, and to no others: it resolves a name once, judges every
// address, dials only what was judged and looks at whom it reached. It is immutable; a reload makes a new one.
type Dialer struct {
	resolve map[string]netip.Addr // proxy.resolve, asked before DNS
	allowed []netip.Prefix        // proxy.allow_private
	own     listeners
	via     *corporate // proxy.via; nil: connections are direct
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// NewDialer takes proxy.resolve, allow_private, via and upstream_ca from c. own are the sidecar's listeners as they were
// bound, which no call may reach.
func NewDialer(c Config, own ...netip.AddrPort) (*Dialer, error) {
	d := &Dialer{resolve: make(map[string]netip.Addr, len(c.Resolve)), own: own, lookup: lookupSystem}
	for host, text := range c.Resolve {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("proxy.resolve: %q of %s is not an IP address", text, host)
		}
		d.resolve[plainName(host)] = addr.Unmap()
	}
	for _, text := range c.AllowPrivate {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("proxy.allow_private: %q is not an address range such as 10.0.0.0/8", text)
		}
		d.allowed = append(d.allowed, prefix.Masked())
	}
	roots, err := loadRoots(c.UpstreamCA)
	if err != nil {
		return nil, err
	}
	if d.via, err = newCorporate(c.Via, roots); err != nil {
		return nil, err
	}
	return d, nil
}

// Dial opens a TCP connection to authority (host:port) for an opaque tunnel or another use without a secret of ours.
// t is the tool whose exceptions hold, nil for none. Errors wrap govern.ErrDestination (the place is one that calls may
// not reach), govern.ErrUnreachable, or the context's; none of them means that a byte was sent.
func (d *Dialer) Dial(ctx context.Context, authority string, t *tool.Tool) (net.Conn, error) {
	to, err := d.place(authority, t, false)
	if err != nil {
		return nil, err
	}
	conn, _, err := d.open(ctx, to)
	return conn, err
}

// Addresses are those that calls to the host would be sent to now, without judging them.
func (d *Dialer) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	host = plainName(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if addr, ok := d.resolve[host]; ok {
		return []netip.Addr{addr}, nil
	}
	found, err := d.lookup(ctx, host)
	if err == nil && len(found) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		return nil, unreachable(ctx, "look up "+host, err)
	}
	addrs := make([]netip.Addr, len(found))
	for i, a := range found {
		addrs[i] = a.Unmap()
	}
	return addrs, nil
}

// place is where one call wants to go and what it may reach.
type place struct {
	host   string
	port   uint16
	fixed  bool // the operator said which address: an IP literal, or proxy.resolve
	direct bool // never through the corporate proxy
	rules  rules
}

func (d *Dialer) place(authority string, t *tool.Tool, secretInClear bool) (place, error) {
	host, digits, err := net.SplitHostPort(authority)
	port, bad := strconv.ParseUint(digits, 10, 16)
	if err != nil || bad != nil || port == 0 {
		return place{}, fail(govern.ErrDestination, "%q is not host:port", authority)
	}
	p := place{host: plainName(host), port: uint16(port), rules: rules{clear: secretInClear, allowed: d.allowed, own: d.own.include}}
	_, p.direct = d.resolve[p.host]
	_, notIP := netip.ParseAddr(p.host)
	p.fixed = p.direct || notIP == nil
	p.rules.exempt = p.direct || t != nil && (t.Private || notIP == nil && writtenIn(t, authority))
	if notIP != nil {
		err = judgeName(p.host)
	}
	return p, err
}

// writtenIn says whether the operator wrote this authority into the tool's own url or match.
func writtenIn(t *tool.Tool, authority string) bool {
	if t.Unregistered {
		return false // its target is the agent's
	}
	return t.Target.Authority == authority ||
		slices.ContainsFunc(t.Matches, func(m tool.Match) bool { return m.Authority == authority })
}

// Judge says what can be said without asking DNS about a call of t, nil for none, to the target: an error that wraps
// govern.ErrDestination when it may not go there. known is false when that depends on what its name is looked up as.
func (d *Dialer) Judge(target tool.Target, t *tool.Tool) (known bool, err error) {
	to, err := d.place(target.Authority, t, target.Scheme == "http" && holdsSecret(t))
	if err != nil {
		return true, err
	}
	if !to.fixed {
		return false, nil
	}
	_, err = d.judged(context.Background(), to) // an address or one of proxy.resolve: nobody is asked
	return true, err
}

// open connects to the place. peer is who was reached, the zero value when that is behind a corporate proxy.
func (d *Dialer) open(ctx context.Context, to place) (conn net.Conn, peer netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	addrs, err := d.judged(ctx, to)
	if err != nil {
		return nil, peer, err
	}
	if d.via != nil && !to.direct && (addrs == nil || kindOf(addrs[0].Addr()) == "") {
		if to.rules.clear {
			return nil, peer, fail(govern.ErrDestination, "a credential or signature for %s would pass the corporate proxy in the clear; use https", to.host)
		}
		conn, err = d.via.connect(ctx, d, net.JoinHostPort(to.host, strconv.Itoa(int(to.port))))
		return conn, peer, err
	}
	return race(ctx, addrs)
}

// judged are the addresses of the place that may be dialled, never none without an error. With a corporate proxy a
// name that cannot be looked up here gives nil: whoever resolves it judges it.
func (d *Dialer) judged(ctx context.Context, to place) ([]netip.AddrPort, error) {
	if d.via != nil && !to.fixed {
		bounded, cancel := context.WithTimeout(ctx, viaLookup)
		defer cancel()
		ctx = bounded
	}
	found, err := d.Addresses(ctx, to.host)
	if err != nil {
		if d.via != nil {
			return nil, nil
		}
		return nil, err
	}
	var may []netip.AddrPort
	var refused error
	for _, a := range found {
		ap := netip.AddrPortFrom(a, to.port)
		if err := judge(ap, to.rules); err != nil {
			refused = cmp.Or(refused, err)
			continue
		}
		may = append(may, ap)
	}
	if len(may) == 0 {
		if to.fixed {
			return nil, refused
		}
		return nil, fmt.Errorf("%w (from looking up %s)", refused, to.host)
	}
	return alternate(may), nil
}

// alternate puts the two families in turn, the first one first, so that a broken family costs one head start.
func alternate(all []netip.AddrPort) []netip.AddrPort {
	first := all[0].Addr().Is4()
	var a, b []netip.AddrPort
	for _, x := range all {
		if x.Addr().Is4() == first {
			a = append(a, x)
		} else {
			b = append(b, x)
		}
	}
	mixed := make([]netip.AddrPort, 0, len(all))
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			mixed = append(mixed, a[i])
		}
		if i < len(b) {
			mixed = append(mixed, b[i])
		}
	}
	return mixed
}

// race connects to the first address that answers. Each has a head start before the next one; one that fails at once
// gives it up. It returns when every attempt has ended, so nothing is left behind.
func race(ctx context.Context, to []netip.AddrPort) (net.Conn, netip.AddrPort, error) {
	if len(to) == 1 {
		conn, err := connect(ctx, to[0])
		return conn, to[0], err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		peer netip.AddrPort
		err  error
	}
	results := make(chan result)
	start := func(peer netip.AddrPort) {
		conn, err := connect(ctx, peer)
		results <- result{conn, peer, err}
	}
	var won result
	var first error
	next, running := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next < len(to) && won.conn == nil || running > 0 {
		var tick <-chan time.Time
		if next < len(to) && won.conn == nil {
			tick = timer.C
		}
		select {
		case <-tick:
			go start(to[next])
			next, running = next+1, running+1
			timer.Reset(headStart)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				first = cmp.Or(first, r.err)
				timer.Reset(0)
			case won.conn != nil:
				r.conn.Close()
			default:
				won = r
				cancel()
			}
		}
	}
	if won.conn != nil {
		return won.conn, won.peer, nil
	}
	return nil, netip.AddrPort{}, first
}

// connect opens one connection and checks that its peer is the address that was judged.
func connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, unreachable(ctx, "connect "+to.String(), err)
	}
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || tcp.AddrPort().Addr().Unmap() != to.Addr() && !to.Addr().IsUnspecified() || tcp.AddrPort().Port() != to.Port() {
		conn.Close()
		return nil, fail(govern.ErrDestination, "a connection to %s ended at %s", to, conn.RemoteAddr())
	}
	return conn, nil
}

// unreachable is err in words, as a failure before anything was sent. When ctx was ended by its owner that shows too.
func unreachable(ctx context.Context, what string, err error) error {
	if ctx.Err() == context.Canceled {
		return fail(govern.ErrUnreachable, "%s: %w", what, context.Canceled)
	}
	return fail(govern.ErrUnreachable, "%s: %s", what, words(err))
}

// words says what went wrong without repeating where.
func words(err error) string {
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return "no such host"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}

// plainName is a host as the maps here know it: lower case, without a trailing dot.
func plainName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// system asks /etc/hosts and the name servers; pure Go, so that a static binary and every image behave alike.
var system = net.Resolver{PreferGo: true}

func lookupSystem(ctx context.Context, host string) ([]netip.Addr, error) {
	return system.LookupNetIP(ctx, "ip", host)
}
