package injector

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

var testNames = []string{"oo-sidecar-injector.oo-sidecar-injector.svc"}

// trusted verifies a served certificate as an API server would that has this bundle.
func trusted(leaf *tls.Certificate, bundle []byte, now time.Time) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	_, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: testNames[0], CurrentTime: now})
	return err
}

// TestThreeYearsOfRotation goes through the time in steps: at each the certificate that is served is good for an API
// server whose bundle is half an hour old, and for one whose clock is four minutes off.
func TestThreeYearsOfRotation(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var all authorities
	var served *tls.Certificate
	var former []byte // the bundle of the step before
	made, leaves, most, verify := 0, 0, 0, 0
	for now := start; now.Before(start.AddDate(3, 0, 0)); now = now.Add(30 * time.Minute) {
		list, changed, err := all.next(testNames, now)
		if err != nil {
			t.Fatal(err)
		}
		if changed {
			made, verify = made+1, 5
			text, err := list.marshal()
			if err != nil {
				t.Fatal(err)
			}
			if list, err = parseAuthorities(text); err != nil {
				t.Fatal(err)
			}
		}
		all = list
		if former == nil {
			former = all.bundle()
		}
		if signer := all.signer(now); due(served, signer, now) {
			leaves, verify = leaves+1, 5
			if served, err = signer.leaf(testNames, now); err != nil {
				t.Fatal(err)
			}
		}
		if verify--; verify < -24 { // between changes twice a day will do
			verify = 0
		}
		for _, off := range []time.Duration{-4 * time.Minute, 0, 4 * time.Minute} {
			if verify < 0 {
				break
			}
			if err := trusted(served, former, now.Add(off)); err != nil {
				t.Fatalf("%s: %v", now, err)
			}
		}
		former, most = all.bundle(), max(most, len(all))
	}
	if made < 6 || made > 14 || leaves < 50 || leaves > 80 || most > 3 {
		t.Errorf("%d changes of the authorities, %d leaves, at most %d authorities at once", made, leaves, most)
	}
}

func TestAuthoritiesSignForTheirServiceOnly(t *testing.T) {
	a, err := newAuthority(testNames, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, err := a.leaf([]string{"kubernetes.default.svc"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if _, err := other.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "kubernetes.default.svc"}); err == nil {
		t.Error("a certificate for another service is taken")
	}
}

func TestDamagedAuthoritiesAreRefused(t *testing.T) {
	all, _, err := authorities(nil).next(testNames, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := authorities(nil).next(testNames, time.Now())
	text, _ := all.marshal()
	mixed, _ := authorities{{all[0].cert, other[0].key}}.marshal()
	for name, data := range map[string][]byte{"half": text[:len(text)/2], "without its key": all.bundle(), "another's key": mixed} {
		if list, err := parseAuthorities(data); err == nil {
			t.Errorf("%s: read as %d authorities", name, len(list))
		}
	}
	if list, err := parseAuthorities(nil); err != nil || list != nil {
		t.Errorf("nothing: %v, %v", list, err)
	}
}
