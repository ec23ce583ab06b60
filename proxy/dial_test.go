package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/needed"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// newDialer is a dialer whose name server is answers; a name that it does not hold does not exist.
func newDialer(t *testing.T, c Config, answers map[string][]string, own ...netip.AddrPort) *Dialer {
	t.Helper()
	d, err := NewDialer(c, own...)
	if err != nil {
		t.Fatal(err)
	}
	d.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		texts, ok := answers[host]
		if !ok {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return addrs(texts...), nil
	}
	return d
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// listenOn accepts and drops connections on a free port.
func listenOn(t *testing.T, host string) (port string) {
	t.Helper()
	l, port := listenOnAll(t, host)
	drop(l[0])
	return port
}

func drop(l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// listenOnAll listens at one port of all the hosts, which are addresses of loopback: one that is free on each of them.
func listenOnAll(t *testing.T, hosts ...string) (all []net.Listener, port string) {
	t.Helper()
	var err error
	for range 20 {
		all, port = nil, "0"
		for _, host := range hosts {
			var l net.Listener
			if l, err = net.Listen("tcp", net.JoinHostPort(host, port)); err != nil {
				break
			}
			t.Cleanup(func() { l.Close() })
			all = append(all, l)
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
		if err == nil {
			return all, port
		}
	}
	needed.Missing(t, err.Error()) // Linux has all of 127.0.0.0/8
	return nil, ""
}

func TestNewDialerErrors(t *testing.T) {
	for key, c := range map[string]Config{
		"proxy.resolve":       {Resolve: map[string]string{"a": "b"}},
		"proxy.allow_private": {AllowPrivate: []string{"10.0.0.1"}},
		"proxy.via":           {Via: "proxy:3128"},
		"proxy.via:":          {Via: "socks5://u:hunter2@proxy:1"},
		"proxy.via: ":         {Via: "http://u:hunter2@proxy:99999"},
		"proxy.upstream_ca":   {UpstreamCA: "/does/not/exist"},
	} {
		_, err := NewDialer(c)
		if err == nil || !strings.Contains(err.Error(), strings.TrimRight(key, ": ")) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestDialJudges(t *testing.T) {
	port := listenOn(t, "127.0.0.1")
	target := func(host string) tool.Target {
		return tool.Target{Scheme: "http", Authority: host + ":" + port, Path: "/"}
	}
	names := map[string][]string{
		"local.test": {"127.0.0.1"}, "inward.test": {"10.0.0.1", "fd00::1"}, "mapped.test": {"::ffff:127.0.0.1"},
		"cloud.test": {"169.254.169.254"}, "mixed.test": {"10.0.0.1", "127.0.0.1"},
	}
	resolve := map[string]string{"Fixed.test.": "127.0.0.1", "stolen.test": "169.254.169.254"}
	for _, c := range []struct {
		name    string
		host    string
		tool    *tool.Tool
		allowed []string
		why     string // of the refusal; empty: reached
	}{
		{"loopback by name", "local.test", nil, nil, "127.0.0.1 is loopback"},
		{"loopback by name, mapped", "mapped.test", nil, nil, "is loopback"},
		{"loopback by address", "127.0.0.1", nil, nil, "is loopback"},
		{"private, both families", "inward.test", nil, nil, "10.0.0.1 is private"},
		{"the refusal says where from", "inward.test", nil, nil, "looking up inward.test"},
		{"metadata by name", "cloud.test", &tool.Tool{Private: true}, []string{"0.0.0.0/0"}, "metadata"},
		{"metadata by its name", "metadata.google.internal", &tool.Tool{Private: true}, []string{"0.0.0.0/0"}, "metadata"},
		{"metadata by proxy.resolve", "stolen.test", nil, nil, "metadata"},
		{"an address in another spelling", "2130706433", nil, []string{"0.0.0.0/0"}, "usual form"},

		{"proxy.resolve", "fixed.test", nil, nil, ""},
		{"proxy.resolve, any case", "FIXED.test", nil, nil, ""},
		{"allow_private", "local.test", nil, []string{"127.0.0.0/8"}, ""},
		{"allow_private, mapped", "mapped.test", nil, []string{"127.0.0.0/8"}, ""},
		{"private: true", "local.test", &tool.Tool{Private: true}, nil, ""},
		{"one of two may be reached", "mixed.test", nil, []string{"127.0.0.0/8"}, ""},
		{"literal in the tool's url", "127.0.0.1", &tool.Tool{Target: target("127.0.0.1")}, nil, ""},
		{"literal in the tool's match", "127.0.0.1", &tool.Tool{Matches: []tool.Match{{Authority: "127.0.0.1:" + port}}}, nil, ""},
		{"literal of a stand-in", "127.0.0.1", &tool.Tool{Target: target("127.0.0.1"), Unregistered: true}, nil, "is loopback"},
		{"literal of another port", "127.0.0.1", &tool.Tool{Target: tool.Target{Authority: "127.0.0.1:1"}}, nil, "is loopback"},
		{"a name in the tool's url", "local.test", &tool.Tool{Target: target("local.test")}, nil, "is loopback"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDialer(t, Config{Resolve: resolve, AllowPrivate: c.allowed}, names)
			conn, err := d.Dial(t.Context(), c.host+":"+port, c.tool)
			if err == nil {
				conn.Close()
			}
			checkJudged(t, c.host, err, c.why)
		})
	}
}

func TestDialRefusesOwnListeners(t *testing.T) {
	port := listenOn(t, "127.0.0.1")
	own := netip.MustParseAddrPort("127.0.0.1:" + port)
	everything := Config{Resolve: map[string]string{"api.test": "127.0.0.1"}, AllowPrivate: []string{"0.0.0.0/0", "::/0"}}
	d := newDialer(t, everything, map[string][]string{"me.test": {"::ffff:127.0.0.1"}}, own)
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "me.test", "api.test", "[::ffff:127.0.0.1]"} {
		conn, err := d.Dial(t.Context(), host+":"+port, &tool.Tool{Private: true})
		if err == nil {
			conn.Close()
		}
		checkJudged(t, host, err, "listener of this sidecar")
	}
}

// A name is resolved once for each dial, and a name server that changes its mind gains nothing.
func TestRebinding(t *testing.T) {
	both, port := listenOnAll(t, "127.0.0.2", "127.0.0.1")
	for _, l := range both {
		drop(l)
	}
	asked := 0
	d, err := NewDialer(Config{AllowPrivate: []string{"127.0.0.2/32"}})
	if err != nil {
		t.Fatal(err)
	}
	d.lookup = func(context.Context, string) ([]netip.Addr, error) {
		asked++
		if asked%2 == 1 {
			return addrs("127.0.0.2"), nil
		}
		return addrs("127.0.0.1"), nil
	}
	for range 3 {
		before := asked
		conn, err := d.Dial(t.Context(), "rebound.test:"+port, nil)
		if err != nil {
			t.Fatal(err)
		}
		if peer := conn.RemoteAddr().String(); peer != "127.0.0.2:"+port || asked != before+1 {
			t.Errorf("reached %s after %d look-ups", peer, asked-before)
		}
		conn.Close()
		if _, err := d.Dial(t.Context(), "rebound.test:"+port, nil); !errors.Is(err, govern.ErrDestination) {
			t.Errorf("the second answer was followed: %v", err)
		}
	}
}

func TestDialFallsThrough(t *testing.T) {
	noLeaks(t)
	both, port := listenOnAll(t, "127.0.0.1", "127.0.0.9")
	drop(both[0])
	full := deaf(t, both[1])
	for name, answer := range map[string][]string{
		"refused first":              {"127.0.0.8", "127.0.0.7", "127.0.0.1"},
		"other family first":         {"::1", "127.0.0.1"},
		"other family last":          {"127.0.0.1", "::1"},
		"silent first":               {full, "127.0.0.1"},
		"silent and refused and all": {full, "::1", "127.0.0.8", "127.0.0.1"},
	} {
		d := newDialer(t, loopback, map[string][]string{"tool.test": answer})
		conn, err := d.Dial(t.Context(), "tool.test:"+port, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if peer := conn.RemoteAddr().String(); peer != "127.0.0.1:"+port {
			t.Errorf("%s: reached %s", name, peer)
		}
		conn.Close()
	}
}

// deaf fills the listener's queue, so that connecting neither works nor fails, and gives its host.
func deaf(t *testing.T, l net.Listener) (host string) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return l.Addr().(*net.TCPAddr).IP.String()
		}
		t.Cleanup(func() { conn.Close() })
	}
	needed.Missing(t, "this system does not let a queue fill up")
	return ""
}

func TestDialErrors(t *testing.T) {
	noLeaks(t)
	both, port := listenOnAll(t, "127.0.0.1", "127.0.0.9")
	drop(both[0])
	full := deaf(t, both[1])
	d := newDialer(t, loopback, map[string][]string{"empty.test": {}, "dead.test": {"127.0.0.8", "127.0.0.7"}})
	for _, c := range []struct{ authority, words string }{
		{"none.test:80", "look up none.test: no such host"},
		{"empty.test:80", "the name has no address"},
		{"dead.test:" + port, "connect 127.0.0."},
		{"dead.test:" + port, "connection refused"},
	} {
		if _, err := d.Dial(t.Context(), c.authority, nil); !errors.Is(err, govern.ErrUnreachable) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.authority, err, c.words)
		}
	}
	for _, authority := range []string{"tool", "tool:", "tool:0", "tool:65536", "tool:http", ":80", "a:b:c", "::1:80"} {
		if _, err := d.Dial(t.Context(), authority, nil); !errors.Is(err, govern.ErrDestination) {
			t.Errorf("%q: %v", authority, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, full+":"+port, nil); !errors.Is(err, govern.ErrUnreachable) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("a silent address: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := d.Dial(ctx, full+":"+port, nil); !errors.Is(err, context.Canceled) || !errors.Is(err, govern.ErrUnreachable) {
		t.Errorf("given up: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	d := newDialer(t, Config{Resolve: map[string]string{"fixed.test": "::ffff:10.1.1.1"}}, map[string][]string{"many.test": {"::ffff:8.8.8.8", "2001:4860:4860::8888"}})
	for host, want := range map[string][]netip.Addr{
		"fixed.test": addrs("10.1.1.1"), "Many.Test.": addrs("8.8.8.8", "2001:4860:4860::8888"), "127.0.0.1": addrs("127.0.0.1"), "::ffff:127.0.0.1": addrs("127.0.0.1"),
	} {
		if got, err := d.Addresses(t.Context(), host); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", host, got, err, want)
		}
	}
	if _, err := d.Addresses(t.Context(), "none.test"); !errors.Is(err, govern.ErrUnreachable) {
		t.Errorf("no name: %v", err)
	}
}

// The real resolver reads /etc/hosts.
func TestSystemLookup(t *testing.T) {
	got, err := lookupSystem(t.Context(), "localhost")
	if err != nil || !slices.ContainsFunc(got, netip.Addr.IsLoopback) {
		t.Errorf("localhost: %v, %v", got, err)
	}
}

func TestSecretsDoNotGoInTheClear(t *testing.T) {
	x := newRawTool(t, serving(okAnswer))
	_, port, _ := net.SplitHostPort(x.addr)
	names := map[string][]string{"local.test": {"127.0.0.1"}, "inside.test": {"10.0.0.1"}, "public.test": {"93.184.216.34"}}
	for _, c := range []struct {
		name, host, scheme string
		tool               tool.Tool
		refused            bool
	}{
		{"signature to a public address", "public.test", "http", tool.Tool{Auth: &tool.Auth{}}, true},
		{"credential to a public address", "public.test", "http", tool.Tool{Headers: []tool.Header{{Name: "Authorization", Value: "x"}}}, true},
		{"credential to a private address", "inside.test", "http", tool.Tool{Auth: &tool.Auth{}, Private: true}, true},
		{"credential to loopback", "local.test", "http", tool.Tool{Auth: &tool.Auth{}, Private: true}, false},
	} {
		u := newUpstream(t, Config{})
		u.Dialer().lookup = newDialer(t, Config{}, names).lookup
		a := attemptTo(net.JoinHostPort(c.host, port))
		a.Target.Scheme, a.Tool = c.scheme, &c.tool
		s := send(t, u, a)
		if !c.refused {
			s.wantWhole(t, 200, "ok")
			continue
		}
		s.wantError(t, govern.Queued, govern.ErrDestination, "in the clear")
	}
}
