package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
)

// openingRig is a rig that opens the tunnels of these hosts (nil: of registered ones) with a CA of its own.
func openingRig(t *testing.T, hosts HostList, change ...func(*rig, *Config)) *rig {
	t.Helper()
	if hosts == nil {
		hosts = HostList{"registered"}
	}
	ca, err := intercept.Open(intercept.Options{Memory: true, Out: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	first := func(g *rig, c *Config) {
		g.ca, c.Intercept = ca, InterceptConfig{Enabled: true, Hosts: hosts}
	}
	return newRig(t, append([]func(*rig, *Config){first}, change...)...)
}

// trust is what a client needs to trust the rig's CA.
func (g *rig) trust(server string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(g.ca.CertificatePEM())
	return &tls.Config{RootCAs: pool, ServerName: server}
}

// secure opens a tunnel to target and TLS in it.
func (g *rig) secure(target string, conf *tls.Config) (*tls.Conn, *net.TCPConn) {
	g.t.Helper()
	c, head := g.open(target, "")
	if statusOf(head) != 200 {
		g.t.Fatalf("%s: %q", target, head)
	}
	return tls.Client(c, conf), c
}

const inner = "POST /v1/charges HTTP/1.1\r\nHost: pay.test\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"

func TestOpenedTunnelsAreGoverned(t *testing.T) {
	g := openingRig(t, nil)
	c, _ := g.secure("pay.test:443", g.trust("pay.test"))
	_, _ = io.WriteString(c, inner+inner) // pipelined
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
	if state := c.ConnectionState(); state.Version != tls.VersionTLS13 || fmt.Sprint(state.PeerCertificates[0].DNSNames) != "[pay.test]" {
		t.Errorf("%x %v", state.Version, state.PeerCertificates[0].DNSNames)
	}
	c.Close()
	governed, refused := g.seen()
	if len(governed) != 3 || len(refused) != 0 || g.tunnels != 0 {
		t.Fatalf("governed %d, refused %v, opaque %d", len(governed), refused, g.tunnels)
	}
	for _, r := range governed {
		if r.Route != govern.Inside || r.Target.String() != "https://pay.test:443/v1/charges" || string(r.Body) != `{"a":1}` || r.Agent != "default" {
			t.Fatalf("%+v", r)
		}
	}
}

// TestWhoseTunnelsAreOpened: a tunnel is opened, passed on unread, or refused.
func TestWhoseTunnelsAreOpened(t *testing.T) {
	f := newFar(t)
	port := fmt.Sprint(f.ap.Port())
	const through, open = "passed on", "opened"
	for _, c := range []struct {
		hosts  HostList
		target string
		deny   bool
		want   string // a refusal's code, or what becomes of TLS in the tunnel
	}{
		{HostList{"registered"}, "pay.test:443", false, open},
		{HostList{"registered"}, "pay.test:443", true, open},
		{HostList{"registered"}, "PAY.test.:443", false, open},
		{HostList{"registered"}, "other.test:443", false, through},
		{HostList{"registered"}, "other.test:443", true, "tool_not_registered"},
		{HostList{"registered"}, "model.test:443", true, through},
		{HostList{"registered"}, "127.0.0.1:" + port, false, "destination_denied"}, // the tool's address
		{HostList{"registered"}, "alias.test:" + port, false, "destination_denied"},
		{HostList{"registered"}, "pay.test:8443", true, "tool_not_registered"},
		{HostList{"all"}, "pay.test:443", false, open},
		{HostList{"all"}, "other.test:443", false, open},
		{HostList{"all"}, "other.test:8443", true, open}, // and refused inside, where the client can read why
		{HostList{"all"}, "model.test:443", false, through},
		{HostList{"all"}, "127.0.0.2:443", false, open},
		{HostList{"all"}, "127.0.0.1:" + port, false, "destination_denied"},
		{HostList{"all"}, "[::1]:443", false, open},
		{HostList{"Other.test."}, "other.test:443", true, open},
		{HostList{"other.test"}, "other.test:8443", false, open},
		{HostList{"other.test"}, "third.test:443", false, through},
		{HostList{"other.test"}, "pay.test:443", false, "destination_denied"}, // a tool's, and not in the list
		{HostList{"model.test"}, "model.test:443", false, open},
		{HostList{"::1"}, "[::1]:443", false, open},
	} {
		t.Run(fmt.Sprint(c.hosts, c.target, c.deny), func(t *testing.T) {
			g := openingRig(t, c.hosts, func(g *rig, _ *Config) {
				g.dial = f.dial
				g.snapshot.Registry = registryOf(t, "https://pay.test/v1/charges", "https://tool.test:"+port+"/x")
				g.names["tool.test"], g.names["alias.test"] = f.ap.Addr(), f.ap.Addr()
				g.snapshot.Passthrough = func(host string) bool { return host == "model.test" }
				if c.deny {
					g.snapshot.Unregistered = govern.Deny
				}
			})
			conn, head := g.open(c.target, "")
			if statusOf(head) != 200 {
				if !strings.Contains(head, "X-OnceOnly-Reason: "+c.want+"\r\n") {
					t.Fatalf("%q, want %s", head, c.want)
				}
				return
			}
			if c.want == through {
				_, _ = io.WriteString(conn, hello(t, "", 1<<14))
				f.accept()
				g.settled(1, 0)
				return
			}
			host := plainName(trimBrackets(bareHost(c.target)))
			if err := tls.Client(conn, g.trust(host)).Handshake(); err != nil || c.want != open {
				t.Fatalf("%v, want %s", err, c.want)
			}
		})
	}
}

// TestNamesMustAgree: the CONNECT's target, the ClientHello's server name and each request's Host are one.
func TestNamesMustAgree(t *testing.T) {
	for name, c := range map[string]struct {
		target, server, request string
		status                  int // of the request; 0: the handshake fails
	}{
		"all":                       {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: pay.test", 200},
		"with the port":             {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: pay.test:443", 200},
		"in another spelling":       {"PAY.test:443", "Pay.Test", "POST /v1/charges HTTP/1.1\r\nHost: pay.TEST.", 200},
		"absolute":                  {"pay.test:443", "pay.test", "POST https://pay.test/v1/charges HTTP/1.1\r\nHost: pay.test", 200},
		"HTTP/1.0 without Host":     {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.0", 200},
		"no server name":            {"pay.test:443", "", "POST /v1/charges HTTP/1.1\r\nHost: pay.test", 200},
		"another server name":       {"pay.test:443", "other.test", "", 0},
		"another tool's":            {"pay.test:443", "tool.test", "", 0},
		"a name below":              {"pay.test:443", "x.pay.test", "", 0},
		"another Host":              {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: other.test", 400},
		"another tool's Host":       {"pay.test:443", "pay.test", "POST /ok HTTP/1.1\r\nHost: tool.test", 400},
		"another Host, no name":     {"pay.test:443", "", "POST /v1/charges HTTP/1.1\r\nHost: other.test", 400},
		"another port":              {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: pay.test:8443", 400},
		"port 80":                   {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: pay.test:80", 400},
		"the port's Host is not it": {"pay.test:8443", "pay.test", "POST /v1/charges HTTP/1.1\r\nHost: pay.test", 400},
		"absolute, another":         {"pay.test:443", "pay.test", "POST https://other.test/ HTTP/1.1\r\nHost: other.test", 400},
		"absolute, in the clear":    {"pay.test:443", "pay.test", "POST http://pay.test:443/v1/charges HTTP/1.1\r\nHost: pay.test:443", 400},
		"no Host":                   {"pay.test:443", "pay.test", "POST /v1/charges HTTP/1.1\r\nA: b", 400},
		"a tunnel within":           {"pay.test:443", "pay.test", "CONNECT pay.test:443 HTTP/1.1\r\nHost: pay.test:443", 501},
	} {
		t.Run(name, func(t *testing.T) {
			g := openingRig(t, HostList{"pay.test"})
			conf := g.trust(c.server)
			conf.InsecureSkipVerify = c.server == "" || c.status == 0
			over, _ := g.secure(c.target, conf)
			err := over.Handshake()
			if c.status == 0 {
				if !errors.As(err, new(*net.OpError)) || !strings.Contains(err.Error(), "unrecognized name") {
					t.Fatal(err)
				}
				g.settled(0, 1)
				if governed, refused := g.seen(); len(governed) > 0 || refused[0] != "destination_denied" {
					t.Fatal(governed, refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(over, c.request+"\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(over), nil)
			if err != nil || resp.StatusCode != c.status {
				t.Fatal(resp, err)
			}
			if governed, refused := g.seen(); len(governed)+len(refused) != 1 || (len(governed) == 1) != (c.status == 200) {
				t.Fatal(governed, refused)
			}
		})
	}
}

// forgetful gives the one session it has to every server.
type forgetful struct {
	mu sync.Mutex
	s  *tls.ClientSessionState
}

func (f *forgetful) Get(string) (*tls.ClientSessionState, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.s, f.s != nil
}

func (f *forgetful) Put(_ string, s *tls.ClientSessionState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s = s
}

func TestSessionsAreResumedButNotUnderAnotherName(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g := openingRig(t, nil)
		conf := g.trust("pay.test")
		conf.ClientSessionCache, conf.InsecureSkipVerify, conf.MaxVersion = &forgetful{}, true, version
		for i := range 2 {
			c, _ := g.secure("pay.test:443", conf)
			_, _ = io.WriteString(c, strings.Replace(inner, "\r\n", "\r\nConnection: close\r\n", 1))
			if out, err := io.ReadAll(c); !strings.HasSuffix(string(out), "fine") || err != nil || c.ConnectionState().DidResume != (i == 1) {
				t.Fatalf("%d: %q %v, resumed %t", i, out, err, c.ConnectionState().DidResume)
			}
		}
		conf = conf.Clone()
		conf.ServerName = "other.test"
		c, _ := g.secure("pay.test:443", conf)
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%x: %v", version, err)
		}
	}
}

// TestTunnelsThatCarryNoRequest leave one record each, which says what was wrong.
func TestTunnelsThatCarryNoRequest(t *testing.T) {
	g := openingRig(t, nil)
	stranger, trusting := g.trust("pay.test"), g.trust("pay.test")
	stranger.RootCAs = x509.NewCertPool()
	h2, old := g.trust("pay.test"), g.trust("pay.test")
	h2.NextProtos = []string{"h2"}
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	old.InsecureSkipVerify = true
	shake := func(conf *tls.Config) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			if err := tls.Client(c, conf).Handshake(); (err == nil) != (conf == trusting) {
				t.Error(err)
			}
		}
	}
	say := func(text string) func(*net.TCPConn) {
		return func(c *net.TCPConn) { _, _ = io.WriteString(c, text) }
	}
	for name, c := range map[string]struct {
		agent  func(*net.TCPConn)
		code   string
		detail string
	}{
		"nothing":             {func(*net.TCPConn) {}, "", ""},
		"TLS and nothing":     {shake(trusting), "", ""},
		"no trust":            {shake(stranger), "bad_request", "does not trust the local CA"},
		"h2 only":             {shake(h2), "bad_request", "does not speak http/1.1"},
		"TLS 1.1":             {shake(old), "bad_request", "version"},
		"half a ClientHello":  {say(hello(t, "pay.test", 1<<14)[:100]), "bad_request", "hung up"},
		"no ClientHello":      {say("\x16\x03\x01\x00\x04xxxx"), "bad_request", "handshake inside the tunnel failed"},
		"another protocol":    {say("\x00\x01\x02"), "not_supported", "neither TLS nor HTTP/1.1"},
		"SSH":                 {say("SSH-2.0-x\r\n"), "bad_request", ""},
		"in lower case":       {say("get / HTTP/1.1\r\n\r\n"), "not_supported", "neither TLS"},
		"another record type": {say("\x17\x03\x03\x00\x01x"), "not_supported", "neither TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := g.seen()
			unused := g.unused
			conn, head := g.open("pay.test:443", "")
			if statusOf(head) != 200 {
				t.Fatalf("%q", head)
			}
			c.agent(conn)
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			if c.code == "" {
				g.until(func() bool { return g.unused == unused+1 && len(g.refused) == len(before) })
				return
			}
			g.settled(0, len(before)+1)
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.unused != unused {
				t.Error("two records")
			}
			if code, detail := g.refused[len(before)], g.details[len(before)]; code != c.code || !strings.Contains(detail, c.detail) {
				t.Errorf("%s: %s", code, detail)
			}
		})
	}
	if governed, _ := g.seen(); len(governed) > 0 || g.tunnels > 0 {
		t.Error(governed, g.tunnels)
	}
}

func TestHTTPInTheClearInAnOpenedTunnelIsGoverned(t *testing.T) {
	g := openingRig(t, nil)
	c, _ := g.open("pay.test:443", strings.Replace(inner, "pay.test", "pay.test:443", 1)) // behind the head at once
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if governed, _ := g.seen(); len(governed) != 1 || governed[0].Target.String() != "http://pay.test:443/v1/charges" {
		t.Fatalf("%+v", governed)
	}
}

// TestServerNamesOfOtherOpenedHosts: a tunnel that is passed on unread asks for its own host or for none.
func TestServerNamesOfOtherOpenedHosts(t *testing.T) {
	f := newFar(t)
	for server, through := range map[string]bool{"model.test": true, "": true, "other.test": false, "pay.test": false, "second-model.test": false} {
		g := openingRig(t, HostList{"all"}, func(g *rig, _ *Config) {
			g.dial = f.dial
			g.snapshot.Passthrough = func(host string) bool { return strings.HasSuffix(host, "model.test") }
		})
		conn, _ := g.open("model.test:443", hello(t, server, 1<<14))
		there := f.accept()
		if through {
			if _, err := io.ReadFull(there, make([]byte, 5)); err != nil {
				t.Errorf("%s: %v", server, err)
			}
			g.settled(1, 0)
			continue
		}
		if out, _ := io.ReadAll(there); len(out) > 0 {
			t.Errorf("%s: %q went through", server, out)
		}
		_, _ = io.Copy(io.Discard, conn)
		g.settled(0, 1)
	}
}

func TestTheProxyUserOfTheCONNECTHoldsInside(t *testing.T) {
	users := map[string]string{"billing": "billing-token-0123", "other": "other-token-456789"}
	g := openingRig(t, nil, func(g *rig, _ *Config) { g.identity.Users = users })
	if _, head := g.open("pay.test:443", ""); statusOf(head) != 407 {
		t.Fatalf("%q", head)
	}
	c := g.connect()
	_, _ = io.WriteString(c, "CONNECT pay.test:443 HTTP/1.1\r\nProxy-Authorization: "+credentials("billing", users["billing"])+"\r\n\r\n")
	if head := readHead(c); statusOf(head) != 200 {
		t.Fatalf("%q", head)
	}
	over := tls.Client(c, g.trust("pay.test"))
	_, _ = io.WriteString(over, strings.Replace(inner, "\r\n", "\r\nProxy-Authorization: "+credentials("other", users["other"])+"\r\n", 1))
	if resp, err := http.ReadResponse(bufio.NewReader(over), nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if governed, _ := g.seen(); len(governed) != 1 || governed[0].Agent != "billing" || strings.Contains(fmt.Sprint(governed[0].Header), "Proxy") {
		t.Fatalf("%+v", governed)
	}
}

func TestTheKillSwitchClosesHandshakes(t *testing.T) {
	g := openingRig(t, nil)
	c, _ := g.open("pay.test:443", hello(t, "pay.test", 1<<14)[:10])
	g.CloseTunnels("default")
	ends(t, "the tunnel", c)
	g.settled(0, 1)
}

// TestOpenedTunnelsDoNotHoldAShutdownUp: one that waits for the agent is not running.
func TestOpenedTunnelsDoNotHoldAShutdownUp(t *testing.T) {
	g := openingRig(t, nil)
	silent, _ := g.open("pay.test:443", "")
	idle, _ := g.secure("pay.test:443", g.trust("pay.test"))
	_, _ = io.WriteString(idle, inner)
	r := bufio.NewReader(idle)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	for until := time.Now().Add(10 * time.Second); g.Running() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(g.Running(), " are running")
		}
	}
	if err := g.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.Close(t.Context())
	for _, c := range []net.Conn{silent, idle} {
		ends(t, "a tunnel of a closed listener", c)
	}
}

func TestReloadSwitchesInterception(t *testing.T) {
	g := openingRig(t, nil)
	off := Config{MaxRequestBytes: 1 << 20, TunnelIdle: time.Minute}
	if err := g.Use(off); err != nil {
		t.Fatal(err)
	}
	if _, head := g.open("pay.test:443", ""); statusOf(head) != 403 {
		t.Errorf("off: %q", head)
	}
	off.Intercept = InterceptConfig{Enabled: true, Hosts: HostList{"all"}}
	if err := g.Use(off); err != nil {
		t.Fatal(err)
	}
	if _, head := g.open("pay.test:443", ""); statusOf(head) != 200 {
		t.Errorf("on: %q", head)
	}
}

func TestWithoutACANothingIsOpened(t *testing.T) {
	g := newRig(t, func(_ *rig, c *Config) { c.Intercept = InterceptConfig{Enabled: true, Hosts: HostList{"all"}} })
	if _, head := g.open("pay.test:443", ""); statusOf(head) != 403 {
		t.Errorf("%q", head)
	}
}
