package redistest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Relay stands between a client and a server and loses what the test wants lost. It counts scripts: EVAL, EVALSHA and
// FCALL.
type Relay struct {
	Addr string // what clients dial

	target string

	mu      sync.Mutex
	conns   map[net.Conn]bool // of clients and to the server; guarded by mu
	lose    int               // the lose-th script from now; 0: none; guarded by mu
	silent  bool              // the connection of a lost reply stays open; guarded by mu
	lost    int               // replies lost; guarded by mu
	scripts int               // passed on; guarded by mu
	delay   time.Duration     // of every reply; guarded by mu
	hole    chan struct{}     // while not nil nothing passes; closed when it ends; guarded by mu
	ended   bool              // guarded by mu
}

// NewRelay starts a relay to the server's address; it ends with the test.
func NewRelay(t testing.TB, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: l.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { r.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.end()
		work.Wait()
	})
	return r
}

// Lose loses the reply of the n-th script from now (1 is the next): the server runs it, the client's connection is cut.
func (r *Relay) Lose(n int) { r.set(func() { r.lose, r.silent = n, false }) }

// Swallow is Lose with a connection that stays open and silent.
func (r *Relay) Swallow(n int) { r.set(func() { r.lose, r.silent = n, true }) }

// Delay holds every reply back for that long.
func (r *Relay) Delay(d time.Duration) { r.set(func() { r.delay = d }) }

// Blackhole lets nothing pass in either direction, connections stay open; Open ends it.
func (r *Relay) Blackhole() {
	r.set(func() {
		if r.hole == nil {
			r.hole = make(chan struct{})
		}
	})
}

// Open ends a Blackhole; what was held passes.
func (r *Relay) Open() {
	r.set(func() {
		if r.hole != nil {
			close(r.hole)
			r.hole = nil
		}
	})
}

// Cut closes every connection.
func (r *Relay) Cut() {
	r.set(func() {
		for c := range r.conns {
			_ = c.Close()
		}
	})
}

// Lost is how many replies were lost so far.
func (r *Relay) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Scripts is how many scripts reached the server so far.
func (r *Relay) Scripts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scripts
}

func (r *Relay) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *Relay) end() {
	r.set(func() { r.ended = true })
	r.Open()
	r.Cut()
}

// keep remembers a connection for Cut; false when the relay has ended.
func (r *Relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = true
	return !r.ended
}

func (r *Relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	_ = c.Close()
}

// fate is what becomes of one command's reply.
type fate struct{ lost, silent, subscribed bool }

func (r *Relay) serve(client net.Conn) {
	defer r.forget(client)
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer r.forget(server)
	if !r.keep(client) || !r.keep(server) {
		return
	}
	fates := make(chan fate, 1<<16)
	var back sync.WaitGroup
	back.Go(func() {
		r.replies(client, server, fates)
		_ = client.Close()
	})
	r.commands(client, server, fates)
	close(fates)
	_ = server.Close()
	back.Wait()
}

func (r *Relay) commands(client, server net.Conn, fates chan<- fate) {
	in := bufio.NewReader(client)
	for {
		raw, name, err := readRaw(in)
		if err != nil {
			return
		}
		r.pass()
		fates <- r.fateOf(name)
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

func (r *Relay) fateOf(name string) fate {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch strings.ToLower(name) {
	case "subscribe", "psubscribe":
		return fate{subscribed: true}
	case "eval", "evalsha", "fcall":
	default:
		return fate{}
	}
	r.scripts++
	if r.lose == 0 {
		return fate{}
	}
	r.lose--
	return fate{lost: r.lose == 0, silent: r.silent}
}

func (r *Relay) replies(client, server net.Conn, fates <-chan fate) {
	out := bufio.NewReader(server)
	for {
		raw, _, err := readRaw(out)
		if err != nil {
			return
		}
		f := <-fates
		r.pass()
		r.mu.Lock()
		delay := r.delay
		if f.lost {
			r.lost++
		}
		r.mu.Unlock()
		switch {
		case f.lost && f.silent:
			_, _ = io.Copy(io.Discard, server)
			return
		case f.lost:
			return
		}
		time.Sleep(delay)
		if _, err := client.Write(raw); err != nil {
			return
		}
		if f.subscribed {
			_, _ = io.Copy(client, out)
			return
		}
	}
}

// pass waits for the end of a Blackhole.
func (r *Relay) pass() {
	r.mu.Lock()
	hole := r.hole
	r.mu.Unlock()
	if hole != nil {
		<-hole
	}
}

// readRaw reads one value as it came, and the first string in it: the name of a command.
func readRaw(in *bufio.Reader) (raw []byte, first string, err error) {
	var buf bytes.Buffer
	err = copyValue(in, &buf, &first)
	return buf.Bytes(), first, err
}

func copyValue(in *bufio.Reader, to *bytes.Buffer, first *string) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	to.WriteString(line)
	n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch {
	case line[0] == '$' && n >= 0:
		at := to.Len()
		_, err = io.CopyN(to, in, int64(n)+2)
		if *first == "" && err == nil {
			*first = string(to.Bytes()[at : at+n])
		}
	case line[0] == '*':
		for ; n > 0 && err == nil; n-- {
			err = copyValue(in, to, first)
		}
	}
	return err
}
