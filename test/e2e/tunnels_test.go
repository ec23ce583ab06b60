package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// roots are those that the sidecar's clients are told to trust.
func (s *sidecar) roots() *x509.CertPool {
	s.t.Helper()
	out, errs, code := s.cli("ca", "print")
	pool := x509.NewCertPool()
	if code != 0 || !pool.AppendCertsFromPEM([]byte(out)) {
		s.t.Fatalf("ca print: exit %d, %s%s", code, out, errs)
	}
	return pool
}

// resident is the memory of the sidecar's process in bytes, with what it touched at most so far.
func (s *sidecar) resident() (now, most int64) {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		switch name, rest, _ := strings.Cut(line, ":"); name {
		case "VmRSS":
			_, _ = fmt.Sscan(rest, &kb)
			now = kb << 10
		case "VmHWM":
			_, _ = fmt.Sscan(rest, &kb)
			most = kb << 10
		}
	}
	return now, most
}

// TestAThousandTunnels holds as many tunnels at once in 100 MB: opened ones, each with five governed requests of 4 KiB
// behind it, and opaque ones through which 64 KiB have passed both ways.
func TestAThousandTunnels(t *testing.T) {
	const n = 1000
	body, large := `"`+strings.Repeat("body", 1<<10)+`"`, strings.Repeat("large ", 64<<10/6)
	t.Run("opened", func(t *testing.T) {
		trusted := newAuthority(t)
		a := actOn(t, tls.NewListener(loopback(t), &tls.Config{Certificates: []tls.Certificate{trusted.issue("pay.test", time.Now().Add(time.Hour))}}), "https",
			func(x *scene) { x.answer(200, x.body) })
		a.URL = "https://pay.test:" + port(a.URL)
		s := start(t, []settings{a.tool("pay", settings{"effect": "read"})}, settings{"proxy": settings{
			"resolve": settings{"pay.test": "127.0.0.1"}, "upstream_ca": trusted.file, "intercept": settings{"enabled": true}}})
		conf, host := &tls.Config{RootCAs: s.roots(), ServerName: "pay.test"}, "pay.test:"+port(a.URL)
		request := plain("POST", "/pay", host, body, "Authorization", "Bearer "+large[:2<<10])
		checkMemory(t, s, many(n, 8, func(int) error {
			c, r := s.tunnel(host)
			if c == nil {
				return fmt.Errorf("CONNECT: %d %s", r.status, r.code())
			}
			over := tls.Client(c, conf)
			answers := bufio.NewReader(over)
			for range 5 {
				if _, err := io.WriteString(over, request); err != nil {
					return err
				}
				if r := listen(answers, "POST"); r.status != 200 || r.body != body {
					return fmt.Errorf("%d, %d bytes: %.200s", r.status, len(r.body), r.body)
				}
			}
			return nil
		}))
	})
	t.Run("opaque", func(t *testing.T) {
		far := echo(t)
		s := start(t, nil, settings{"proxy": settings{"unregistered": "pass", "allow_private": []string{"127.0.0.0/8"}}})
		checkMemory(t, s, many(n, 8, func(int) error {
			c, r := s.tunnel(far)
			if c == nil {
				return fmt.Errorf("CONNECT: %d %s", r.status, r.code())
			}
			go func() { _, _ = io.WriteString(c, "\x00"+large) }()
			_, err := io.CopyN(io.Discard, c, int64(len(large)+1))
			return err
		}))
	})
}

func checkMemory(t *testing.T, s *sidecar, failed []error) {
	t.Helper()
	const bound = 100 << 20
	for i, err := range failed {
		if err != nil {
			t.Fatalf("tunnel %d: %v", i, err)
		}
	}
	now, most := s.resident()
	t.Logf("%d tunnels: %d MB now, %d MB at most", len(failed), now>>20, most>>20)
	if most > bound {
		t.Errorf("the sidecar took %d MB for %d tunnels, more than %d", most>>20, len(failed), bound>>20)
	}
}
