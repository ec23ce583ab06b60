package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
)

// intercepting writes a configuration with this section proxy.intercept and returns its path.
func intercepting(t *testing.T, section string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "oo.yaml")
	text := "version: 1\nstore: {embedded: {dir: " + filepath.Join(dir, "store") + "}}\nproxy: {intercept: {" + strings.ReplaceAll(section, "DIR", dir) + "}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCA(t *testing.T) {
	for name, c := range map[string]struct{ section, dir string }{
		"beside the store": {"enabled: true", "store/ca"},
		"where it says":    {"enabled: true, ca_dir: DIR/own", "own"},
		"for others":       {"enabled: true, ca_dir: DIR/own, ca_out: DIR/shared", "shared"},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			file := intercepting(t, c.section)
			path := filepath.Join(filepath.Dir(file), c.dir, intercept.CertificateFile)
			if code, out, err := line(t, "ca", "path", "--config", file); code != 0 || out != path+"\n" || err != "" {
				t.Fatal(code, out, err)
			}
			_, printed, _ := line(t, "ca", "print", "--config", file)
			if data, err := os.ReadFile(path); err != nil || string(data) != printed || !x509.NewCertPool().AppendCertsFromPEM(data) {
				t.Errorf("%q %v", printed, err)
			}
			_, bundle, _ := line(t, "ca", "path", "--bundle", "--config", file)
			if bundle != filepath.Join(filepath.Dir(path), intercept.BundleFile)+"\n" {
				t.Error(bundle)
			}
			if _, again, _ := line(t, "ca", "print", "--bundle", "--config", file); !strings.HasPrefix(again, printed) {
				t.Error("the bundle does not begin with the CA")
			}
		})
	}
}

// TestCAIsShownAsItIs: another environment's roots do not go into the bundle of a sidecar that is running.
func TestCAIsShownAsItIs(t *testing.T) {
	alone(t)
	file := intercepting(t, "enabled: true")
	_, before, _ := line(t, "ca", "print", "--bundle", "--config", file)
	other := intercepting(t, "enabled: true")
	_, root, _ := line(t, "ca", "path", "--config", other)
	t.Setenv("SSL_CERT_FILE", strings.TrimSpace(root))
	if _, after, _ := line(t, "ca", "print", "--bundle", "--config", file); after != before {
		t.Error("showing it changed it")
	}
}

func TestCAThatCannotBeShown(t *testing.T) {
	alone(t)
	memory := intercepting(t, "enabled: true, ca_key: memory, ca_out: DIR/shared")
	if code, out, err := line(t, "ca", "print", "--config", memory); code != 1 || out != "" || !strings.Contains(err, "start serve first") {
		t.Error(code, out, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(filepath.Dir(memory), "shared")); len(entries) > 0 {
		t.Error(entries)
	}
	open := intercepting(t, "enabled: true, ca_dir: DIR/own")
	own := filepath.Join(filepath.Dir(open), "own")
	if os.Mkdir(own, 0o700) != nil || os.Chmod(own, 0o777) != nil {
		t.Fatal("no directory")
	}
	if code, out, err := line(t, "ca", "path", "--config", open); code != 1 || out != "" || !strings.Contains(err, "chmod 700") {
		t.Error(code, out, err)
	}
	for _, args := range [][]string{{"ca", "print", "--config", "/absent.yaml"}, {"ca", "show"}, {"ca", "print", "more"}, {"ca", "print", "--x"}} {
		if code, _, err := line(t, args...); code != 2 {
			t.Error(args, code, err)
		}
	}
}

func TestCAOfASidecarThatOpensNothing(t *testing.T) {
	alone(t)
	file := intercepting(t, "enabled: false")
	if code, out, err := line(t, "ca", "print", "--config", file); code != 0 || !strings.Contains(out, "BEGIN CERTIFICATE") || !strings.Contains(err, "intercept.enabled is false") {
		t.Error(code, out, err)
	}
}
