package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// handshakeTimeout bounds a TLS handshake from the ClientHello's first byte to its end.
const handshakeTimeout = 10 * time.Second

// opening says whose tunnels are opened (proxy.intercept.hosts). It is immutable.
type opening struct {
	all   bool            // but passthrough
	hosts map[string]bool // without port; nil: the hosts that a tool names as https
}

func newOpening(list HostList) *opening {
	switch {
	case slices.Equal(list, HostList{"all"}):
		return &opening{all: true}
	case slices.Equal(list, HostList{"registered"}):
		return &opening{}
	}
	o := &opening{hosts: map[string]bool{}}
	for _, host := range lowered(list) {
		o.hosts[plainName(host)] = true
	}
	return o
}

// opens says whether a tunnel to this authority is opened.
func (s *Server) opens(snapshot *govern.Snapshot, authority string) bool {
	o := s.settings.Load().opening
	if o == nil {
		return false
	}
	is, https := snapshot.Registry.ToolHost("https", authority)
	switch {
	case o.hosts != nil:
		return o.hosts[bareHost(authority)]
	case o.all:
		return is || snapshot.Passthrough == nil || !snapshot.Passthrough(bareHost(authority))
	}
	return is && https
}

// isGoverned says whether calls to the host would be governed, so that no opaque tunnel may ask for it by name. Of the
// tunnel's authority the port counts.
func (s *Server) isGoverned(host, tunnel string) bool {
	snapshot := s.Snapshot()
	if slices.Contains(snapshot.Registry.HostNames(), host) {
		return true
	}
	return host != bareHost(tunnel) && s.opens(snapshot, host+tunnel[len(bareHost(tunnel)):])
}

// isAddress says whether an authority's host is an IP address.
func isAddress(authority string) bool {
	_, err := netip.ParseAddr(trimBrackets(bareHost(authority)))
	return err == nil
}

// tlsConfig is the server's side of every opened tunnel. Clients offer h2 too and take http/1.1, which is what the gate
// reads. The hop does not leave the machine, so it does without the post-quantum key exchange and its cost.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS12,
		NextProtos:       []string{"http/1.1"},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if c := hello.Conn.(*tunnelConn); !c.names(hello.ServerName) {
				return unnamed, nil
			}
			return nil, nil
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.Certificate(hello.Conn.(*tunnelConn).host)
		},
	}
}

// unnamed ends a handshake with the alert unrecognized_name, also one that would resume a session.
var unnamed = &tls.Config{
	MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
	GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
}

// tunnelConn is what TLS inside a tunnel runs over.
type tunnelConn struct {
	net.Conn
	host    string // of the CONNECT's target, without brackets
	began   []byte // what was read already
	differs bool   // the ClientHello names another host
}

func (c *tunnelConn) Read(p []byte) (int, error) {
	if len(c.began) > 0 {
		n := copy(p, c.began)
		if c.began = c.began[n:]; len(c.began) == 0 {
			c.began = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// names says whether the server name of a ClientHello is the tunnel's host. Without one the CONNECT's counts.
func (c *tunnelConn) names(server string) bool {
	c.differs = server != "" && plainName(server) != c.host
	return !c.differs
}

// insideTLS ends the agent's TLS here and serves the requests in it. first was read of its ClientHello.
func (t *tunnel) insideTLS(first []byte) {
	under := &tunnelConn{Conn: t.c.Conn, host: trimBrackets(bareHost(t.r.Target.Authority))}
	under.began = append(first, t.c.rest()...)
	over := tls.Server(under, t.s.tls)
	_ = t.c.SetDeadline(time.Now().Add(handshakeTimeout))
	err := over.Handshake()
	switch {
	case under.differs:
		t.refuse("destination_denied", "The server name in the ClientHello differs from the CONNECT's target "+t.r.Target.Authority+".")
	case err != nil:
		t.refuse("bad_request", "The TLS handshake inside the tunnel failed: "+handshakeFault(err))
	default:
		_ = t.c.SetDeadline(time.Time{})
		t.inside(over, nil)
		return
	}
	_ = t.c.Conn.Close()
}

// handshakeFault says for people why a client gave up, or was given up.
func handshakeFault(err error) string {
	text := err.Error()
	switch {
	case timedOut(err):
		return "it did not end in time."
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the client hung up; clients that do not trust the local CA do so (oo-sidecar ca path --bundle says what to point them to)."
	case strings.Contains(text, "remote error: ") && strings.Contains(text, "certificate"):
		return "the client does not trust the local CA (" + text + "); oo-sidecar ca path --bundle says what to point it to."
	case strings.Contains(text, "application protocol"):
		return "the client does not speak http/1.1 (" + text + ")."
	}
	return text + "."
}
