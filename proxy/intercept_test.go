package proxy

import (
	"bufio"

	"crypto/tls"
	"crypto/x509"

	"io"
	"net"
	"net/http"

	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
)

// opening is a rig that opens the tunnels of these hosts (default: registered) with a CA of its own.
func openingRig(t *testing.T, hosts HostList, change ...func(*rig, *Config)) *rig {
	t.Helper()
	if hosts == nil {
		hosts = HostList{"registered"}
	}
	ca, err := intercept.Open(intercept.Options{Memory: true, Out: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, append(change, func(g *rig, c *Config) {
		g.ca, c.Intercept = ca, InterceptConfig{Enabled: true, Hosts: hosts}
	})...)
}

// trust is what a client needs to trust the rig's CA.
func (g *rig) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(g.ca.CertificatePEM())
	return &tls.Config{RootCAs: pool}
}

// secure opens a tunnel to target and TLS in it, in which the client names server.
func (g *rig) secure(target, server string) (*tls.Conn, *net.TCPConn) {
	g.t.Helper()
	c, head := g.open(target, "")
	if statusOf(head) != 200 {
		g.t.Fatalf("%s: %q", target, head)
	}
	conf := g.trust()
	conf.ServerName = server
	if server == "" {
		conf.InsecureSkipVerify = true
	}
	return tls.Client(c, conf), c
}

const inner = "POST /v1/charges HTTP/1.1\r\nHost: pay.test\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"

func TestOpenedTunnelsAreGoverned(t *testing.T) {
	g := openingRig(t, nil)
	c, _ := g.secure("pay.test:443", "pay.test")
	if _, err := io.WriteString(c, inner+inner); err != nil { // pipelined
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := range 3 { // and kept alive
		if i == 2 {
			_, _ = io.WriteString(c, inner)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != "fine" || err != nil {
			t.Fatalf("%d %q %v", resp.StatusCode, body, err)
		}
	}
	governed, refused := g.seen()
	if len(governed) != 3 || len(refused) != 0 || g.tunnels != 0 {
		t.Fatalf("governed %d, refused %v, opaque %d", len(governed), refused, g.tunnels)
	}
	for _, r := range governed {
		if r.Route != govern.Inside || r.Target.String() != "https://pay.test:443/v1/charges" || string(r.Body) != `{"a":1}` || r.Agent != "default" {
			t.Fatalf("%+v", r)
		}
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol != "" || state.Version != tls.VersionTLS13 || state.PeerCertificates[0].DNSNames[0] != "pay.test" {
		t.Errorf("%q %x %v", state.NegotiatedProtocol, state.Version, state.PeerCertificates[0].DNSNames)
	}
	c.Close()
	if g.settled(0, 0); len(refused) > 0 {
		t.Error("the end of a tunnel is no refusal")
	}
}
