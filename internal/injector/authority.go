package injector

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// How long things live. An authority signs only when every API server has had time to hear of it, and is trusted as
// long as something that it signed may be served.
const (
	authorityLife = 365 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	settle        = time.Hour
	skew          = 5 * time.Minute // clocks that are behind
)

// authority is a CA of the injector's own, which signs for its service's name only.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// authorities are those that are trusted now, oldest first. All replicas share them.
type authorities []authority

// next are the authorities from now on: without those that are over or may not speak for these names (the service was
// called otherwise, or the Secret is a copy of another namespace's), and with a new one when the newest has lived half
// its life.
func (all authorities) next(names []string, now time.Time) (list authorities, changed bool, err error) {
	for _, a := range all {
		if now.Before(a.cert.NotAfter) && slices.Equal(a.cert.PermittedDNSDomains, names) {
			list = append(list, a)
		}
	}
	if n := len(list); n == 0 || now.After(list[n-1].born().Add(authorityLife/2)) {
		made, err := newAuthority(names, now)
		if err != nil {
			return nil, false, err
		}
		list = append(list, made)
	}
	return list, len(list) != len(all) || len(list) > 0 && !list[len(list)-1].cert.Equal(all[len(all)-1].cert), nil
}

// signer is the newest authority that everybody knows.
func (all authorities) signer(now time.Time) authority {
	for i := len(all) - 1; i > 0; i-- {
		if now.After(all[i].born().Add(settle)) {
			return all[i]
		}
	}
	return all[0]
}

// bundle is what the API server is to trust, as PEM.
func (all authorities) bundle() []byte {
	var b bytes.Buffer
	for _, a := range all {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	}
	return b.Bytes()
}

// marshal writes certificates and keys, in pairs.
func (all authorities) marshal() ([]byte, error) {
	var b bytes.Buffer
	for _, a := range all {
		key, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, err
		}
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
		_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	}
	return b.Bytes(), nil
}

// parseAuthorities reads what marshal wrote. Nothing is an empty list.
func parseAuthorities(data []byte) (all authorities, err error) {
	for {
		var a authority
		block, rest := pem.Decode(data)
		if block == nil {
			if len(bytes.TrimSpace(data)) > 0 {
				return nil, errors.New("something that is no PEM")
			}
			return all, nil
		}
		if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("a certificate without its key")
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		var is bool
		if a.key, is = key.(*ecdsa.PrivateKey); !is || !a.key.PublicKey.Equal(a.cert.PublicKey) {
			return nil, errors.New("a key that is not its certificate's")
		}
		all, data = append(all, a), rest
	}
}

func (a authority) born() time.Time { return a.cert.NotBefore.Add(skew) }

func newAuthority(names []string, now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "oo-sidecar-injector"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: names,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(raw)
	return authority{cert, key}, err
}

// leaf is a certificate to serve with. It never outlives its authority.
func (a authority) leaf(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLife)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: now.Add(-skew), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: cert}, err
}

// due says whether a served certificate is to be replaced: a third of its life is left, or another authority signs now.
func due(c *tls.Certificate, signer authority, now time.Time) bool {
	if c == nil || c.Leaf.CheckSignatureFrom(signer.cert) != nil {
		return true
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return now.After(c.Leaf.NotAfter.Add(-life / 3))
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(fmt.Sprintf("no randomness: %v", err)) // crypto/rand ends the program itself before this
	}
	return n
}
