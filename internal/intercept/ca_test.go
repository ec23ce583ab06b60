package intercept

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// moment is a clock that a test sets.
type moment struct {
	mu sync.Mutex
	at time.Time
}

func (m *moment) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *moment) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = m.at.Add(d)
}

func noon() *moment { return &moment{at: time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)} }

func open(t *testing.T, o Options) *CA {
	t.Helper()
	ca, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leafOf(t *testing.T, ca *CA, host string) *tls.Certificate {
	t.Helper()
	leaf, err := ca.Certificate(host)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("not one certificate: %q", data)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// holds says what a client that trusts only this CA thinks of the leaf.
func holds(ca *x509.Certificate, leaf *tls.Certificate, host string, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

func TestTheCA(t *testing.T) {
	clock := noon()
	ca := open(t, Options{Dir: filepath.Join(t.TempDir(), "a", "ca"), Now: clock.now})
	c := parse(t, ca.CertificatePEM())
	key, is := c.PublicKey.(*ecdsa.PublicKey)
	if !is || key.Curve != elliptic.P256() {
		t.Errorf("key %T", c.PublicKey)
	}
	if !c.IsCA || !c.BasicConstraintsValid || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %t, path length %d, usage %b", c.IsCA, c.MaxPathLen, c.KeyUsage)
	}
	if life := c.NotAfter.Sub(c.NotBefore); life > 366*24*time.Hour || c.NotBefore.After(clock.at.Add(-time.Hour)) || c.NotAfter.Before(clock.at.Add(300*24*time.Hour)) {
		t.Errorf("from %s to %s", c.NotBefore, c.NotAfter)
	}
	if len(c.PermittedDNSDomains)+len(c.ExcludedIPRanges) > 0 {
		t.Error("constrained without a list of hosts")
	}
	if !strings.HasPrefix(c.Subject.CommonName, "oo-sidecar local CA ") || c.CheckSignatureFrom(c) != nil {
		t.Error(c.Subject)
	}
}

func TestLeaves(t *testing.T) {
	clock := noon()
	ca := open(t, Options{Dir: t.TempDir(), Now: clock.now})
	root := parse(t, ca.CertificatePEM())
	long := strings.Repeat("long-label.", 20) + "test"
	for _, host := range []string{"pay.test", "a.b.c.pay.test", "xn--bcher-kva.test", "under_score.test", long, "127.0.0.1", "2001:db8::1"} {
		leaf := leafOf(t, ca, host)
		if err := holds(root, leaf, host, clock.at); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if other := "other.test"; holds(root, leaf, other, clock.at) == nil {
			t.Errorf("the one of %s holds for %s", host, other)
		}
		l := leaf.Leaf
		if l.IsCA || l.KeyUsage != x509.KeyUsageDigitalSignature || len(l.ExtKeyUsage) != 1 || len(l.DNSNames)+len(l.IPAddresses) != 1 || len(l.AuthorityKeyId) == 0 {
			t.Errorf("%s: %+v", host, l)
		}
		if l.NotAfter.Sub(clock.at) != 24*time.Hour || clock.at.Sub(l.NotBefore) != time.Hour {
			t.Errorf("%s: from %s to %s", host, l.NotBefore, l.NotAfter)
		}
	}
	first := leafOf(t, ca, "pay.test")
	if leafOf(t, ca, "pay.test") != first {
		t.Error("made twice")
	}
	clock.pass(11 * time.Hour)
	if leafOf(t, ca, "pay.test") != first {
		t.Error("made anew while it is good for twelve hours")
	}
	clock.pass(2 * time.Hour)
	second := leafOf(t, ca, "pay.test")
	if second == first || second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 || holds(root, second, "pay.test", clock.at.Add(20*time.Hour)) != nil {
		t.Error("not made anew")
	}
	clock.pass(-48 * time.Hour)
	if l := leafOf(t, ca, "pay.test").Leaf; l.NotBefore.After(clock.at) {
		t.Error("a certificate of the future after the clock went back")
	}
}

func TestLeavesAreBounded(t *testing.T) {
	ca := open(t, Options{Memory: true, Out: t.TempDir()})
	for i := range maxLeaves + 10 {
		leafOf(t, ca, fmt.Sprintf("h%d.test", i))
	}
	if n := len(ca.leaves); n > maxLeaves || n < maxLeaves-10 {
		t.Error(n)
	}
}

func TestLeavesAtOnce(t *testing.T) {
	ca := open(t, Options{Memory: true, Out: t.TempDir()})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				if _, err := ca.Certificate(fmt.Sprintf("h%d.test", (i+j)%10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestConstraints(t *testing.T) {
	for name, c := range map[string]struct {
		hosts   []string
		good    []string
		refused []string
	}{
		"names":     {[]string{"pay.test", "Mail.test."}, []string{"pay.test", "mail.test", "x.pay.test"}, []string{"other.test", "notpay.test", "test", "127.0.0.1", "2001:db8::1"}},
		"address":   {[]string{"127.0.0.1"}, []string{"127.0.0.1"}, []string{"127.0.0.2", "2001:db8::1", "pay.test"}},
		"address 6": {[]string{"[2001:db8::1]"}, []string{"2001:db8::1"}, []string{"2001:db8::2", "127.0.0.1", "pay.test"}},
		"both":      {[]string{"pay.test", "127.0.0.1"}, []string{"pay.test", "127.0.0.1"}, []string{"other.test", "10.0.0.1", "::1"}},
	} {
		clock := noon()
		ca := open(t, Options{Dir: t.TempDir(), Hosts: c.hosts, Now: clock.now})
		root := parse(t, ca.CertificatePEM())
		critical := slices.ContainsFunc(root.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(nameConstraints) && e.Critical })
		if !critical {
			t.Errorf("%s: not critical", name)
		}
		for _, host := range c.good {
			if err := holds(root, leafOf(t, ca, host), host, clock.at); err != nil {
				t.Errorf("%s: %s: %v", name, host, err)
			}
		}
		for _, host := range c.refused {
			if err := holds(root, leafOf(t, ca, host), host, clock.at); err == nil {
				t.Errorf("%s: it may sign for %s", name, host)
			}
		}
	}
}

// TestOpenSSLAgrees asks the library that most clients use, at its strictest.
func TestOpenSSLAgrees(t *testing.T) {
	openssl := needed.Program(t, "openssl")
	dir := t.TempDir()
	ca := open(t, Options{Dir: dir, Hosts: []string{"pay.test", "127.0.0.1"}})
	for host, good := range map[string]bool{"pay.test": true, "127.0.0.1": true, "other.test": false, "127.0.0.2": false} {
		file := filepath.Join(dir, "leaf.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafOf(t, ca, host).Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-CAfile", filepath.Join(dir, CertificateFile), file).CombinedOutput()
		if (err == nil) != good {
			t.Errorf("%s: %s%v", host, out, err)
		}
	}
}

func TestItIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, second := open(t, Options{Dir: dir}), open(t, Options{Dir: dir})
	if !bytes.Equal(first.CertificatePEM(), second.CertificatePEM()) {
		t.Error("two CAs in one directory")
	}
	if err := holds(parse(t, first.CertificatePEM()), leafOf(t, second, "pay.test"), "pay.test", time.Now()); err != nil {
		t.Error(err)
	}
	for file, mode := range map[string]fs.FileMode{"": 0o700, KeyFile: 0o600, CertificateFile: 0o644, BundleFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Error(left)
	}
}

func TestManyOpenItAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	keys := make([]*ecdsa.PrivateKey, 16)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			ca, err := Open(Options{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = ca.key
		})
	}
	all.Wait()
	for _, k := range keys {
		if k == nil || !k.Equal(keys[0]) {
			t.Fatal("not one key")
		}
	}
}

// TestRenewal: the certificate is renewed over the same key, so that clients of the former and of the new one agree.
func TestRenewal(t *testing.T) {
	for _, memory := range []bool{false, true} {
		for _, reopened := range []bool{false, true} {
			if memory && reopened {
				continue // that is a new CA
			}
			clock, dir := noon(), t.TempDir()
			o := Options{Dir: dir, Out: filepath.Join(dir, "out"), Memory: memory, Now: clock.now}
			ca := open(t, o)
			former := parse(t, ca.CertificatePEM())
			clock.pass(300 * 24 * time.Hour)
			if leafOf(t, ca, "pay.test"); !parse(t, ca.CertificatePEM()).Equal(former) {
				t.Error("renewed too early")
			}
			clock.pass(40 * 24 * time.Hour)
			if reopened {
				ca = open(t, o)
			}
			leaf := leafOf(t, ca, "pay.test")
			next := parse(t, ca.CertificatePEM())
			if next.Equal(former) || next.NotAfter.Before(clock.at.Add(300*24*time.Hour)) {
				t.Fatal("not renewed")
			}
			for name, root := range map[string]*x509.Certificate{"former": former, "new": next} {
				if err := holds(root, leaf, "pay.test", clock.at); err != nil {
					t.Errorf("memory %t, reopened %t, %s: %v", memory, reopened, name, err)
				}
			}
			for _, file := range []string{o.CertificatePath(), o.BundlePath()} {
				if data, err := os.ReadFile(file); err != nil || !bytes.Contains(data, ca.CertificatePEM()) || bytes.Contains(data, encode(former)) {
					t.Errorf("%s was not written anew: %v", file, err)
				}
			}
		}
	}
}

func TestMemoryLeavesNoKey(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	o := Options{Dir: dir, Out: out, Memory: true}
	first := open(t, o)
	second := open(t, o)
	if bytes.Equal(first.CertificatePEM(), second.CertificatePEM()) {
		t.Error("not a new CA")
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Error(entries)
	}
	entries, _ := os.ReadDir(out)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(out, e.Name()))
		if err != nil || bytes.Contains(data, []byte("PRIVATE")) || e.Name() != CertificateFile && e.Name() != BundleFile {
			t.Error(e, err)
		}
	}
	if len(entries) != 2 || !o.Published() {
		t.Error(entries)
	}
}

func TestOtherHostsMakeAnotherKey(t *testing.T) {
	dir := t.TempDir()
	wide := open(t, Options{Dir: dir})
	narrow := open(t, Options{Dir: dir, Hosts: []string{"pay.test", "mail.test"}})
	if wide.key.Equal(narrow.key) {
		t.Fatal("who trusts the wide one trusts what the narrow one signs for any host")
	}
	again := open(t, Options{Dir: dir, Hosts: []string{"mail.test", "pay.test"}})
	if !again.key.Equal(narrow.key) || !bytes.Equal(again.CertificatePEM(), narrow.CertificatePEM()) {
		t.Error("made anew for the same hosts")
	}
	if open(t, Options{Dir: dir}).key.Equal(narrow.key) {
		t.Error("the same key without constraints")
	}
}

func TestWhatIsWrongInTheDirectory(t *testing.T) {
	put := func(name, text string, mode fs.FileMode) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return err
			}
			return os.Chmod(path, mode)
		}
	}
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string // of the error; "" when it mends itself
	}{
		"others may write":      {func(dir string) error { return os.Chmod(dir, 0o777) }, "others may write to (mode 0777); chmod 700"},
		"its group may write":   {func(dir string) error { return os.Chmod(dir, 0o770) }, "others may write to"},
		"others may read":       {func(dir string) error { return os.Chmod(dir, 0o755) }, ""},
		"a key that others see": {func(dir string) error { return os.Chmod(filepath.Join(dir, KeyFile), 0o644) }, "others may read the CA's key"},
		"a key that is none":    {put(KeyFile, "key", 0o600), "is no P-256 key"},
		"an empty key":          {put(KeyFile, "", 0o600), "is no P-256 key"},
		"no key":                {func(dir string) error { return os.Remove(filepath.Join(dir, KeyFile)) }, ""},
		"no certificate":        {func(dir string) error { return os.Remove(filepath.Join(dir, CertificateFile)) }, ""},
		"half a certificate":    {put(CertificateFile, "-----BEGIN CERTIFICATE-----\nMII", 0o644), ""},
		"somebody else's":       {put(CertificateFile, string(stranger(t)), 0o644), ""},
		"no bundle":             {func(dir string) error { return os.Remove(filepath.Join(dir, BundleFile)) }, ""},
	} {
		dir := filepath.Join(t.TempDir(), "ca")
		before := open(t, Options{Dir: dir})
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		ca, err := Open(Options{Dir: dir})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		o := Options{Dir: dir}
		if !o.Published() || holds(parse(t, ca.CertificatePEM()), leafOf(t, ca, "pay.test"), "pay.test", time.Now()) != nil {
			t.Errorf("%s: not mended", name)
		}
		if name != "no key" && !ca.key.Equal(before.key) {
			t.Errorf("%s: another key", name)
		}
	}
	if _, err := Open(Options{}); err == nil || !strings.Contains(err.Error(), "ca_dir") {
		t.Error(err)
	}
}

func stranger(t *testing.T) []byte {
	t.Helper()
	ca := open(t, Options{Memory: true, Out: t.TempDir()})
	return ca.CertificatePEM()
}

// TestPublished: what others can write to is not shown as the CA's own.
func TestPublished(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "ca"), Out: t.TempDir()}
	if o.Published() {
		t.Error("before it was made")
	}
	open(t, o)
	if !o.Published() {
		t.Error("after it was made")
	}
	late := o
	late.Now = func() time.Time { return time.Now().Add(350 * 24 * time.Hour) }
	if late.Published() {
		t.Error("shortly before its end")
	}
	if err := os.WriteFile(o.CertificatePath(), stranger(t), 0o644); err != nil {
		t.Fatal(err)
	}
	if o.Published() {
		t.Error("somebody else's")
	}
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.CertificatePath(), o.BundlePath()} {
		if err := errors.Join(os.Remove(path), os.Symlink(outside, path)); err != nil {
			t.Fatal(err)
		}
	}
	open(t, o)
	if data, _ := os.ReadFile(outside); string(data) != "mine" || !o.Published() {
		t.Error("a link in the shared directory was followed")
	}
}

func TestSerialsArePositiveAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		n, err := newSerial()
		if err != nil || n.Sign() <= 0 || n.BitLen() > 127 || seen[n.String()] {
			t.Fatal(n, err)
		}
		seen[n.String()] = true
	}
}

func BenchmarkCertificate(b *testing.B) {
	ca, err := Open(Options{Memory: true, Out: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("new", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i++
			if _, err := ca.Certificate(fmt.Sprintf("h%d.test", i)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kept", func(b *testing.B) {
		for b.Loop() {
			if _, err := ca.Certificate("pay.test"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestARenewalThatFails: a full or read-only disk does not stop https while the former certificate holds.
func TestARenewalThatFails(t *testing.T) {
	clock := noon()
	o := Options{Dir: filepath.Join(t.TempDir(), "ca"), Now: clock.now}
	ca := open(t, o)
	if err := errors.Join(os.RemoveAll(o.Dir), os.WriteFile(o.Dir, nil, 0o600)); err != nil { // nothing can be written below it
		t.Fatal(err)
	}
	clock.pass(350 * 24 * time.Hour)
	if err := holds(parse(t, ca.CertificatePEM()), leafOf(t, ca, "pay.test"), "pay.test", clock.at); err != nil {
		t.Error(err)
	}
	clock.pass(30 * 24 * time.Hour)
	if _, err := ca.Certificate("pay.test"); err == nil {
		t.Error("a leaf of a CA that has ended")
	}
	if err := os.Remove(o.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := holds(parse(t, ca.CertificatePEM()), leafOf(t, ca, "other.test"), "other.test", clock.at); err == nil {
		t.Error("the PEM was read before the renewal")
	}
	if err := holds(parse(t, ca.CertificatePEM()), leafOf(t, ca, "other.test"), "other.test", clock.at); err != nil {
		t.Error("not renewed when it could be:", err)
	}
}
