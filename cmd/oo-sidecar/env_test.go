package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// envConfig is a configuration whose paths and tokens no shell likes.
func envConfig(t *testing.T, more string) (file, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "it's $HOME \\ here")
	file = filepath.Join(t.TempDir(), "oo-sidecar.yaml")
	text := "version: 1\nproxy: {intercept: {enabled: true}}\nstore: {embedded: {dir: '" + strings.ReplaceAll(dir, "'", "''") + "'}}\n" + more
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

const envUsers = "agent: {id: billing, proxy_users: {billing: \"tok'en$x/with:all@of-it\"}}\n"

func call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// parsed are the variables as a reader of the form sees them.
func parsed(t *testing.T, shell, text string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	switch shell {
	case "k8s":
		var manifest struct {
			Env []struct{ Name, Value string }
		}
		if err := yaml.Unmarshal([]byte(text), &manifest); err != nil {
			t.Fatal(err)
		}
		for _, v := range manifest.Env {
			seen[v.Name] = v.Value
		}
		return seen
	case "dotenv":
		text = strings.ReplaceAll("\n"+text, "\n", "\nexport ") // a reader of .env files unquotes as sh does
		text = strings.TrimSuffix(text, "export ")
	}
	out, err := exec.Command("sh", "-c", text+"\nenv -0").Output()
	if err != nil {
		t.Fatalf("sh does not read it: %v\n%s", err, text)
	}
	for entry := range strings.SplitSeq(string(out), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		seen[name] = value
	}
	return seen
}

func TestEnvIsReadBack(t *testing.T) {
	for _, name := range append([]string{"NO_PROXY", "no_proxy", "JAVA_TOOL_OPTIONS", "NODE_EXTRA_CA_CERTS"}, pod.CANames...) {
		t.Setenv(name, "")
	}
	file, dir := envConfig(t, envUsers)
	const proxy = "http://billing:tok%27en$x%2Fwith%3Aall%40of-it@127.0.0.1:4780"
	bundle := filepath.Join(dir, "ca", "bundle.pem")
	for _, shell := range []string{"sh", "dotenv", "k8s"} {
		out, errs, code := call(t, "env", "--shell", shell, "--config", file)
		if code != 0 {
			t.Fatalf("%s: exit %d, %s", shell, code, errs)
		}
		seen := parsed(t, shell, out)
		url := proxy
		if shell == "k8s" {
			url = "http://billing:$(OO_PROXY_TOKEN)@127.0.0.1:4780"
			if !strings.Contains(out, `secretKeyRef: {name: oo-sidecar-proxy, key: "billing"}`) || strings.Contains(out, "tok") {
				t.Errorf("the token's place in the manifest:\n%s", out)
			}
		}
		for name, want := range map[string]string{
			"HTTP_PROXY": url, "http_proxy": url, "HTTPS_PROXY": url, "https_proxy": url, "ALL_PROXY": url, "all_proxy": url,
			"NO_PROXY": "127.0.0.1,localhost,::1", "no_proxy": "127.0.0.1,localhost,::1", "NODE_USE_ENV_PROXY": "1",
			"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "CURL_CA_BUNDLE": bundle,
			"NODE_EXTRA_CA_CERTS": filepath.Join(dir, "ca", "ca.pem"),
		} {
			if seen[name] != want {
				t.Errorf("%s: %s is %q, wanted %q", shell, name, seen[name], want)
			}
		}
	}
	out, _, _ := call(t, "env", "--shell", "fish", "--config", file)
	if want := `set -gx SSL_CERT_FILE '` + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(bundle) + "'\n"; !strings.Contains(out, want) {
		t.Errorf("fish: no %s in\n%s", want, out)
	}
}

func TestEnvRefuses(t *testing.T) {
	file, _ := envConfig(t, envUsers)
	plain, _ := envConfig(t, "")
	for name, args := range map[string][]string{
		"an unknown shell":       {"env", "--shell", "cmd", "--config", file},
		"an unknown agent":       {"env", "--agent", "nobody", "--config", file},
		"an agent without users": {"env", "--agent", "nobody", "--config", plain},
		"an argument":            {"env", "sh", "--config", file},
	} {
		if out, errs, code := call(t, args...); code != 2 || out != "" || errs == "" {
			t.Errorf("%s: exit %d, %q, %q", name, code, out, errs)
		}
	}
}

func TestNoProxy(t *testing.T) {
	for name, c := range map[string]struct {
		upper, lower, want string
		notes              int
	}{
		"nothing":            {"", "", "127.0.0.1,localhost,::1", 0},
		"both":               {"a.test,localhost", " b.test , a.test,", "127.0.0.1,localhost,::1,a.test,b.test", 1},
		"everything":         {"*", "", "127.0.0.1,localhost,::1", 1},
		"everything and one": {"*,a.test", "*", "127.0.0.1,localhost,::1,a.test", 3},
	} {
		got, notes := pod.NoProxy(func(name string) (string, bool) {
			return map[string]string{"NO_PROXY": c.upper, "no_proxy": c.lower}[name], true
		})
		if got != c.want || len(notes) != c.notes {
			t.Errorf("%s: %q with notes %q", name, got, notes)
		}
	}
}

func TestJavaOptions(t *testing.T) {
	o := outlet{Proxy: "127.0.0.1:4780", Trust: trust{Store: "/x/bundle.p12"}}
	once := o.Java("-Xmx64m -Dhttp.proxyHost=corp -Djavax.net.ssl.trustStore=/old")
	if twice := o.Java(once); twice != once {
		t.Errorf("applied twice: %q, then %q", once, twice)
	}
	options := strings.Fields(once)
	for _, want := range []string{"-Xmx64m", "-Dhttp.proxyHost=127.0.0.1", "-Dhttps.proxyPort=4780", "-Djavax.net.ssl.trustStore=/x/bundle.p12"} {
		if !slices.Contains(options, want) {
			t.Errorf("no %s in %q", want, once)
		}
	}
	if strings.Contains(once, "corp") || strings.Contains(once, "/old") {
		t.Errorf("what it replaces is still there: %q", once)
	}
}

// TestTrustStore: a Java virtual machine finds every certificate of the bundle in the store.
func TestTrustStore(t *testing.T) {
	file, _ := envConfig(t, "")
	cfg, _, err := config.Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := findTrust(cfg, func(string) (string, bool) { return "", false }, false)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(found.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	own, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(needed.Program(t, "keytool"), "-list", "-keystore", found.Store, "-storetype", "PKCS12", "-v").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := strings.Count(string(data), "BEGIN CERTIFICATE"); strings.Count(string(out), "trustedCertEntry") != want || !strings.Contains(string(out), own.Subject.CommonName) {
		t.Errorf("of %d certificates Java sees %d", want, strings.Count(string(out), "trustedCertEntry"))
	}
}
