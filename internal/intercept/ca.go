// Package intercept is the local CA: a certificate authority of this sidecar's own, and the certificates it makes for
// the hosts whose tunnels are opened. Agents trust it by a file that they are pointed to; it is never to be trusted
// system-wide.
package intercept

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

// Names of the files. CertificateFile and BundleFile stand in Options.Out (and the certificate in Options.Dir too),
// the key in Options.Dir only.
const (
	CertificateFile = "ca.pem"     // the CA's certificate
	BundleFile      = "bundle.pem" // system roots, what SSL_CERT_FILE and SSL_CERT_DIR named, and the CA's certificate
	KeyFile         = "ca.key"     // the CA's private key, mode 0600
)

// How long certificates hold. Clocks of containers differ, so each begins a while before it is made.
const (
	caLife     = 365 * 24 * time.Hour // from its beginning
	caBefore   = 24 * time.Hour
	caRenewed  = 30 * 24 * time.Hour // before its end
	leafLife   = 24 * time.Hour
	leafBefore = time.Hour
)

// maxLeaves bounds the hosts whose certificates are kept; an agent can ask for any number.
const maxLeaves = 1024

// CA makes certificates for hosts. Its methods may be called at the same time.
type CA struct {
	options Options
	key     *ecdsa.PrivateKey
	leafKey *ecdsa.PrivateKey // of every leaf; it lives as long as the process

	mu     sync.Mutex
	cert   *x509.Certificate           // guarded by mu
	leaves map[string]*tls.Certificate // guarded by mu; by host
}

// CertificatePEM is the CA's certificate, without its key.
func (ca *CA) CertificatePEM() []byte {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return encode(ca.cert)
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Certificate is one for host, a DNS name or an IP address without brackets, in lower case. It holds for another twelve
// hours at least, or as long as the CA itself.
func (ca *CA) Certificate(host string) (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	now := ca.options.Now()
	if leaf := ca.leaves[host]; leaf != nil && fresh(leaf.Leaf, now, leafLife/2) {
		return leaf, nil
	}
	if !fresh(ca.cert, now, caRenewed) {
		if err := ca.renew(now); err != nil && !fresh(ca.cert, now, 0) { // else there are days left to try
			return nil, err
		}
	}
	leaf, err := ca.issue(host, now)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", host, err)
	}
	for old := range ca.leaves {
		if len(ca.leaves) < maxLeaves {
			break
		}
		delete(ca.leaves, old)
	}
	ca.leaves[host] = leaf
	return leaf, nil
}

// fresh says whether c holds now and for another left.
func fresh(c *x509.Certificate, now time.Time, left time.Duration) bool {
	return !now.Before(c.NotBefore) && now.Add(left).Before(c.NotAfter)
}

// issue makes the leaf. Called with mu held.
func (ca *CA) issue(host string, now time.Time) (*tls.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{organization}},
		NotBefore:    later(now.Add(-leafBefore), ca.cert.NotBefore),
		NotAfter:     earlier(now.Add(leafLife), ca.cert.NotAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},

		BasicConstraintsValid: true,
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	} else {
		template.DNSNames = []string{host}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca.cert, ca.leafKey.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: ca.leafKey, Leaf: leaf}, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

const organization = "oo-sidecar"

// selfSign makes the CA's certificate over its key. The subject follows from the key, so that a renewed certificate
// takes the place of the former one in every chain.
func selfSign(key *ecdsa.PrivateKey, hosts []string, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(public)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{organization}, CommonName: "oo-sidecar local CA " + hex.EncodeToString(digest[:4])},
		NotBefore:    now.Add(-caBefore),
		NotAfter:     now.Add(caLife - caBefore),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: digest[:20],

		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 0, MaxPathLenZero: true,
	}
	constrain(template, hosts)
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and of one length
	return new(big.Int).SetBytes(b), nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// signs says whether the certificate is one over this key.
func signs(c *x509.Certificate, key *ecdsa.PrivateKey) bool {
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	return ok && key.PublicKey.Equal(public) && bytes.Equal(c.RawIssuer, c.RawSubject)
}
