package listen

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWhichHostsMeanTheListener(t *testing.T) {
	v4 := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4781}
	v6 := &net.TCPAddr{IP: net.ParseIP("::1"), Port: 4781}
	for _, c := range []struct {
		host  string
		local net.Addr
		hosts Hosts
		want  bool
	}{
		{"127.0.0.1:4781", v4, Hosts{}, true},
		{"127.0.0.1", v4, Hosts{}, true},
		{"127.0.0.1:9", v4, Hosts{}, true}, // forwarded port
		{"localhost:4781", v4, Hosts{}, true},
		{"LocalHost.", v4, Hosts{}, true},
		{"[::1]:4781", v6, Hosts{}, true},
		{"[::1]", v6, Hosts{}, true},
		{"[::ffff:127.0.0.1]:1", v4, Hosts{}, true},
		{"evil.example:4781", v4, Hosts{}, false},
		{"localhost.evil.example", v4, Hosts{}, false},
		{"127.0.0.1.evil.example", v4, Hosts{}, false},
		{"127.0.0.2", v4, Hosts{}, false},
		{"10.1.2.3:4782", v4, Hosts{}, false},
		{"10.1.2.3:4782", v4, Hosts{AnyIP: true}, true},
		{"[2001:db8::1]:4782", v6, Hosts{AnyIP: true}, true},
		{"[fe80::1%25eth0]:4782", v6, Hosts{AnyIP: true}, false},
		{"evil.example", v4, Hosts{AnyIP: true}, false},
		{"0x7f.1", v4, Hosts{AnyIP: true}, false},
		{"", v4, Hosts{AnyIP: true}, false},
		{"sidecar.test:4781", v4, Hosts{Names: []string{"Sidecar.test"}}, true},
		{"", v4, Hosts{Names: []string{""}}, false},
	} {
		if got := c.hosts.allow(c.host, c.local); got != c.want {
			t.Errorf("Host %q at %v with %+v: %v, want %v", c.host, c.local, c.hosts, got, c.want)
		}
	}
}

func TestGuardOnARealListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Server(Hosts{}.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") })), slog.New(slog.DiscardHandler))
	go s.Serve(l)
	defer s.Close()
	for host, want := range map[string]int{"": 200, "localhost": 200, "evil.example": 403} {
		r, _ := http.NewRequest("GET", "http://"+l.Addr().String(), nil)
		r.Host = host
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || (want == 200) != strings.Contains(string(body), "served") {
			t.Errorf("Host %q: %d %s", host, resp.StatusCode, body)
		}
	}
}

func TestLimitHoldsFurtherConnectionsBack(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimited(inner, 1)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 3 { // each is accepted only once the one before has gone
		c := <-accepted
		select {
		case <-accepted:
			t.Fatal("two connections at once")
		default:
		}
		c.Close()
		c.Close()
	}
	l.Close()
	if _, open := <-accepted; open {
		t.Error("a closed listener accepts")
	}
}

// TestWhoOnlyHoldsConnectionsKeepsNobodyOut: silent ones, half-sent heads and idle connections give way to whoever has a
// request; a connection with a request does not.
func TestWhoOnlyHoldsConnectionsKeepsNobodyOut(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	server := Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-end
		}
		_, _ = io.WriteString(w, "ok")
	}), slog.New(slog.DiscardHandler))
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = Serve(server, inner, 4, 50*time.Millisecond) }()
	t.Cleanup(func() { server.Close() })
	open := func(text string) net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	read := func(c net.Conn) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	slow := open("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-begun
	open("")
	open("GET /half HTTP/1.1\r\nHost: loc")
	read(open("GET /idle HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	for range 6 { // more than those that hold the places
		read(open("GET /fresh HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	}
	close(end)
	read(slow)
}
