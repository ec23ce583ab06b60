package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// testCA is a certificate authority of a test.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate as PEM
}

func newAuthority(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf makes a certificate for names (or addresses) that is valid from start to end, counted from now.
func (ca *testCA) leaf(t *testing.T, start, end time.Duration, names ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(start), NotAfter: time.Now().Add(end), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// newTLSTool is a rawTool that speaks TLS with config.
func newTLSTool(t *testing.T, config *tls.Config, script func(c *rawConn)) (x *rawTool, authority string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x = newRawToolOn(t, tls.NewListener(l, config), script)
	_, port, _ := net.SplitHostPort(x.addr)
	return x, "pay.test:" + port
}

func tlsAttempt(authority string) *govern.Attempt {
	a := attemptTo(authority)
	a.Target.Scheme = "https"
	return a
}

func payTest(ca *testCA) Config {
	return Config{UpstreamCA: ca.file, Resolve: map[string]string{"pay.test": "127.0.0.1"}, AllowPrivate: loopback.AllowPrivate}
}

func TestTLS(t *testing.T) {
	noLeaks(t)
	ca := newAuthority(t)
	var mu sync.Mutex
	var states []tls.ConnectionState
	x, host := newTLSTool(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "pay.test")}, NextProtos: []string{"h2", "http/1.1"}}, func(c *rawConn) {
		for c.request() != "" {
			mu.Lock()
			states = append(states, c.Conn.(*tls.Conn).ConnectionState())
			mu.Unlock()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if c.tool.connections() == 2 {
				return
			}
		}
	})
	u := newUpstream(t, payTest(ca))
	for range 3 {
		send(t, u, tlsAttempt(host)).wantWhole(t, 200, "ok")
	}
	if x.connections() != 1 {
		t.Fatalf("%d connections, want 1", x.connections())
	}
	if s := states[0]; s.ServerName != "pay.test" || s.NegotiatedProtocol != "http/1.1" || s.DidResume || s.Version != tls.VersionTLS13 {
		t.Errorf("server name %q, protocol %q, resumed %v, version %x", s.ServerName, s.NegotiatedProtocol, s.DidResume, s.Version)
	}
	for c := u.routes.Load().pool.take(backend{true, host}, time.Now()); c != nil; c = nil {
		c.close()
	}
	send(t, u, tlsAttempt(host)).wantWhole(t, 200, "ok")
	if s := states[len(states)-1]; !s.DidResume {
		t.Error("the session was not resumed")
	}
	if want := "POST /charge HTTP/1.1\r\nHost: " + host + "\r\n"; x.requests()[0][:len(want)] != want {
		t.Errorf("the tool got %q", x.requests()[0])
	}
}

func TestTLSRefusals(t *testing.T) {
	noLeaks(t)
	ca, other := newAuthority(t), newAuthority(t)
	good := ca.leaf(t, -time.Hour, time.Hour, "pay.test")
	for _, c := range []struct {
		name   string
		config *tls.Config
		kind   error
		words  string
	}{
		{"wrong host", &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "other.test", "more.test")}}, govern.ErrUntrusted, "the certificate of pay.test is for other.test, more.test, not for pay.test"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -2*time.Hour, -time.Hour, "pay.test")}}, govern.ErrUntrusted, "the certificate of pay.test expired on 20"},
		{"not yet", &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, time.Hour, 2*time.Hour, "pay.test")}}, govern.ErrUntrusted, "the certificate of pay.test is not valid before 20"},
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{other.leaf(t, -time.Hour, time.Hour, "pay.test")}}, govern.ErrUntrusted, "proxy.upstream_ca"},
		{"old version", &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, govern.ErrUnreachable, "TLS with pay.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, host := newTLSTool(t, c.config, serving(okAnswer))
			u := newUpstream(t, payTest(ca))
			send(t, u, tlsAttempt(host)).wantError(t, govern.Queued, c.kind, c.words)
			if n := len(x.requests()); n != 0 {
				t.Errorf("the tool ran %d times", n)
			}
		})
	}
	t.Run("no TLS there", func(t *testing.T) {
		x := newRawTool(t, func(c *rawConn) { c.say("HTTP/1.1 400 Bad Request\r\n\r\n"); c.gone() })
		u := newUpstream(t, loopback)
		send(t, u, tlsAttempt(x.addr)).wantError(t, govern.Queued, govern.ErrUnreachable, "does not look like a TLS handshake")
	})
	t.Run("hangs in the handshake", func(t *testing.T) {
		x := newRawTool(t, func(c *rawConn) { c.gone() })
		a := tlsAttempt(x.addr)
		a.Timeout = 50 * time.Millisecond
		send(t, newUpstream(t, loopback), a).wantError(t, govern.Queued, govern.ErrUnreachable, "no answer in time")
	})
	t.Run("certificate for an address", func(t *testing.T) {
		x, host := newTLSTool(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "127.0.0.1")}}, serving(okAnswer))
		send(t, newUpstream(t, payTest(ca)), tlsAttempt(x.addr)).wantWhole(t, 200, "ok")
		send(t, newUpstream(t, payTest(ca)), tlsAttempt(host)).wantError(t, govern.Queued, govern.ErrUntrusted, "is for 127.0.0.1, not for pay.test")
	})
}

func TestUpstreamCAErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, filepath.Join(t.TempDir(), "none.pem")} {
		if _, err := NewUpstream(Config{UpstreamCA: file}); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}

// Nothing puts a call on TLS back to unsent once a Write was tried.
func TestTLSWriteFails(t *testing.T) {
	ca := newAuthority(t)
	_, host := newTLSTool(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "pay.test")}}, serving(okAnswer))
	u := newUpstream(t, payTest(ca))
	a := tlsAttempt(host)
	c, err := u.routes.Load().dial(t.Context(), a, time.Now().Add(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	c.under.Close()
	x := &exchange{pool: &pool{}, gap: time.Second}
	x.begin(t.Context(), c)
	phase, err := x.write(a)
	if err == nil {
		_, phase, err = x.answer(phase)
	}
	if phase != govern.FirstByte || !errors.Is(err, govern.ErrBroken) {
		t.Errorf("phase %d, %v", phase, err)
	}
}

// On TLS a record behind the answer hides in a buffer of the TLS layer; the next call must not get it.
func TestTLSExtraRecords(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "pay.test")}}
	const stale = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTALE"
	for name, behind := range map[string]func(c *rawConn){
		"a second answer": func(c *rawConn) { c.say(stale) },
		"junk":            func(c *rawConn) { c.say("x") },
		"farewell":        func(c *rawConn) { _ = c.Conn.(*tls.Conn).CloseWrite() },
	} {
		for _, together := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				arrived, read := make(chan struct{}, 2), make(chan struct{}, 2)
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				x := newRawToolOn(t, &corkedListener{l}, func(c *rawConn) {
					cork := c.Conn.(*corked)
					secure := tls.Server(cork, config)
					c.Conn = secure
					c.r.Reset(secure)
					c.request()
					cork.hold()
					c.say(okAnswer)
					if !together {
						cork.release()
						<-read
					}
					behind(c)
					cork.release()
					arrived <- struct{}{}
					c.gone()
				})
				_, port, _ := net.SplitHostPort(x.addr)
				u := newUpstream(t, payTest(ca))
				for range 2 {
					send(t, u, tlsAttempt("pay.test:"+port)).wantWhole(t, 200, "ok")
					read <- struct{}{}
					<-arrived
				}
				if len(x.requests()) != 2 || x.connections() != 2 {
					t.Errorf("%d executions on %d connections, want 2 on 2", len(x.requests()), x.connections())
				}
			})
		}
	}
}

// corked is a connection that can hold back what is written, so that several TLS records leave as one piece.
type corked struct {
	net.Conn
	held    []byte
	holding bool
}

type corkedListener struct{ net.Listener }

func (l *corkedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &corked{Conn: c}, err
}

func (c *corked) hold() { c.holding = true }

func (c *corked) release() {
	_ = c.Conn.SetWriteDeadline(time.Time{}) // a TLS farewell leaves one in the past
	_, _ = c.Conn.Write(c.held)
	c.held, c.holding = nil, false
}

func (c *corked) Write(p []byte) (int, error) {
	if c.holding {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *corked) CloseWrite() error { return nil }

// An answer until close is whole on TLS only if the end was announced: anybody on the way can end a TCP connection.
func TestTLSEndOfAnswer(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "pay.test")}}
	for _, announced := range []bool{true, false} {
		_, host := newTLSTool(t, config, func(c *rawConn) {
			c.request()
			c.say("HTTP/1.1 200 OK\r\n\r\nall of it")
			secure := c.Conn.(*tls.Conn)
			if announced {
				_ = secure.CloseWrite()
			}
			_ = secure.NetConn().(*net.TCPConn).CloseWrite()
			c.gone()
		})
		s := send(t, newUpstream(t, payTest(ca)), tlsAttempt(host))
		if s.err != nil || s.body != "all of it" || (s.cut == nil) != announced || !announced && !errors.Is(s.cut, govern.ErrBroken) {
			t.Errorf("announced %v: %v, read %q, cut: %v", announced, s.err, s.body, s.cut)
		}
	}
}

// A corporate proxy that is itself spoken to over TLS.
func TestViaOverTLS(t *testing.T) {
	noLeaks(t)
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, -time.Hour, time.Hour, "pay.test", "proxy.test")}}
	x, host := newTLSTool(t, config, serving(okAnswer))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newCorporateProxyOn(t, tls.NewListener(l, config), established, x.addr)
	_, port, _ := net.SplitHostPort(p.addr)
	c := Config{UpstreamCA: ca.file, Resolve: map[string]string{"proxy.test": "127.0.0.1"}, Via: "https://proxy.test:" + port}
	u := newUpstream(t, c)
	u.Dialer().lookup = func(context.Context, string) ([]netip.Addr, error) { return addrs("93.184.216.34"), nil }
	for range 2 {
		send(t, u, tlsAttempt(host)).wantWhole(t, 200, "ok")
	}
	if n := len(p.asked()); n != 2 {
		t.Errorf("%d tunnels, want one for each call", n)
	}

	c.Via = "https://127.0.0.1:" + port
	u = newUpstream(t, c)
	u.Dialer().lookup = func(context.Context, string) ([]netip.Addr, error) { return addrs("93.184.216.34"), nil }
	send(t, u, tlsAttempt(host)).wantError(t, govern.Queued, govern.ErrUntrusted, "the certificate of the proxy 127.0.0.1:"+port)
}

func TestShortKeysAreRefused(t *testing.T) {
	rsaOf := func(bits uint) *x509.Certificate {
		return &x509.Certificate{PublicKey: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}}
	}
	ecOf := func(c elliptic.Curve) *x509.Certificate {
		return &x509.Certificate{PublicKey: &ecdsa.PublicKey{Curve: c}}
	}
	good := ecOf(elliptic.P256())
	for name, c := range map[string]struct {
		chains [][]*x509.Certificate
		words  string
	}{
		"RSA 1024":                  {[][]*x509.Certificate{{rsaOf(1024), good}}, "RSA of 1024 bits"},
		"RSA 2047":                  {[][]*x509.Certificate{{rsaOf(2047), good}}, "RSA of 2047 bits"},
		"RSA 2048":                  {[][]*x509.Certificate{{rsaOf(2048), good}}, ""},
		"P-224":                     {[][]*x509.Certificate{{ecOf(elliptic.P224()), good}}, "ECDSA of 224 bits"},
		"P-256":                     {[][]*x509.Certificate{{good, good}}, ""},
		"Ed25519":                   {[][]*x509.Certificate{{{PublicKey: ed25519.PublicKey(make([]byte, 32))}, good}}, ""},
		"an intermediate":           {[][]*x509.Certificate{{good, rsaOf(1024), good}}, "RSA of 1024 bits"},
		"a root":                    {[][]*x509.Certificate{{good, good, rsaOf(1024)}}, ""},
		"its own root":              {[][]*x509.Certificate{{rsaOf(1024)}}, "RSA of 1024 bits"},
		"one of two chains":         {[][]*x509.Certificate{{good, rsaOf(1024), good}, {good, good}}, ""},
		"both chains":               {[][]*x509.Certificate{{good, rsaOf(1024), good}, {good, rsaOf(1025), good}}, "RSA of"},
		"no chain, which is no TLS": {nil, ""},
	} {
		err := verifyKeys(tls.ConnectionState{VerifiedChains: c.chains})
		if (err == nil) != (c.words == "") || err != nil && !strings.Contains(untrusted(t.Context(), "pay.test", err).Error(), "the certificate of pay.test rests on a key that is too short: "+c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
