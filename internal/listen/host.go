package listen

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Hosts says under which names a listener may be asked for, beside localhost and the address a request came in on.
type Hosts struct {
	Names []string // further names, without port
	AnyIP bool     // any IP literal: rebinding needs a name
}

// Guard serves next to requests whose Host is the listener's and answers 403 to all others. Ports are not compared,
// since a forwarded port is a different one, and a page cannot choose the name it is loaded from.
func (h Hosts) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !h.allow(r.Host, local) {
			http.Error(w, "this listener does not answer to that Host; ask for localhost or its address", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h Hosts) allow(host string, local net.Addr) bool {
	name := strings.ToLower(strings.TrimSuffix(withoutPort(host), "."))
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return ip.Zone() == "" && (h.AnyIP || sameIP(ip, local))
	}
	return name == "localhost" || name != "" && slices.ContainsFunc(h.Names, func(n string) bool { return strings.EqualFold(n, name) })
}

func withoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

func sameIP(ip netip.Addr, local net.Addr) bool {
	if local == nil {
		return false
	}
	own, err := netip.ParseAddrPort(local.String())
	return err == nil && own.Addr().Unmap().WithZone("") == ip.Unmap()
}
