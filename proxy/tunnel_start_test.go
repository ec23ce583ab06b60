package proxy

import (
	"io"
	"strings"
	"testing"
	"time"
)

// TestTunnelsThatHideTheirBeginning begin with what some servers skip, so that what stands behind it would not be looked
// at: a TLS alert before the ClientHello, and nothing but empty lines.
func TestTunnelsThatHideTheirBeginning(t *testing.T) {
	f := newFar(t)
	for name, began := range map[string]string{
		"an alert":            "\x15\x03\x01\x00\x02\x01\x5a" + hello(t, "pay.test", 1<<14),
		"a change of ciphers": "\x14\x03\x01\x00\x01\x01" + hello(t, "pay.test", 1<<14),
		"empty lines":         strings.Repeat("\r\n", 40),
	} {
		g := tunnelRig(t, f)
		c, head := g.open("other.test:8443", began)
		if statusOf(head) != 200 {
			t.Fatalf("%s: %q", name, head)
		}
		if out, _ := io.ReadAll(c); len(out) > 0 {
			t.Errorf("%s: %q", name, out)
		}
		g.settled(0, 1)
	}
}

// TestHTTPInATunnelMayComeInPieces reads on until it can tell.
func TestHTTPInATunnelMayComeInPieces(t *testing.T) {
	f := newFar(t)
	for _, first := range []string{"P", "POST", "POST ", "\r\n", "\r\nPO"} {
		whole := "POST /ok HTTP/1.1\r\nHost: other.test:8080\r\nContent-Length: 4\r\n\r\nbody"
		if first[0] == '\r' {
			whole = "\r\n" + whole
		}
		g := tunnelRig(t, f)
		c, head := g.open("other.test:8080", first)
		if statusOf(head) != 200 {
			t.Fatalf("%q: %q", first, head)
		}
		time.Sleep(20 * time.Millisecond) // so that the pieces arrive apart
		_, _ = io.WriteString(c, whole[len(first):])
		_ = c.CloseWrite()
		if out, _ := io.ReadAll(c); statusOf(string(out)) != 200 {
			t.Errorf("%q: %q", first, out)
		}
		if governed, _ := g.seen(); len(governed) != 1 || g.tunnels != 0 {
			t.Errorf("%q: %d governed, %d opaque", first, len(governed), g.tunnels)
		}
	}
}
