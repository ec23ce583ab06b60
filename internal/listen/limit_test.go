package listen

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serve is an echo on n places, and its address.
func serve(t *testing.T, n int, rested time.Duration, set func(*http.Server)) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write(body)
	}), slog.New(slog.DiscardHandler))
	if set != nil {
		set(server)
	}
	ended := make(chan error, 1)
	go func() { ended <- Serve(server, inner, n, rested) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return inner.Addr().String()
}

// errLate: this machine let the client stand for longer than a connection may rest, before its request was written.
var errLate = errors.New("the client was late")

// client has one connection, and no second try: what its server did not hear is an error.
type client struct {
	address string
	c       net.Conn
	r       *bufio.Reader
	used    time.Time
}

// post sends a request as the SDK's transport does: by a kept connection unless that is closed or older than its
// patience, the head and the body each by itself.
func (k *client) post(body string, keep bool, patience time.Duration) error {
	if k.c != nil && (time.Since(k.used) > patience || k.closed()) {
		k.c.Close()
		k.c = nil
	}
	if k.c == nil {
		c, err := net.DialTimeout("tcp", k.address, 30*time.Second)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		k.c, k.r, k.used = c, bufio.NewReader(c), time.Now()
	}
	_ = k.c.SetDeadline(time.Now().Add(30 * time.Second))
	connection := ""
	if !keep {
		connection = "Connection: close\r\n"
	}
	_, failed := fmt.Fprintf(k.c, "POST / HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n", connection, len(body))
	if failed == nil {
		_, failed = io.WriteString(k.c, body)
	}
	late := time.Since(k.used) > 2*patience
	resp, err := http.ReadResponse(k.r, nil)
	if failed != nil || err != nil {
		k.c.Close()
		k.c = nil
		if late {
			return errLate
		}
		return cmp.Or(failed, err)
	}
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || string(got) != body) {
		err = fmt.Errorf("%d %q", resp.StatusCode, got)
	}
	if k.used = time.Now(); resp.Close || err != nil {
		k.c.Close()
		k.c = nil
	}
	return err
}

// closed says whether the server has closed the connection.
func (k *client) closed() bool {
	raw, err := k.c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Control(func(fd uintptr) { // by a deadline that is over nothing would be read, neither its end
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN
	})
	return err != nil || !open
}

// TestManyClientsOnFewPlaces: a thousand that keep their connections, with pauses, on places for 64. Every request is
// answered, and soon.
func TestManyClientsOnFewPlaces(t *testing.T) {
	const clients, requests, rested = 1000, 20, 500 * time.Millisecond
	address := serve(t, 64, rested, nil)
	var slowest, late atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			k := &client{address: address}
			for n := range requests {
				begun := time.Now()
				err := k.post(fmt.Sprint(i, n), rand.IntN(4) > 0, rested/2)
				if err == errLate {
					late.Add(1)
					continue
				}
				if err != nil {
					t.Errorf("request %d of client %d after %v: %v", n, i, time.Since(begun), err)
					return
				}
				for d := time.Since(begun).Nanoseconds(); ; {
					was := slowest.Load()
					if d <= was || slowest.CompareAndSwap(was, d) {
						break
					}
				}
				if rand.IntN(20) == 0 {
					time.Sleep(rand.N(2 * rested))
				}
			}
			if k.c != nil {
				k.c.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("the slowest of %d requests took %v, %d clients were late", clients*requests, time.Duration(slowest.Load()), late.Load())
	if late.Load() > clients*requests/20 {
		t.Error("too few were in time to tell")
	}
}

// TestAClientMayConnectAheadOfItsRequest: a pool does, and a thousand threads do. The head's time begins with its first byte.
func TestAClientMayConnectAheadOfItsRequest(t *testing.T) {
	const head, whole = 100 * time.Millisecond, 200 * time.Millisecond
	address := serve(t, 4, time.Minute, func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout = head, whole })
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(2 * whole)
	k := &client{address: address, c: c, r: bufio.NewReader(c), used: time.Now()}
	for range 2 {
		if err := k.post("ahead", true, time.Minute); err != nil {
			t.Fatal(err)
		}
		if k.c != c {
			t.Fatal("the connection was not kept")
		}
	}
	half, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	time.Sleep(2 * head)
	if _, err := io.WriteString(half, "POST / HT"); err != nil {
		t.Fatal(err)
	}
	_ = half.SetReadDeadline(time.Now().Add(10 * time.Second))
	if text, err := io.ReadAll(half); strings.Contains(string(text), "200") || err != nil {
		t.Errorf("half a head: %q %v", text, err)
	}
}

// TestWhatHasArrivedIsAnswered: the request is there when the connection is asked to go.
func TestWhatHasArrivedIsAnswered(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := newLimited(inner, 1)
	l.server = Server(nil, slog.New(slog.DiscardHandler))
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := accepted.(*place)
	defer p.Close()
	text := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	read := func() (string, error) {
		var all strings.Builder
		for b := make([]byte, 10); ; {
			n, err := p.Read(b)
			all.Write(b[:n])
			if err != nil || all.Len() == len(text) {
				return all.String(), err
			}
		}
	}
	for range 2 { // as the first one and on a connection that was used
		l.rest(p)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		arrive(t, p)
		l.ask(time.Now())
		if got, err := read(); got != text || err != nil {
			t.Errorf("%q %v", got, err)
		}
		l.work(p)
	}
	l.rest(p)
	l.ask(time.Now())
	if got, err := read(); got != "" || err == nil {
		t.Errorf("who sent nothing stays: %q %v", got, err)
	}
}

// TestTLSComesThrough: who holds connections to a TLS listener, before or after the handshake or in the middle of it, keeps
// nobody out.
func TestTLSComesThrough(t *testing.T) {
	const places, rested = 8, 100 * time.Millisecond
	keys := httptest.NewTLSServer(nil) // has a certificate, and a client that trusts it
	defer keys.Close()
	address := serve(t, places, rested, func(s *http.Server) { s.TLSConfig = &tls.Config{Certificates: keys.TLS.Certificates} })
	trusting := keys.Client().Transport.(*http.Transport).TLSClientConfig
	for i := range 60 { // one place after another would take longer than the client waits
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch over := tls.Client(c, trusting); i % 3 {
		case 0:
			_, _ = c.Write([]byte{22, 3, 1}) // of a ClientHello
		case 1:
			go over.Handshake()
		}
	}
	for range 3 {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting.Clone(), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}}, Timeout: 20 * time.Second}
		resp, err := client.Post("https://example.com/", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "x" || err != nil {
			t.Errorf("%d %q %v", resp.StatusCode, body, err)
		}
		resp.Body.Close()
		client.CloseIdleConnections()
	}
}

// arrive waits until something can be read from p.
func arrive(t *testing.T, p *place) {
	t.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool { // what came before Read is not told again: each time it is looked for
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return n > 0 || err != syscall.EAGAIN
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAProbeComesThrough: twice as many as there are places hold connections without a word, or after a request, and
// come again as soon as theirs is closed. A probe of the health listener has one second.
func TestAProbeComesThrough(t *testing.T) {
	const places, rested = 64, 250 * time.Millisecond
	address := serve(t, places, rested, nil)
	stop, full := make(chan struct{}), make(chan struct{}, 2*places)
	var wg sync.WaitGroup
	for i := range 2 * places {
		wg.Go(func() {
			for begun := false; ; begun = true {
				c, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				if i%2 == 0 {
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
				}
				if !begun {
					full <- struct{}{}
				}
				ended := make(chan struct{})
				go func() {
					_, _ = io.Copy(io.Discard, c)
					close(ended)
				}()
				select {
				case <-ended:
					c.Close()
				case <-stop:
					c.Close()
					<-ended
					return
				}
			}
		})
	}
	for range 2 * places {
		<-full
	}
	var slowest time.Duration
	for range 10 {
		begun := time.Now()
		if err := (&client{address: address}).post("", false, 0); err != nil {
			t.Error(err)
		}
		slowest = max(slowest, time.Since(begun))
	}
	if t.Logf("the slowest probe took %v", slowest); slowest > 10*time.Second {
		t.Error("a probe waits too long")
	}
	close(stop)
	wg.Wait()
}
