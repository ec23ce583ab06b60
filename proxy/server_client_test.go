package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func proxyTo(addr string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: addr}, nil }
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"other.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func registryOf(t *testing.T, urls ...string) *tool.Registry {
	t.Helper()
	var tools []*tool.Tool
	for _, u := range urls {
		tools = append(tools, registered(t, tool.Config{Name: "t" + string(rune('a'+len(tools))), URL: u}))
	}
	r, err := tool.NewRegistry(tools)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNetHTTPClientsAtOnce(t *testing.T) {
	g := newRig(t)
	client := http.Client{Transport: &http.Transport{Proxy: proxyTo(g.addr), MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 25 {
				resp, err := client.Post("http://other.test/x", "text/plain", strings.NewReader("0123456789"))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(resp.Body); string(body) != "fine" || err != nil || resp.Header.Get("X-Body") != "10" {
					t.Errorf("%q %v", body, err)
				}
				resp.Body.Close()
			}
		})
	}
	all.Wait()
	if governed, refused := g.seen(); len(governed) != 400 || len(refused) != 0 {
		t.Error(len(governed), refused)
	}
}

func TestCurl(t *testing.T) {
	needed.Program(t, "curl")
	g := newRig(t)
	file := t.TempDir() + "/body"
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 300<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"forward":       {"-x", "http://" + g.addr, "-d", "a=1", "http://other.test/x"},
		"reverse":       {"--json", `{"a":1}`, "http://" + g.addr + "/tools/ok"},
		"with Expect":   {"-H", "Expect: 100-continue", "--data-binary", "@" + file, "http://" + g.addr + "/tools/ok"},
		"chunked":       {"-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@" + file, "http://" + g.addr + "/tools/ok"},
		"h2c":           {"--http2", "-d", "a=1", "http://" + g.addr + "/tools/ok"},
		"HTTP/1.0":      {"-0", "-d", "a=1", "http://" + g.addr + "/tools/ok"},
		"in the tunnel": {"-p", "-x", "http://" + g.addr, "-d", "a=1", "http://tool.test/ok"},
	} {
		out, err := exec.Command("curl", append([]string{"-sS", "-m", "10", "--noproxy", ""}, args...)...).CombinedOutput()
		if err != nil || string(out) != "fine" {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
}
