package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// authority is a certificate authority of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate as PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "A test's authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key, file}
}

// issue makes a certificate for host.
func (a *authority) issue(host string, until time.Time) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{host}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// door hands the first n connections to a script of their own.
type door struct {
	net.Listener
	refuse atomic.Int64
	turned atomic.Int64
}

func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil || d.refuse.Add(-1) < 0 {
			return c, err
		}
		d.turned.Add(1)
		c.Close()
	}
}

// TestUpgrade: a client that speaks plain HTTP reaches a TLS tool, certificates are judged, and nothing leaves in the clear.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	trusted, stranger := newAuthority(t), newAuthority(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	certs := map[string]tls.Certificate{
		"pay": trusted.issue("pay.test", soon), "stranger": stranger.issue("stranger.test", soon),
		"other": trusted.issue("pay.test", soon), "expired": trusted.issue("expired.test", past),
	}
	var tools []settings
	actors, doors, resolve := map[string]*actor{}, map[string]*door{}, settings{}
	for name, cert := range certs {
		d := &door{Listener: loopback(t)}
		a := actOn(t, tls.NewListener(d, &tls.Config{Certificates: []tls.Certificate{cert}}), "https", func(x *scene) { ok(x); x.Close() })
		a.URL = "https://" + name + ".test:" + port(a.URL)
		actors[name], doors[name], resolve[name+".test"] = a, d, "127.0.0.1"
		tools = append(tools, a.tool(name, settings{"headers": settings{"Authorization": "Bearer secret-of-the-tool"}, "max_retries": 5, "auth": signed}))
	}
	s := start(t, tools, settings{"proxy": settings{"upstream_ca": trusted.file, "resolve": resolve}})
	pay := actors["pay"]
	clear := "http" + strings.TrimPrefix(pay.URL, "https")

	first, second := s.forward("POST", clear+"/pay", `{"n":1}`), s.invoke("pay", `{"n":1}`)
	if first.status != 200 || !second.replayed() || pay.ran("") != 1 {
		t.Errorf("upgraded: %d %s, the same by the reverse path replayed %t, ran %d", first.status, first.body, second.replayed(), pay.ran(""))
	}
	if sent := pay.requests("")[0]; sent.get("Authorization") != "Bearer secret-of-the-tool" || sent.get("Host") != "pay.test:"+port(pay.URL) {
		t.Errorf("the tool got %q", sent.raw)
	}
	if r := s.forward("POST", clear+"/other", `{"n":1}`); r.status != 403 && r.status != 400 || pay.ran("") != 1 {
		t.Errorf("another path of the tool's host: %d %s", r.status, r.code())
	}
	for _, name := range []string{"stranger", "other", "expired"} {
		r := s.invoke(name, `{"n":1}`)
		r.is(t, name, 502, "upstream_untrusted", "executed", "not_sent")
		if actors[name].ran("") != 0 || actors[name].words() != "" {
			t.Errorf("%s was sent %q", name, actors[name].words())
		}
	}

	// Three connections end before a byte of the call could be written: it was not sent, so it is tried again.
	doors["pay"].refuse.Store(3)
	last := s.invoke("pay", `{"n":2}`)
	last.is(t, "at the fourth door", 200, "", "executed", "done")
	if sent := pay.requests(""); len(sent) != 2 || sent[1].get("X-OnceOnly-Attempt") != "4" || doors["pay"].turned.Load() != 3 {
		t.Errorf("ran %d times, %d connections were turned away, attempt %s", len(sent), doors["pay"].turned.Load(), sent[len(sent)-1].get("X-OnceOnly-Attempt"))
	}
}
