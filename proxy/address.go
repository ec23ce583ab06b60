package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// rules say what one call may reach beyond the public addresses.
type rules struct {
	exempt  bool                      // the host is an IP literal in the tool's url, stands in proxy.resolve, or the tool says private: true
	clear   bool                      // a secret would go over http://
	allowed []netip.Prefix            // proxy.allow_private
	own     func(netip.AddrPort) bool // the sidecar's own listeners; nil: none
}

// judge says whether a call may be sent to this address; its error wraps govern.ErrDestination. Metadata services and
// the sidecar's own listeners are refused whatever the rules allow: one hands out the machine's credentials, the other
// would let an agent speak to itself with the sidecar's voice.
func judge(to netip.AddrPort, r rules) error {
	addr := to.Addr().Unmap()
	for _, a := range faces(addr) {
		if metadata[a] {
			return denied(addr, "belongs to a cloud metadata service, which no call may reach")
		}
		if r.own != nil && r.own(netip.AddrPortFrom(a, to.Port())) {
			return denied(addr, fmt.Sprintf("with port %d is a listener of this sidecar", to.Port()))
		}
	}
	within := covered(addr, r.allowed)
	if kind := kindOf(addr); kind != "" && !r.exempt && !within {
		return denied(addr, "is "+kind+"; private: true on the tool, proxy.resolve or proxy.allow_private lets calls reach it")
	}
	if r.clear && !addr.IsLoopback() && !within {
		return denied(addr, "would get the tool's credentials or signature in the clear; use https, or list it in proxy.allow_private")
	}
	return nil
}

func denied(a netip.Addr, why string) error {
	return fail(govern.ErrDestination, "the address %s %s", a, why)
}

// kindOf names what keeps an address from being a public one; empty when nothing does. An IPv6 address is what the
// IPv4 address embedded in it is, because that is where a translator or relay would send it.
func kindOf(a netip.Addr) string {
	a = a.Unmap()
	if a.Zone() != "" {
		return "bound to a network interface"
	}
	for _, face := range faces(a) {
		for _, s := range special {
			if s.prefix.Contains(face) {
				return s.kind
			}
		}
		if face.Is6() && face == a && !global6.Contains(a) && !nat64.Contains(a) {
			return "reserved"
		}
	}
	return ""
}

var (
	global6 = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4  = netip.MustParsePrefix("2002::/16")
	teredo  = netip.MustParsePrefix("2001::/32")
	compat  = netip.MustParsePrefix("::/96")
)

// special are the ranges that are not the public internet, from the IANA special-purpose registries. The first match names it.
var special = ranges(
	"unspecified", "0.0.0.0/32 ::/128",
	"loopback", "127.0.0.0/8 ::1/128",
	"private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10 64:ff9b:1::/48",
	"link-local", "169.254.0.0/16 fe80::/10",
	"carrier-grade NAT", "100.64.0.0/10",
	"multicast", "224.0.0.0/4 ff00::/8",
	"reserved", "0.0.0.0/8 240.0.0.0/4 192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 2001:2::/48 2001:10::/28 2001:20::/28",
	"for documentation", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
)

type addressRange struct {
	kind   string
	prefix netip.Prefix
}

func ranges(pairs ...string) (all []addressRange) {
	for i := 0; i < len(pairs); i += 2 {
		for p := range strings.FieldsSeq(pairs[i+1]) {
			all = append(all, addressRange{pairs[i], netip.MustParsePrefix(p)})
		}
	}
	return all
}

// metadata are the addresses at which clouds hand credentials to whoever asks.
var metadata = addresses(
	"169.254.169.254 fd00:ec2::254", // AWS, Azure, Google, Oracle, DigitalOcean, OpenStack
	"169.254.170.2 169.254.170.23",  // AWS task and pod credentials
	"fd00:ec2::23 fd20:ce::254",     // AWS pod credentials, Google over IPv6
	"100.100.100.200 168.63.129.16", // Alibaba, Azure's host
	"169.254.0.23 192.0.0.192",      // Tencent, Oracle classic
	"169.254.42.42 fd00:42::42",     // Scaleway
)

func addresses(lines ...string) map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, l := range lines {
		for a := range strings.FieldsSeq(l) {
			set[netip.MustParseAddr(a)] = true
		}
	}
	return set
}

// metadataHosts are names of such services; they matter where a corporate proxy, not this process, resolves the name.
var metadataHosts = []string{
	"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
	"metadata.tencentyun.com", "metadata.platformequinix.com", "api.metadata.cloud.ibm.com",
}

// judgeName refuses host names that no address can make right: those of metadata services, and names whose last label
// is a number, which some resolvers read as an IPv4 address in octal, hexadecimal or short form.
func judgeName(host string) error {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if slices.Contains(metadataHosts, name) {
		return fail(govern.ErrDestination, "%s is a cloud metadata service, which no call may reach", name)
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return fail(govern.ErrDestination, "%q is neither a host name nor an IP address in its usual form", host)
	}
	return nil
}

// faces are the address itself and the IPv4 addresses embedded in it: mapped and compatible, NAT64 (RFC 6052), 6to4
// (RFC 3056), Teredo's server and client (RFC 4380) and ISATAP (RFC 5214).
func faces(a netip.Addr) []netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return []netip.Addr{a}
	}
	b, bare := a.As16(), a.WithZone("")
	v4 := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	all := []netip.Addr{bare}
	switch {
	case nat64.Contains(bare), compat.Contains(bare) && !a.IsUnspecified() && !a.IsLoopback():
		all = append(all, v4(12))
	case sixTo4.Contains(bare):
		all = append(all, v4(2))
	case teredo.Contains(bare):
		all = append(all, v4(4), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		all = append(all, v4(12))
	}
	return all
}

// covered says whether the operator's ranges let this address in. A range covers an IPv6 address also by the IPv4
// addresses in it, when it covers every one of them that needs it.
func covered(a netip.Addr, allowed []netip.Prefix) bool {
	in := func(x netip.Addr) bool {
		return slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(x) })
	}
	a = a.WithZone("")
	if in(a) {
		return true
	}
	embedded := faces(a)[1:]
	for _, e := range embedded {
		if kindOf(e) != "" && !in(e) {
			return false
		}
	}
	return slices.ContainsFunc(embedded, in)
}

// listeners are the sidecar's own addresses as they were bound.
type listeners []netip.AddrPort

// include says whether a connection to this address would end at one of them.
func (l listeners) include(to netip.AddrPort) bool {
	a := to.Addr().Unmap()
	for _, own := range l {
		bound := own.Addr().Unmap()
		if own.Port() != to.Port() {
			continue
		}
		// The kernel takes the unspecified address for this machine.
		if bound == a || a.IsUnspecified() || bound.IsUnspecified() && (a.IsLoopback() || isLocal(a)) {
			return true
		}
	}
	return false
}

// isLocal says whether the address is one of this machine's interfaces.
func isLocal(a netip.Addr) bool {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return true // not known: the port is one of ours, so keep away from it
	}
	for _, i := range interfaces {
		if n, ok := i.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == a.WithZone("") {
				return true
			}
		}
	}
	return false
}
