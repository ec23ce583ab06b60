package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// caFile is the rig's CA as a client's file.
func (g *rig) caFile() string {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, g.ca.CertificatePEM(), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return file
}

func TestNetHTTPClientsThroughTLSAtOnce(t *testing.T) {
	g := openingRig(t, nil)
	transport := &http.Transport{Proxy: proxyTo(g.addr), TLSClientConfig: g.trust(""), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16}
	client := http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				resp, err := client.Post("https://pay.test/v1/charges", "text/plain", strings.NewReader("0123456789"))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(resp.Body); string(body) != "fine" || err != nil || resp.Header.Get("X-Body") != "10" || resp.Proto != "HTTP/1.1" {
					t.Errorf("%s %q %v", resp.Proto, body, err)
				}
				resp.Body.Close()
			}
		})
	}
	all.Wait()
	client.CloseIdleConnections()
	if governed, refused := g.seen(); len(governed) != 200 || len(refused) != 0 { // of connections made in vain, too
		t.Error(len(governed), refused)
	}
}

func TestCurlThroughTLS(t *testing.T) {
	needed.Program(t, "curl")
	g := openingRig(t, HostList{"all"})
	ca, file := g.caFile(), filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 300<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) (string, error) {
		out, err := exec.Command("curl", append([]string{"-sS", "-m", "10", "--noproxy", "", "-x", "http://" + g.addr, "--cacert", ca}, args...)...).CombinedOutput()
		return string(out), err
	}
	for name, args := range map[string][]string{
		"a tool":          {"-d", "a=1", "https://pay.test/v1/charges"},
		"h2 offered":      {"--http2", "-d", "a=1", "https://pay.test/v1/charges"},
		"TLS 1.2":         {"--tls-max", "1.2", "-d", "a=1", "https://pay.test/v1/charges"},
		"another port":    {"-d", "a=1", "https://other.test:8443/x"},
		"an address":      {"-d", "a=1", "https://192.0.2.1/x"},
		"an IPv6 address": {"-d", "a=1", "https://[2001:db8::1]/x"},
		"with Expect":     {"-H", "Expect: 100-continue", "--data-binary", "@" + file, "https://pay.test/v1/charges"},
		"chunked":         {"-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@" + file, "https://pay.test/v1/charges"},
		"HTTP/1.0":        {"-0", "--no-alpn", "-d", "a=1", "https://pay.test/v1/charges"},
		"HTTP/1.0 proxy":  {"--proxy1.0", "http://" + g.addr, "-d", "a=1", "https://pay.test/v1/charges"},
	} {
		if out, err := curl(args...); err != nil || out != "fine" {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
	if out, err := curl("-d", "a=1", "https://pay.test/v1/charges", "--next", "-sS", "-x", "http://"+g.addr, "--cacert", ca, "-d", "a=2", "https://pay.test/v1/charges"); err != nil || out != "finefine" {
		t.Errorf("kept alive: %q %v", out, err)
	}
	if out, err := curl("-H", "Host: other.test", "-w", "%{http_code}", "-o", "/dev/null", "https://pay.test/v1/charges"); err != nil || out != "400" {
		t.Errorf("another Host: %q %v", out, err)
	}
	if out, err := exec.Command("curl", "-sS", "-m", "10", "--noproxy", "", "-x", "http://"+g.addr, "--cacert", os.DevNull, "https://pay.test/v1/charges").CombinedOutput(); err == nil {
		t.Errorf("a client that does not trust the CA: %q", out)
	}
}

const pythonClient = `
import socket, ssl, sys
host, port, ca, server = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
s = socket.create_connection((host, port), timeout=10)
s.sendall(b"CONNECT pay.test:443 HTTP/1.0\r\n\r\n")
head = b""
while b"\r\n\r\n" not in head:
    head += s.recv(1)
assert head.split()[1] == b"200", head
c = ssl.create_default_context(cafile=ca)
if hasattr(ssl, "VERIFY_X509_STRICT"): c.verify_flags |= ssl.VERIFY_X509_STRICT
t = c.wrap_socket(s, server_hostname=server)
for n in range(3):
    t.sendall(b"POST /v1/charges HTTP/1.1\r\nHost: pay.test\r\nContent-Length: 3\r\n\r\nabc")
    got = b""
    while not got.endswith(b"fine"):
        got += t.recv(4096)
print(t.version(), t.selected_alpn_protocol())
`

func TestPythonThroughTLS(t *testing.T) {
	python := needed.Program(t, "python3")
	g := openingRig(t, nil)
	host, port, _ := strings.Cut(g.addr, ":")
	if out, err := exec.Command(python, "-c", pythonClient, host, port, g.caFile(), "pay.test").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "TLSv1.3") {
		t.Errorf("%s %v", out, err)
	}
	if governed, refused := g.seen(); len(governed) != 3 || len(refused) != 0 {
		t.Error(len(governed), refused)
	}
	if out, err := exec.Command(python, "-c", pythonClient, host, port, g.caFile(), "other.test").CombinedOutput(); err == nil || !strings.Contains(string(out), "UNRECOGNIZED_NAME") && !strings.Contains(string(out), "unrecognized name") {
		t.Errorf("another server name: %s %v", out, err)
	}
}

func TestStreamsThroughTLS(t *testing.T) {
	const get11, get10 = "GET /v1/charges HTTP/1.1\r\nHost: pay.test\r\n\r\n", "GET /v1/charges HTTP/1.0\r\n\r\n"
	broken := errors.New("cut")
	for name, c := range map[string]struct {
		request string
		stream  pieces
		whole   bool
	}{
		"chunked":           {get11, pieces{length: -1, all: []string{"one", "two"}}, true},
		"of known length":   {get11, pieces{length: 6, all: []string{"one", "two"}}, true},
		"to HTTP/1.0":       {get10, pieces{length: -1, all: []string{"one", "two"}}, true},
		"cut, chunked":      {get11, pieces{length: -1, all: []string{"one", "two"}, err: broken}, false},
		"cut, known length": {get11, pieces{length: 9, all: []string{"one", "two"}, err: broken}, false},
		"cut, to HTTP/1.0":  {get10, pieces{length: -1, all: []string{"one", "two"}, err: broken}, false},
	} {
		t.Run(name, func(t *testing.T) {
			next, delivered := make(chan struct{}), make(chan bool, 1)
			c.stream.next = next
			g := openingRig(t, nil)
			g.answer = func(*govern.Request) *govern.Reply {
				return &govern.Reply{Status: 200, Stream: &c.stream, Delivered: func(whole bool) { delivered <- whole }}
			}
			over, _ := g.secure("pay.test:443", g.trust("pay.test"))
			_, _ = io.WriteString(over, c.request)
			next <- struct{}{}
			resp, err := http.ReadResponse(bufio.NewReader(over), nil)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 3)
			if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "one" { // before the second is made
				t.Fatalf("%q %v", first, err)
			}
			next <- struct{}{}
			rest, err := io.ReadAll(resp.Body)
			if (err == nil) != c.whole || c.whole && string(rest) != "two" {
				t.Errorf("%q %v", rest, err)
			}
			if whole := <-delivered; whole != c.whole {
				t.Errorf("delivered: %t", whole)
			}
		})
	}
}

// TestAClientThatHungUpIsNoticedThroughTLS: the alert by which it says goodbye looks like data.
func TestAClientThatHungUpIsNoticedThroughTLS(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, leaves := range map[string]bool{"stays": false, "hangs up": true} {
			g := openingRig(t, nil)
			started, release, delivered := make(chan struct{}), make(chan struct{}), make(chan bool, 1)
			g.answer = func(*govern.Request) *govern.Reply {
				close(started)
				<-release
				return &govern.Reply{Status: 200, Delivered: func(whole bool) { delivered <- whole }}
			}
			conf := g.trust("pay.test")
			conf.MaxVersion = version
			c, _ := g.secure("pay.test:443", conf)
			_, _ = io.WriteString(c, inner)
			<-started
			if leaves {
				_ = c.CloseWrite()
			}
			release <- struct{}{}
			if whole := <-delivered; whole == leaves {
				t.Errorf("%x, %s: delivered %t", version, name, whole)
			}
		}
	}
}
