package intercept

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Options say where the CA lives and for whom it signs.
type Options struct {
	// Dir holds the key and is the sidecar's alone; it is made with mode 0700 when it is not there. Not used with Memory.
	Dir string
	// Out is where certificate and bundle are written for clients, who may share it. Empty: Dir.
	Out string
	// Memory keeps the key in memory: a new CA at each Open, of which only the certificate is written.
	Memory bool
	// Hosts, if any, are the only ones the CA may sign for, as critical name constraints that exclude every other IP
	// address. Another list than the last time makes a new CA, key included.
	Hosts []string
	// Environ is the environment whose SSL_CERT_FILE and SSL_CERT_DIR go into the bundle, as os.Environ gives it.
	Environ []string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (o *Options) out() string {
	if o.Out != "" {
		return o.Out
	}
	return o.Dir
}

// CertificatePath is where the CA's certificate is written.
func (o *Options) CertificatePath() string { return filepath.Join(o.out(), CertificateFile) }

// BundlePath is where the merged bundle is written.
func (o *Options) BundlePath() string { return filepath.Join(o.out(), BundleFile) }

func (o *Options) keyPath() string { return filepath.Join(o.Dir, KeyFile) }

// Open opens the CA of o.Dir, made when there is none, and writes certificate and bundle to o.Out. A certificate that
// is near its end is renewed over the same key, so that who trusts the former one goes on. Several processes may open
// one directory at once: they get one key. Errors name the file and what mends it.
func Open(o Options) (*CA, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.out() == "" {
		return nil, errors.New("the local CA has no directory; set proxy.intercept.ca_dir, or ca_out with ca_key: memory")
	}
	ca := &CA{options: o, leaves: map[string]*tls.Certificate{}}
	var err error
	if ca.leafKey, err = newKey(); err != nil {
		return nil, err
	}
	if ca.key, ca.cert, err = o.authority(); err != nil {
		return nil, err
	}
	return ca, ca.publish()
}

// authority is the CA's key and certificate, from disk or new.
func (o *Options) authority() (*ecdsa.PrivateKey, *x509.Certificate, error) {
	if o.Memory {
		key, err := newKey()
		if err != nil {
			return nil, nil, err
		}
		cert, err := selfSign(key, o.Hosts, o.Now())
		return key, cert, err
	}
	if err := makePrivate(o.Dir); err != nil {
		return nil, nil, err
	}
	key, err := o.loadKey()
	if err != nil {
		return nil, nil, err
	}
	cert, err := readCertificate(filepath.Join(o.Dir, CertificateFile))
	switch {
	case err != nil || !signs(cert, key):
		cert, err = o.certify(key) // the program ended between the two files, or the certificate was lost
	case !constrained(cert, o.Hosts):
		if key, err = newKey(); err == nil { // so that the former certificate, where it is still trusted, is worth nothing
			err = o.writeKey(key, os.Rename)
		}
		if err == nil {
			cert, err = o.certify(key)
		}
	case !fresh(cert, o.Now(), caRenewed):
		cert, err = o.certify(key)
	}
	return key, cert, err
}

// certify makes and keeps a certificate over key.
func (o *Options) certify(key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	cert, err := selfSign(key, o.Hosts, o.Now())
	if err != nil {
		return nil, err
	}
	return cert, replace(filepath.Join(o.Dir, CertificateFile), encode(cert), 0o644, os.Rename)
}

// renew makes the CA's certificate anew. Called with mu held.
func (ca *CA) renew(now time.Time) error {
	var cert *x509.Certificate
	var err error
	if ca.options.Memory {
		cert, err = selfSign(ca.key, ca.options.Hosts, now)
	} else {
		cert, err = ca.options.certify(ca.key)
	}
	if err != nil {
		return err
	}
	former := ca.cert
	ca.cert = cert
	if err := ca.publish(); err != nil {
		ca.cert = former
		return err
	}
	clear(ca.leaves)
	return nil
}

// publish writes what clients need. In Dir itself the certificate stands already.
func (ca *CA) publish() error {
	o := &ca.options
	if err := os.MkdirAll(o.out(), 0o755); err != nil {
		return err
	}
	if o.Memory || filepath.Clean(o.out()) != filepath.Clean(o.Dir) {
		if err := replace(o.CertificatePath(), encode(ca.cert), 0o644, os.Rename); err != nil {
			return err
		}
	}
	bundle, err := o.bundle(ca.cert)
	if err != nil {
		return err
	}
	return replace(o.BundlePath(), bundle, 0o644, os.Rename)
}

// makePrivate makes the directory of the key, or judges the one that is there: who may write into it could put a key of
// his own there.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s: the CA's key would lie in a directory that others may write to (mode %04o); chmod 700 it, name another in proxy.intercept.ca_dir, or set ca_key: memory", dir, mode)
	}
	return nil
}

// loadKey reads the key, making it when there is none.
func (o *Options) loadKey() (*ecdsa.PrivateKey, error) {
	key, err := readKey(o.keyPath())
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = newKey(); err != nil {
		return nil, err
	}
	switch err := o.writeKey(key, link); {
	case errors.Is(err, fs.ErrExist): // another process was faster: its key it is
		return readKey(o.keyPath())
	case err != nil:
		return nil, err
	}
	return key, nil
}

func (o *Options) writeKey(key *ecdsa.PrivateKey, place func(from, to string) error) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return replace(o.keyPath(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, place)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: others may read the CA's key (mode %04o); delete it for a new one, or chmod 600 it if nobody has read it", path, mode)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if key, ok := any.(*ecdsa.PrivateKey); ok && err == nil && key.Params().BitSize == 256 {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s: is no P-256 key in PEM (PKCS #8); delete it for a new CA", path)
}

// Published says whether certificate and bundle are where clients look for them, so that nothing need be opened to show
// them. Of a CA on disk the certificate must be its own: Out may be a directory that others write to.
func (o *Options) Published() bool {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	cert, err := readCertificate(o.CertificatePath())
	if err != nil || !fresh(cert, now(), caRenewed) || !constrained(cert, o.Hosts) {
		return false
	}
	if _, err := os.Stat(o.BundlePath()); err != nil {
		return false
	}
	if o.Memory {
		return true
	}
	own, err := readCertificate(filepath.Join(o.Dir, CertificateFile))
	return err == nil && own.Equal(cert)
}

func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: holds no certificate in PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// replace writes a file whole or not at all. The directory may be one that others write to, so nothing in it is
// followed or opened by its name.
func replace(path string, data []byte, mode fs.FileMode, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return place(f.Name(), path)
}

// link gives a file its name unless something has it. Where the file system knows no links, the last one wins.
func link(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Rename(from, to)
}
