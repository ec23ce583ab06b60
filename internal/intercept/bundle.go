package intercept

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// systemFiles are where systems keep their roots as one file: Debian, Fedora and RHEL, openSUSE, RHEL 7, Alpine and
// macOS. The first that is there counts.
var systemFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// bundle merges what clients trusted before with the CA's certificate, each certificate once, the CA's first. A system
// without roots gives a bundle of the CA alone.
func (o *Options) bundle(ca *x509.Certificate) ([]byte, error) {
	m := merger{own: ca, seen: map[[sha256.Size]byte]bool{}}
	m.add(ca.Raw)
	for _, path := range systemFiles {
		if m.file(path) == nil {
			break
		}
	}
	if path := lookup(o.Environ, "SSL_CERT_FILE"); path != "" {
		m.former = sameFile(path, o.BundlePath()) // written by us: it holds what we were given then
		if err := m.file(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
		m.former = false
	}
	for dir := range strings.SplitSeq(lookup(o.Environ, "SSL_CERT_DIR"), ":") {
		m.dir(dir)
	}
	return m.out.Bytes(), nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func lookup(environ []string, name string) (value string) {
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// merger collects certificates.
type merger struct {
	own    *x509.Certificate
	former bool // a bundle of ours is read: a former CA of ours in it is left out
	seen   map[[sha256.Size]byte]bool
	out    bytes.Buffer
}

func (m *merger) add(raw []byte) {
	digest := sha256.Sum256(raw)
	if m.seen[digest] {
		return
	}
	m.seen[digest] = true
	_ = pem.Encode(&m.out, &pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

// file adds a file's certificates. What is no certificate in it is left out, as TLS libraries do.
func (m *merger) file(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" && !m.isFormer(block.Bytes) {
			m.add(block.Bytes)
		}
	}
	return nil
}

func (m *merger) isFormer(raw []byte) bool {
	if !m.former {
		return false
	}
	c, err := x509.ParseCertificate(raw)
	return err == nil && len(c.Subject.Organization) == 1 && c.Subject.Organization[0] == organization && !c.Equal(m.own)
}

// dir adds the certificates of a directory, which may hold anything.
func (m *merger) dir(dir string) {
	if dir == "" {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); isSmallFile(path) {
			_ = m.file(path)
		}
	}
}

func isSmallFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() < 4<<20
}
