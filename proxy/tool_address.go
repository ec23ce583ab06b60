package proxy

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const (
	toolAddressAge    = 2 * time.Second // how long a look-up of the tools' hosts on one port holds
	toolAddressLookup = 5 * time.Second // of all tools' hosts on one port
)

// toolAddresses are those that the tools' hosts have now, by port. A call that names no tool must not reach one under
// another name: that would be the way around the policy.
type toolAddresses struct {
	mu     sync.Mutex
	of     *tool.Registry // guarded by mu
	byPort map[uint16]atPort
}

type atPort struct {
	addrs []netip.Addr
	until time.Time
}

// guarded says whether the attempt could reach a tool under another name than its own. An https URL by name could not:
// this sidecar tells the server that name and checks that its certificate holds for it.
func guarded(s *govern.Snapshot, a *govern.Attempt) bool {
	if s == nil || a.Tool != nil && !a.Tool.Unregistered || len(s.Registry.HostNames()) == 0 {
		return false
	}
	if a.Target.Scheme == "https" && !isAddress(a.Target.Authority) {
		return false
	}
	if named, _ := s.Registry.ToolHost(a.Target.Scheme, a.Target.Authority); named {
		return false
	}
	return s.Passthrough == nil || !s.Passthrough(bareHost(a.Target.Authority))
}

// hold says whether a tool is served at peer. Hosts that cannot be looked up count by the addresses they had.
func (t *toolAddresses) hold(ctx context.Context, r *tool.Registry, d *Dialer, peer netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of != r {
		t.of, t.byPort = r, map[uint16]atPort{}
	}
	known := t.byPort[peer.Port()]
	if time.Now().After(known.until) {
		known = atPort{lookUpTools(ctx, r, d, peer.Port(), known.addrs), time.Now().Add(toolAddressAge)}
		t.byPort[peer.Port()] = known
	}
	for _, a := range known.addrs {
		if samePlace(a, peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

func lookUpTools(ctx context.Context, r *tool.Registry, d *Dialer, port uint16, before []netip.Addr) (all []netip.Addr) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), toolAddressLookup) // it is for the next calls too
	defer cancel()
	for _, host := range r.HostNames() {
		if on, _ := r.ToolHost("https", host+":"+strconv.Itoa(int(port))); !on {
			continue
		}
		found, err := d.Addresses(ctx, trimBrackets(host))
		if err != nil {
			found = before
		}
		all = append(all, found...)
	}
	return all
}

// samePlace says whether two addresses are one, or both this machine's: a server on all of them is reached by each.
func samePlace(a, b netip.Addr) bool {
	return a == b || (a.IsLoopback() || a.IsUnspecified()) && (b.IsLoopback() || isLocal(b)) || b.IsLoopback() && isLocal(a)
}

// admits refuses, and closes, a connection by which a call that names no tool would reach one. Not a byte of the call
// has been written to it.
func (u *Upstream) admits(ctx context.Context, r *routes, c *link, a *govern.Attempt) error {
	if u.Snapshot == nil || !c.peer.IsValid() {
		return nil
	}
	s := u.Snapshot()
	if !guarded(s, a) || !u.tools.hold(ctx, s.Registry, r.dialer, c.peer) {
		return nil
	}
	c.close()
	return fail(govern.ErrDestination, "%s leads to a tool's host (by its address); call the tool by its own name, or list this host in proxy.passthrough", a.Target.Authority)
}
