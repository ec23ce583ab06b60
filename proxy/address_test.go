package proxy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

func TestJudge(t *testing.T) {
	for _, c := range []struct{ addr, why string }{
		{"93.184.216.34", ""},
		{"2606:2800:220:1:248:1893:25c8:1946", ""},
		{"64:ff9b::8.8.8.8", ""},
		{"2002:808:808::1", ""}, // 6to4 of 8.8.8.8

		{"127.0.0.1", "is loopback"},
		{"127.8.8.8", "is loopback"},
		{"::1", "is loopback"},
		{"10.1.2.3", "is private"},
		{"172.31.255.255", "is private"},
		{"172.32.0.1", ""},
		{"192.168.0.1", "is private"},
		{"fc00::1", "is private"},
		{"fdff::1", "is private"},
		{"fec0::1", "is private"}, // site-local
		{"169.254.1.1", "is link-local"},
		{"fe80::1", "is link-local"},
		{"fe80::1%eth0", "network interface"},
		{"2606:2800::1%eth0", "network interface"},
		{"100.64.0.1", "carrier-grade NAT"},
		{"100.128.0.1", ""},
		{"224.0.0.1", "is multicast"},
		{"ff02::1", "is multicast"},
		{"0.0.0.0", "is unspecified"},
		{"::", "is unspecified"},
		{"0.1.2.3", "is reserved"},
		{"240.0.0.1", "is reserved"},
		{"255.255.255.255", "is reserved"},
		{"192.0.0.1", "is reserved"},
		{"198.19.0.1", "is reserved"},
		{"192.0.2.1", "documentation"},
		{"2001:db8::1", "documentation"},
		{"100::1", "is reserved"},
		{"4000::1", "is reserved"},

		{"::ffff:127.0.0.1", "is loopback"},
		{"::ffff:10.0.0.1", "is private"},
		{"::ffff:93.184.216.34", ""},
		{"::127.0.0.1", "is reserved"}, // IPv4-compatible
		{"64:ff9b::10.0.0.1", "is private"},
		{"64:ff9b::127.0.0.1", "is loopback"},
		{"64:ff9b:1::808:808", "is private"}, // local-use NAT64: nobody knows where it ends
		{"2002:7f00:1::1", "is loopback"},
		{"2002:c0a8:1::1", "is private"},
		{"2001:0:a00:1::1", "is private"},         // Teredo server 10.0.0.1
		{"2001:0:808:808::80ff:fffe", "loopback"}, // Teredo client 127.0.0.1, inverted
		{"2606:2800::200:5efe:7f00:1", "is loopback"},
		{"2606:2800::5efe:a00:1", "is private"},

		{"169.254.169.254", "metadata"},
		{"::ffff:169.254.169.254", "metadata"},
		{"64:ff9b::169.254.169.254", "metadata"},
		{"2002:a9fe:a9fe::", "metadata"},
		{"fd00:ec2::254", "metadata"},
		{"100.100.100.200", "metadata"},
		{"168.63.129.16", "metadata"},
		{"169.254.170.2", "metadata"},
	} {
		err := judge(netip.AddrPortFrom(netip.MustParseAddr(c.addr), 80), rules{})
		checkJudged(t, c.addr, err, c.why)
	}
}

func checkJudged(t *testing.T, what string, err error, why string) {
	t.Helper()
	switch {
	case why == "" && err != nil:
		t.Errorf("%s: refused: %v", what, err)
	case why != "" && err == nil:
		t.Errorf("%s: allowed, want a refusal that says %q", what, why)
	case why != "" && (!errors.Is(err, govern.ErrDestination) || !strings.Contains(err.Error(), why)):
		t.Errorf("%s: %v, want a refusal that says %q", what, err, why)
	}
}

func TestJudgeExceptions(t *testing.T) {
	prefixes := func(s ...string) (all []netip.Prefix) {
		for _, p := range s {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	own := listeners{netip.MustParseAddrPort("127.0.0.1:4780"), netip.MustParseAddrPort("[::]:4782")}.include
	everything := prefixes("0.0.0.0/0", "::/0")
	for _, c := range []struct {
		to    string
		rules rules
		why   string
	}{
		{"10.0.0.1:80", rules{exempt: true}, ""},
		{"10.0.0.1:80", rules{allowed: prefixes("10.0.0.0/8")}, ""},
		{"10.0.0.1:80", rules{allowed: prefixes("192.168.0.0/16")}, "is private"},
		{"[::ffff:10.0.0.1]:80", rules{allowed: prefixes("10.0.0.0/8")}, ""},
		{"[64:ff9b::10.0.0.1]:80", rules{allowed: prefixes("10.0.0.0/8")}, ""},
		{"[64:ff9b::10.0.0.1]:80", rules{allowed: prefixes("127.0.0.0/8")}, "is private"},
		{"[2001:0:a00:1::80ff:fffe]:80", rules{allowed: prefixes("10.0.0.0/8")}, "is private"}, // the client in it is loopback
		{"[fe80::1]:80", rules{allowed: everything}, ""},

		{"169.254.169.254:80", rules{exempt: true, allowed: everything}, "metadata"},
		{"[::ffff:169.254.169.254]:80", rules{exempt: true, allowed: everything}, "metadata"},
		{"[fd00:ec2::254]:80", rules{exempt: true, allowed: everything}, "metadata"},

		{"127.0.0.1:4780", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"[::ffff:127.0.0.1]:4780", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"[64:ff9b::127.0.0.1]:4780", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"0.0.0.0:4780", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"[::]:4780", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"127.0.0.1:4782", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"[::1]:4782", rules{exempt: true, allowed: everything, own: own}, "listener of this sidecar"},
		{"127.0.0.1:4781", rules{exempt: true, own: own}, ""},
		{"93.184.216.34:4782", rules{own: own}, ""},

		{"93.184.216.34:80", rules{clear: true}, "in the clear"},
		{"10.0.0.1:80", rules{clear: true, exempt: true}, "in the clear"},
		{"10.0.0.1:80", rules{clear: true, allowed: prefixes("10.0.0.0/8")}, ""},
		{"127.0.0.1:80", rules{clear: true, exempt: true}, ""},
		{"127.0.0.1:80", rules{clear: true}, "is loopback"},
	} {
		checkJudged(t, c.to, judge(netip.MustParseAddrPort(c.to), c.rules), c.why)
	}
}

// Every address of this machine's interfaces is the sidecar's own when a listener is bound to all of them.
func TestListenersOnEveryInterface(t *testing.T) {
	own := listeners{netip.MustParseAddrPort("0.0.0.0:4782")}
	for _, a := range []string{"127.0.0.1", "127.0.0.9", "0.0.0.0", "::1"} {
		if !own.include(netip.AddrPortFrom(netip.MustParseAddr(a), 4782)) {
			t.Errorf("%s: not taken for our own", a)
		}
	}
	if own.include(netip.MustParseAddrPort("8.8.8.8:4782")) {
		t.Error("8.8.8.8: taken for our own")
	}
}

func TestJudgeName(t *testing.T) {
	for host, refused := range map[string]bool{
		"api.stripe.com": false, "localhost": false, "tool": false, "3f2a1b9c0d1e": false, "0xyz.example": false,
		"metadata.google.internal": true, "Metadata.Google.Internal.": true, "metadata.goog": true,
		"127.1": true, "2130706433": true, "0x7f.1": true, "0x7f000001": true, "0177.0.0.01": true, "1.2.3.4.5": true, "a.0x": true, "": true, "a..": true,
	} {
		if err := judgeName(host); (err != nil) != refused || err != nil && !errors.Is(err, govern.ErrDestination) {
			t.Errorf("%q: %v, want refused: %v", host, err, refused)
		}
	}
}

// What reaches an address by way of another spelling is refused when the address is.
func FuzzJudgeEmbedded(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{8, 8, 8, 8})
	f.Add([]byte{169, 254, 169, 254})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 4 {
			t.Skip("no address of four bytes")
		}
		v4 := netip.AddrFrom4([4]byte(b))
		refused := judge(netip.AddrPortFrom(v4, 1), rules{}) != nil
		mapped := netip.AddrFrom16(v4.As16())
		nat := netip.MustParseAddr("64:ff9b::").As16()
		copy(nat[12:], b)
		to4 := netip.MustParseAddr("2002::1").As16()
		copy(to4[2:], b)
		for _, a := range []netip.Addr{mapped, netip.AddrFrom16(nat), netip.AddrFrom16(to4)} {
			if got := judge(netip.AddrPortFrom(a, 1), rules{}) != nil; got != refused {
				t.Errorf("%s: refused %v, but %s: %v", a, got, v4, refused)
			}
		}
	})
}
