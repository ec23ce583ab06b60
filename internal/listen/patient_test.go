package listen

import (
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// starved is a listener that fails before it accepts, as accept4 does.
type starved struct {
	net.Listener
	fails []error
	tried atomic.Int32
}

func (l *starved) Accept() (net.Conn, error) {
	if n := int(l.tried.Add(1)); n <= len(l.fails) {
		return nil, l.fails[n-1]
	}
	return l.Listener.Accept()
}

func acceptError(errno syscall.Errno) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
}

func TestPatientListenerOutlastsWhatPasses(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	l := Patient(&starved{Listener: inner, fails: []error{
		acceptError(syscall.EMFILE), acceptError(syscall.ENFILE), acceptError(syscall.ENOBUFS), acceptError(syscall.ENOMEM), acceptError(syscall.ECONNABORTED),
	}}, slog.New(slog.NewTextHandler(&log, nil)))
	server, ended := &http.Server{Handler: http.NotFoundHandler()}, make(chan error)
	go func() { ended <- server.Serve(l) }()
	resp, err := http.Get("http://" + l.Addr().String())
	if err != nil || resp.StatusCode != 404 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	_ = server.Close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("%d lines were logged: %s", n, log.String())
	}
}

func TestPatientListenerTellsWhatStays(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	broken := Patient(&starved{Listener: inner, fails: []error{acceptError(syscall.EBADF)}}, log)
	if _, err := broken.Accept(); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a broken listener: %v", err)
	}
	_ = broken.Close()
	if _, err := broken.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v", err)
	}
	waiting := Patient(&starved{Listener: inner, fails: []error{acceptError(syscall.EMFILE)}}, log)
	_ = waiting.Close()
	if _, err := waiting.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed while it waits: %v", err)
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		files       uint64
		parts, want int
	}{{300, 12, 112}, {300, 4, 37}, {1024, 12, 384}, {1 << 20, 12, 8192}, {math.MaxUint64, 12, 8192}, {64, 1, 4}} {
		if got := share(c.files, c.parts, 8192); got != c.want {
			t.Errorf("%d of 32 of %d files: %d, want %d", c.parts, c.files, got, c.want)
		}
	}
}
