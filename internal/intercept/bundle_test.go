package intercept

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// count is how often each certificate stands in a bundle.
func count(t *testing.T, bundle []byte) map[string]int {
	t.Helper()
	n := map[string]int{}
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			t.Errorf("a %s in the bundle", block.Type)
		}
		n[string(pem.EncodeToMemory(block))]++
	}
	return n
}

// systems makes the test's files the system's for the time of a test.
func systems(t *testing.T, files ...string) {
	t.Helper()
	before := systemFiles
	systemFiles = files
	t.Cleanup(func() { systemFiles = before })
}

func write(t *testing.T, path string, parts ...[]byte) string {
	t.Helper()
	if err := os.WriteFile(path, bytes.Join(parts, []byte("\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheBundleMergesWhatWasTrusted(t *testing.T) {
	dir := t.TempDir()
	a, b, c, d := stranger(t), stranger(t), stranger(t), stranger(t)
	systems(t, filepath.Join(dir, "absent"), write(t, filepath.Join(dir, "system"), []byte("# comment"), a, b), write(t, filepath.Join(dir, "second"), stranger(t)))
	key := []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----")
	file := write(t, filepath.Join(dir, "file"), key, b, c)
	certs := filepath.Join(dir, "certs")
	if err := os.Mkdir(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(certs, "d.pem"), d)
	write(t, filepath.Join(certs, "README"), []byte("text"))
	if err := os.Mkdir(filepath.Join(certs, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]struct {
		environ []string
		want    [][]byte
	}{
		"nothing set":       {nil, [][]byte{a, b}},
		"SSL_CERT_FILE":     {[]string{"SSL_CERT_FILE=" + file}, [][]byte{a, b, c}},
		"the last counts":   {[]string{"SSL_CERT_FILE=/other", "SSL_CERT_FILE=" + file}, [][]byte{a, b, c}},
		"SSL_CERT_DIR":      {[]string{"SSL_CERT_DIR=/absent:" + certs}, [][]byte{a, b, d}},
		"both":              {[]string{"SSL_CERT_FILE=" + file, "SSL_CERT_DIR=" + certs}, [][]byte{a, b, c, d}},
		"a file not there":  {[]string{"SSL_CERT_FILE=/absent"}, [][]byte{a, b}},
		"an empty variable": {[]string{"SSL_CERT_FILE=", "SSL_CERT_DIR="}, [][]byte{a, b}},
	} {
		o := Options{Dir: t.TempDir(), Environ: v.environ}
		ca := open(t, o)
		bundle, err := os.ReadFile(o.BundlePath())
		if err != nil {
			t.Fatal(err)
		}
		got := count(t, bundle)
		if len(got) != len(v.want)+1 || got[string(ca.CertificatePEM())] != 1 || !bytes.HasPrefix(bundle, ca.CertificatePEM()) {
			t.Errorf("%s: %d certificates, the CA's %d times", name, len(got), got[string(ca.CertificatePEM())])
		}
		for _, w := range v.want {
			if got[string(w)] != 1 {
				t.Errorf("%s: one stands there %d times", name, got[string(w)])
			}
		}
	}
}

// TestTheBundleMayBeWhatSSLCertFileNames: a sidecar started by an agent that runs under one.
func TestTheBundleMayBeWhatSSLCertFileNames(t *testing.T) {
	dir := t.TempDir()
	a, private := stranger(t), foreign(t)
	systems(t, write(t, filepath.Join(dir, "system"), a))
	o := Options{Dir: filepath.Join(dir, "ca"), Environ: []string{"SSL_CERT_FILE=" + write(t, filepath.Join(dir, "private"), private)}}
	former := open(t, o).CertificatePEM()
	if err := os.Remove(filepath.Join(o.Dir, KeyFile)); err != nil { // a new CA
		t.Fatal(err)
	}
	o.Environ = []string{"SSL_CERT_FILE=" + o.BundlePath()}
	now := open(t, o).CertificatePEM()
	bundle, _ := os.ReadFile(o.BundlePath())
	got := count(t, bundle)
	if got[string(private)] != 1 || got[string(a)] != 1 || got[string(now)] != 1 || got[string(former)] != 0 {
		t.Errorf("private %d, system %d, the CA's %d, the former one's %d", got[string(private)], got[string(a)], got[string(now)], got[string(former)])
	}
}

// foreign is a root that is not one of ours.
func foreign(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Somebody Else Root"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &root, &root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestASystemWithoutRoots(t *testing.T) {
	systems(t)
	o := Options{Dir: t.TempDir()}
	ca := open(t, o)
	if bundle, err := os.ReadFile(o.BundlePath()); err != nil || !bytes.Equal(bundle, ca.CertificatePEM()) {
		t.Errorf("%q %v", bundle, err)
	}
}

func TestAnUnreadableFileIsNamed(t *testing.T) {
	_, err := Open(Options{Dir: t.TempDir(), Environ: []string{"SSL_CERT_FILE=" + t.TempDir()}})
	if err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Error(err)
	}
}
