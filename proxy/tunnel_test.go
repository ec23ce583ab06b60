package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// far is the far end of a tunnel: what it reads of one connection.
type far struct {
	t  *testing.T
	ln net.Listener
	ap netip.AddrPort
}

func newFar(t *testing.T) *far {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &far{t, ln, ln.Addr().(*net.TCPAddr).AddrPort()}
}

func (f *far) accept() *net.TCPConn {
	f.t.Helper()
	c, err := f.ln.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func (f *far) dial(context.Context, string) (net.Conn, error) { return net.Dial("tcp", f.ap.String()) }

func tunnelRig(t *testing.T, f *far, change ...func(*rig, *Config)) *rig {
	return newRig(t, append([]func(*rig, *Config){func(g *rig, _ *Config) { g.dial = f.dial }}, change...)...)
}

// open asks for a tunnel and returns the connection with the head of the answer.
func (g *rig) open(target, more string) (*net.TCPConn, string) {
	g.t.Helper()
	c := g.connect()
	if _, err := io.WriteString(c, "CONNECT "+target+" HTTP/1.1\r\n\r\n"+more); err != nil {
		g.t.Fatal(err)
	}
	return c, readHead(c)
}

// ends reads what is still said. That the other side closes is what ends it, not the deadline that every connection of
// the tests has.
func ends(t *testing.T, what string, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s is open", what)
	}
}

func readHead(c io.Reader) string {
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
		if n, err := c.Read(b); n == 0 || err != nil {
			break
		}
	}
	return string(head)
}

// settled waits until the tunnel's goroutine has left its record.
func (g *rig) settled(tunnels, refused int) {
	g.t.Helper()
	g.until(func() bool { return g.tunnels == tunnels && len(g.refused) == refused })
}

// until waits for what the rig remembers to be so.
func (g *rig) until(is func() bool) {
	g.t.Helper()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		done := is()
		got := fmt.Sprint(g.tunnels, " tunnels, ", g.unused, " unused, refused ", g.refused)
		g.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(until) {
			g.t.Fatal(got)
		}
	}
}

func TestTunnelPassesBytesBothWaysWithHalfClose(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f)
	c, head := g.open("other.test:22", "\x00early ") // bytes sent behind the head are not lost
	if !strings.HasPrefix(head, "HTTP/1.1 200 ") || strings.Contains(head, "Content-Length") {
		t.Fatalf("%q", head)
	}
	there := f.accept()
	_, _ = io.WriteString(c, "late")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(there); string(got) != "\x00early late" || err != nil {
		t.Fatalf("%q %v", got, err)
	}
	_, _ = io.WriteString(there, "answer")
	there.Close()
	if got, err := io.ReadAll(c); string(got) != "answer" || err != nil {
		t.Fatalf("%q %v", got, err)
	}
	g.settled(1, 0)
}

func TestAFarEndMaySpeakFirst(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f)
	c, _ := g.open("other.test:22", "")
	there := f.accept()
	_, _ = io.WriteString(there, "SSH-2.0-x\r\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); line != "SSH-2.0-x\r\n" {
		t.Fatalf("%q", line)
	}
	_, _ = io.WriteString(c, "SSH-2.0-y\r\n") // begins like a method and is none
	if line, _ := bufio.NewReader(there).ReadString('\n'); line != "SSH-2.0-y\r\n" {
		t.Fatalf("%q", line)
	}
	g.settled(1, 0)
}

func TestTunnelsThatAreRefused(t *testing.T) {
	f := newFar(t)
	port := fmt.Sprint(f.ap.Port())
	for name, c := range map[string]struct {
		target string
		change func(*rig, *Config)
		code   string
	}{
		"a tool's host":           {"pay.test:443", nil, "destination_denied"},
		"in another spelling":     {"PAY.test.:443", nil, "destination_denied"},
		"unregistered under deny": {"other.test:443", func(g *rig, _ *Config) { g.snapshot.Unregistered = govern.Deny }, "tool_not_registered"},
		"agent switched off":      {"other.test:443", func(g *rig, _ *Config) { g.off["default"] = true }, "agent_disabled"},
		"unreachable": {"other.test:443", func(g *rig, _ *Config) {
			g.dial = func(context.Context, string) (net.Conn, error) { return nil, govern.ErrUnreachable }
		}, "upstream_unreachable"},
		"destination": {"other.test:443", func(g *rig, _ *Config) {
			g.dial = func(context.Context, string) (net.Conn, error) {
				return nil, fmt.Errorf("%w: x", govern.ErrDestination)
			}
		}, "destination_denied"},
		"a tool's address": {"127.0.0.1:" + port, func(g *rig, _ *Config) {
			g.register("https://pay.test:" + port + "/x")
			g.names["pay.test"] = f.ap.Addr()
		}, "destination_denied"},
		"a name of a tool's address": {"evil.test:" + port, func(g *rig, _ *Config) {
			g.register("https://pay.test:" + port + "/x")
			g.names["pay.test"] = f.ap.Addr()
		}, "destination_denied"},
		"tool by IP": {"evil.test:" + port, func(g *rig, _ *Config) { g.register("https://127.0.0.1:" + port + "/x") }, "destination_denied"},
		"no port":    {"other.test", nil, "bad_request"},
		"userinfo":   {"a@other.test:443", nil, "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			g := tunnelRig(t, f)
			if c.change != nil {
				c.change(g, nil)
			}
			_, head := g.open(c.target, "")
			if !strings.Contains(head, " ("+c.code+")\r\n") && c.code != "bad_request" || !strings.Contains(head, "X-OnceOnly-Reason: "+c.code) {
				t.Fatalf("%q", head)
			}
			g.settled(0, 1)
		})
	}
}

// register replaces the registry by one of a single tool.
func (g *rig) register(url string) { g.snapshot.Registry = registryOf(g.t, url) }

func TestConnectHostMustAgree(t *testing.T) {
	f := newFar(t)
	for host, want := range map[string]int{"other.test:443": 200, "other.test": 200, "OTHER.TEST:443": 200, "evil.test:443": 400, "evil.test": 400, "other.test:80": 400} {
		g := tunnelRig(t, f)
		c := g.connect()
		_, _ = io.WriteString(c, "CONNECT other.test:443 HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if head := readHead(c); statusOf(head) != want {
			t.Errorf("Host %s: %q", host, head)
		}
	}
}

// hello is a ClientHello for the name, in records of at most size bytes.
func hello(t *testing.T, name string, size int) string {
	t.Helper()
	near, end := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
	}()
	_ = end.SetDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 5)
	if _, err := io.ReadFull(end, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(end, body); err != nil {
		t.Fatal(err)
	}
	near.Close()
	var out strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		out.WriteString(string([]byte{head[0], head[1], head[2], byte(n >> 8), byte(n)}) + string(body[:n]))
		body = body[n:]
	}
	return out.String()
}

func TestServerNamesOfToolHostsAreRefused(t *testing.T) {
	f := newFar(t)
	for name, c := range map[string]struct {
		hello   string
		through bool
	}{
		"a tool's":            {hello(t, "pay.test", 1<<14), false},
		"in records of seven": {hello(t, "pay.test", 7), false},
		"in upper case":       {hello(t, "PAY.test", 1<<14), false},
		"the tunnel's":        {hello(t, "other.test", 1<<14), true},
		"another host's":      {hello(t, "elsewhere.test", 1<<14), false}, // a front would lead there
		"none":                {hello(t, "", 1<<14), true},
		"no hello":            {"\x16\x03\x01\x00\x04xxxx", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, passthrough := range []bool{false, true} {
				g := tunnelRig(t, f, func(g *rig, _ *Config) { g.snapshot.Passthrough = func(string) bool { return passthrough } })
				conn, _ := g.open("other.test:443", "")
				there := f.accept()
				_, _ = io.WriteString(conn, c.hello)
				if c.through {
					got := make([]byte, len(c.hello))
					if _, err := io.ReadFull(there, got); err != nil || string(got) != c.hello {
						t.Fatalf("%d bytes, %v", len(got), err)
					}
					g.settled(1, 0)
					continue
				}
				if got, err := io.ReadAll(there); len(got) > 0 {
					t.Fatalf("%q went through, %v", got, err)
				}
				g.settled(0, 1)
			}
		})
	}
}

func TestTheKillSwitchClosesTunnels(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f)
	c, _ := g.open("other.test:443", "\x00")
	there := f.accept()
	g.settled(1, 0)
	g.CloseTunnels("somebody else")
	_, _ = io.WriteString(there, "x")
	if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	g.CloseTunnels("default")
	ends(t, "the agent's side", c)
	ends(t, "the far side", there)
}

// TestADepartedGuestsTunnelsClose: a child that outlives its `run` loses the way out that it has open.
func TestADepartedGuestsTunnelsClose(t *testing.T) {
	var who atomic.Pointer[Identity]
	guests := map[string]Guest{"run-1": {"billing", "token-of-run-1"}, "run-2": {"billing", "token-of-run-2"}}
	who.Store(&Identity{Guarded: true, Guests: guests})
	f := newFar(t)
	g := tunnelRig(t, f)
	g.Server.Identity = who.Load
	open := func(run string) (near, there net.Conn) {
		c := g.connect()
		_, _ = io.WriteString(c, "CONNECT other.test:443 HTTP/1.1\r\nProxy-Authorization: "+credentials(run, "token-of-"+run)+"\r\n\r\n")
		if head := readHead(c); statusOf(head) != 200 {
			t.Fatal(head)
		}
		_, _ = io.WriteString(c, "\x00")
		return c, f.accept()
	}
	gone, itsFar := open("run-1")
	stays, far := open("run-2")
	g.settled(2, 0)
	who.Store(&Identity{Guarded: true, Guests: map[string]Guest{"run-2": guests["run-2"]}})
	g.CloseDeparted()
	ends(t, "the tunnel of who left", gone)
	ends(t, "its far side", itsFar)
	_, _ = io.ReadFull(far, make([]byte, 1))
	_, _ = io.WriteString(far, "x")
	if n, err := stays.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Error("the tunnel of who stays is closed:", err)
	}
}

func TestSilentTunnelsEnd(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f, func(_ *rig, c *Config) { c.TunnelIdle = 50 * time.Millisecond })
	c, _ := g.open("other.test:443", "\x00")
	there := f.accept()
	ends(t, "a silent tunnel's far side", there) // without anybody closing
	ends(t, "a silent tunnel", c)
	g.settled(1, 0)
	for g.Running() > 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestHTTPInTheClearInsideATunnelIsGoverned(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f)
	body := "POST /ok HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\n\r\nbody"
	for target, host := range map[string]string{"tool.test:80": "tool.test", "pay.test:80": "pay.test:80", "other.test:8080": "other.test:8080"} {
		before, refusedBefore := g.seen()
		c, head := g.open(target, "")
		if statusOf(head) != 200 {
			t.Fatalf("%s: %q", target, head)
		}
		request := fmt.Sprintf(body, host)
		_, _ = io.WriteString(c, request+request+fmt.Sprintf(body, "evil.test"))
		_ = c.CloseWrite()
		out, _ := io.ReadAll(c)
		governed, refused := g.seen()
		if strings.Count(string(out), "HTTP/1.1 200") != 2 || strings.Count(string(out), "HTTP/1.1 400") != 1 || len(governed) != len(before)+2 || len(refused) != len(refusedBefore)+1 {
			t.Fatalf("%s: governed %d, refused %v: %q", target, len(governed)-len(before), refused, out)
		}
		r := governed[len(governed)-1]
		if r.Route != govern.Inside || r.Target.String() != "http://"+target+"/ok" || string(r.Body) != "body" {
			t.Fatalf("%+v", r)
		}
	}
	if g.tunnels != 0 {
		t.Error("counted as opaque")
	}
}

func TestTLSToAToolRegisteredInTheClearIsRefused(t *testing.T) {
	g := tunnelRig(t, newFar(t))
	c, head := g.open("tool.test:80", hello(t, "tool.test", 1<<14))
	if statusOf(head) != 200 {
		t.Fatalf("%q", head)
	}
	if out, _ := io.ReadAll(c); len(out) > 0 {
		t.Fatalf("%q", out)
	}
	g.settled(0, 1)
}

func TestNoTunnelWithinATunnel(t *testing.T) {
	g := tunnelRig(t, newFar(t))
	c, _ := g.open("tool.test:80", "")
	_, _ = io.WriteString(c, "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 501 {
		t.Fatal(resp, err)
	}
}

func TestOpaqueTLSWithARealClient(t *testing.T) {
	f := newFar(t)
	g := tunnelRig(t, f)
	certificate := selfSigned(t)
	go func() {
		_ = http.Serve(tls.NewListener(f.ln, &tls.Config{Certificates: []tls.Certificate{certificate}}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "over TLS")
		}))
	}()
	client := http.Client{Transport: &http.Transport{Proxy: proxyTo(g.addr), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://other.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != "over TLS" {
		t.Fatalf("%q", got)
	}
	if _, err := client.Get("https://pay.test/v1/charges"); err == nil || !strings.Contains(err.Error(), "destination_denied") {
		t.Fatalf("a tool's host: %v", err)
	}
}

// TestRefusedTunnelsAreLogged: no client shows why, and an agent cannot fill the log.
func TestRefusedTunnelsAreLogged(t *testing.T) {
	g := tunnelRig(t, newFar(t))
	g.open("pay.test:443", "")
	g.mu.Lock()
	if len(g.logged) != 1 || !strings.Contains(g.logged[0], "pay.test:443") || !strings.Contains(g.logged[0], "destination_denied") {
		t.Error(g.logged)
	}
	g.mu.Unlock()
	p, now := sparing{}, time.Unix(1000, 0)
	for second := range 3 {
		lines := 0
		for range 1000 {
			if p.may(now.Add(time.Duration(second) * time.Second)) {
				lines++
			}
		}
		if lines != 10 {
			t.Errorf("%d lines in a second", lines)
		}
	}
}
