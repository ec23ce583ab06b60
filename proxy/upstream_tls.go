package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// loadRoots are the system's roots and those in the PEM file; nil when there is no file, which means the system's.
func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("proxy.upstream_ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("proxy.upstream_ca: %s holds no PEM certificate", file)
	}
	return roots, nil
}

func clientTLS(roots *x509.CertPool, host string) *tls.Config {
	return &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, VerifyConnection: verifyKeys}
}

// verifyKeys refuses a chain in which a key is short enough to be found, which crypto/tls accepts down to RSA of 1024 bits.
// A root is the operator's choice.
func verifyKeys(state tls.ConnectionState) error {
	var weak error
	for _, chain := range state.VerifiedChains {
		if weak = weakest(chain[:max(1, len(chain)-1)]); weak == nil {
			return nil
		}
	}
	return weak
}

// weakKey is a key that is too short.
type weakKey struct {
	kind string
	bits int
}

func (k weakKey) Error() string {
	return fmt.Sprintf("rests on a key that is too short: %s of %d bits", k.kind, k.bits)
}

func weakest(chain []*x509.Certificate) error {
	for _, c := range chain {
		switch key := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() < 2048 {
				return weakKey{"RSA", key.N.BitLen()}
			}
		case *ecdsa.PublicKey:
			if bits := key.Curve.Params().BitSize; bits < 256 {
				return weakKey{"ECDSA", bits}
			}
		}
	}
	return nil
}

// secure speaks TLS over conn as a client of host. Its errors wrap govern.ErrUntrusted or govern.ErrUnreachable.
func secure(ctx context.Context, conn net.Conn, config *tls.Config) (*tls.Conn, *wire, error) {
	w := &wire{Conn: conn}
	t := tls.Client(w, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, nil, untrusted(ctx, config.ServerName, err)
	}
	return t, w, nil
}

// wire is the connection under a TLS one. It is owned by whoever owns that.
type wire struct {
	net.Conn
	dry bool // Read says errDry instead of reading
	end bool // the peer has closed without saying so inside TLS, or after
}

func (w *wire) Read(p []byte) (int, error) {
	if w.dry {
		return 0, errDry
	}
	n, err := w.Conn.Read(p)
	w.end = w.end || err == io.EOF
	return n, err
}

// errDry is temporary in the sense of net.Error, so that crypto/tls goes on after it.
var errDry net.Error = dry{}

type dry struct{}

func (dry) Error() string   { return "nothing more is buffered" }
func (dry) Timeout() bool   { return true }
func (dry) Temporary() bool { return true }

// untrusted tells a certificate that does not hold from a connection that failed, in words.
func untrusted(ctx context.Context, host string, err error) error {
	why := ""
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	name, isName := errors.AsType[x509.HostnameError](err)
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isVerification := errors.AsType[*tls.CertificateVerificationError](err)
	weak, isWeak := errors.AsType[weakKey](err)
	switch {
	case isInvalid && invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
		why = "is not valid before " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339)
	case isInvalid && invalid.Reason == x509.Expired:
		why = "expired on " + invalid.Cert.NotAfter.UTC().Format(time.RFC3339)
	case isName:
		why = "is for " + named(name.Certificate) + ", not for " + host
	case isUnknown:
		why = "is signed by an authority that is not known here; proxy.upstream_ca adds one"
	case isWeak:
		why = weak.Error()
	case isVerification || isInvalid:
		why = "does not hold: " + strings.TrimPrefix(words(err), "tls: failed to verify certificate: ")
	default:
		return unreachable(ctx, "TLS with "+host, err)
	}
	return fail(govern.ErrUntrusted, "the certificate of %s %s", host, why)
}

// named are the names a certificate is for, the first few.
func named(c *x509.Certificate) string {
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > 3:
		names = append(names[:3:3], "…")
	}
	return strings.Join(names, ", ")
}
