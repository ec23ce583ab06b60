package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// actor is a tool on bare TCP: it keeps every byte of every request, and answers as its script says.
type actor struct {
	URL    string
	script func(*scene)

	mu    sync.Mutex
	heard []heard             // guarded by mu
	count map[string]int      // guarded by mu: requests by target and body
	conns map[net.Conn]string // guarded by mu: what each has sent so far, whether or not it is a request
}

// heard is one request as it came.
type heard struct {
	raw, method, target, body string
	fields                    [][2]string
}

// get is the only value of a header; two of them are shown with a bar between them.
func (h heard) get(name string) string {
	var all []string
	for _, f := range h.fields {
		if strings.EqualFold(f[0], name) {
			all = append(all, f[1])
		}
	}
	return strings.Join(all, " | ")
}

// scene is one request at an actor, and the connection on which it is to be answered.
type scene struct {
	heard
	net.Conn
	nth int // which request with this target and body it is, from 1
}

// say writes what the sidecar shall read, byte for byte.
func (x *scene) say(text string) { _, _ = io.WriteString(x, text) }

// answer is a whole answer with a length.
func (x *scene) answer(status int, body string, headers ...string) {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d Status\r\n", status)
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if status != 204 && status != 304 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	x.say(b.String() + "\r\n" + body)
}

// reset ends the connection without a word.
func (x *scene) reset() {
	if tcp, ok := x.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = x.Close()
}

// name is the last part of the target, by which scripts tell tools apart.
func (x *scene) name() string { return x.target[strings.LastIndexByte(x.target, '/')+1:] }

func loopback(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// act starts a tool that answers as script says. A script that returns without having closed the connection is asked
// again for the next request on it.
func act(t testing.TB, script func(*scene)) *actor {
	t.Helper()
	return actOn(t, loopback(t), "http", script)
}

func actOn(t testing.TB, ln net.Listener, scheme string, script func(*scene)) *actor {
	t.Helper()
	a := &actor{URL: scheme + "://" + ln.Addr().String(), script: script, count: map[string]int{}, conns: map[net.Conn]string{}}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			a.enter(c)
			go a.serve(c)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		a.mu.Lock()
		for c := range a.conns {
			c.Close()
		}
		a.mu.Unlock()
	})
	return a
}

// ok answers with a body that no other request gets.
func ok(x *scene) {
	x.answer(200, fmt.Sprintf(`{"target":%q,"nth":%d,"key":%q}`, x.target, x.nth, x.get("Idempotency-Key")), "Content-Type", "application/json")
}

func (a *actor) enter(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[c] = ""
}

func (a *actor) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(&tap{c, a})
	for {
		h, err := read(r)
		if err != nil {
			return
		}
		a.script(&scene{heard: h, Conn: c, nth: a.keep(h)})
	}
}

// tap shows the actor what comes before anything is made of it.
type tap struct {
	net.Conn
	a *actor
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.a.conns[t.Conn] += string(p[:min(n, 64)])
	return n, err
}

func (a *actor) keep(h heard) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = append(a.heard, h)
	a.count[h.target+"\n"+h.body]++
	return a.count[h.target+"\n"+h.body]
}

func read(r *bufio.Reader) (h heard, err error) {
	var raw strings.Builder
	for {
		line, err := r.ReadString('\n')
		raw.WriteString(line)
		if err != nil {
			return h, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			break
		}
		if h.method == "" {
			words := strings.Split(line, " ")
			if len(words) != 3 {
				return h, fmt.Errorf("no request line: %q", line)
			}
			h.method, h.target = words[0], words[1]
			continue
		}
		name, value, _ := strings.Cut(line, ": ")
		h.fields = append(h.fields, [2]string{name, value})
	}
	n, _ := strconv.Atoi(h.get("Content-Length"))
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	h.body = string(body)
	h.raw = raw.String() + h.body
	return h, err
}

// requests are those that came for a tool, all of them with "".
func (a *actor) requests(name string) (some []heard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.heard {
		if name == "" || h.target[strings.LastIndexByte(h.target, '/')+1:] == name {
			some = append(some, h)
		}
	}
	return some
}

// ran is how often a tool was called, all of them together with "".
func (a *actor) ran(name string) int { return len(a.requests(name)) }

// times is how often a body came.
func (a *actor) times(body string) (n int) {
	for _, h := range a.requests("") {
		if h.body == body {
			n++
		}
	}
	return n
}

// words is everything that came on any connection, requests or not, cut short.
func (a *actor) words() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	for _, said := range a.conns {
		b.WriteString(said)
	}
	return b.String()
}

// signed has a tool's calls signed with a secret of its own.
var signed = settings{"type": "hmac_sha256"}

// tool is the registration of one of the actor's tools.
func (a *actor) tool(name string, more settings) settings {
	all := settings{"name": name, "url": a.URL + "/" + name, "timeout": "5s"}
	for k, v := range more {
		all[k] = v
	}
	if _, is := all["auth"]; is {
		all["auth"] = settings{"type": "hmac_sha256", "secrets": []string{"the-secret-of-the-tool-" + name}}
	}
	return all
}
