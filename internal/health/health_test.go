package health

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbes(t *testing.T) {
	var broken error
	h := &Handler{
		Checks: []Check{{"store", func() error { return broken }}, {"draining", func() error { return nil }}},
		Lines: func() []Line {
			return []Line{{"guarantee", "at most once per volume"}, {"clock", "went back\nforged: yes"}}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "oo_sidecar_calls_total 1\n") }),
	}
	s := httptest.NewServer(h.Routes())
	defer s.Close()
	for _, c := range []struct {
		broken       error
		method, path string
		host         string
		status       int
		body         string // exact, when not empty
	}{
		{nil, "GET", "/livez", "", 200, "ok\n"},
		{nil, "HEAD", "/livez", "", 200, ""},
		{nil, "GET", "/readyz", "", 200, "ok\n"},
		{nil, "GET", "/readyz?verbose", "", 200, "[+] store ok\n[+] draining ok\nguarantee: at most once per volume\nclock: went back forged: yes\nok\n"},
		{errors.New("disk full"), "GET", "/livez", "", 200, "ok\n"},
		{errors.New("disk full"), "GET", "/readyz", "", 503, "not ready: store\n"},
		{errors.New("disk\nfull"), "GET", "/readyz?verbose=1", "", 503, "[-] store: disk full\n[+] draining ok\nguarantee: at most once per volume\nclock: went back forged: yes\nnot ready: store\n"},
		{nil, "GET", "/metrics", "", 200, "oo_sidecar_calls_total 1\n"},
		{nil, "POST", "/readyz", "", 405, ""},
		{nil, "GET", "/", "", 404, ""},
		{nil, "GET", "/tools", "", 404, ""},
		{nil, "GET", "/livez/", "", 404, ""},
		{nil, "GET", "/debug/pprof/", "", 404, ""},
		{nil, "POST", "/tools/ok", "", 404, ""},
		{nil, "GET", "/readyz", "10.2.3.4:4782", 200, "ok\n"},
		{nil, "GET", "/readyz", "[2001:db8::7]:4782", 200, "ok\n"},
		{nil, "GET", "/readyz", "evil.example", 403, ""},
		{nil, "GET", "/metrics", "evil.example:4782", 403, ""},
	} {
		broken = c.broken
		r, _ := http.NewRequest(c.method, s.URL+c.path, nil)
		r.Host = c.host
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || c.body != "" && string(body) != c.body {
			t.Errorf("%s %s (Host %q): %d %q, want %d %q", c.method, c.path, c.host, resp.StatusCode, body, c.status, c.body)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: a page may read it", c.method, c.path)
		}
	}
}

func TestAbsoluteTargetsAndPathsInTheRawAreNotServed(t *testing.T) {
	s := httptest.NewServer((&Handler{}).Routes())
	defer s.Close()
	for _, target := range []string{"//livez", "/livez/../livez", "/%6civez/", "/metrics"} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", target)
		line, _ := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if !strings.HasPrefix(line, "HTTP/1.1 404") {
			t.Errorf("GET %s: %q", target, line)
		}
	}
}
