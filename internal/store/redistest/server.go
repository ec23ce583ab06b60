// Package redistest starts real Redis servers for tests, on free loopback ports and in directories of the test, and ends
// them with it. A relay between client and server loses, cuts and delays what tests want lost.
package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// Server is one redis-server. Its methods end the test when they fail.
type Server struct {
	Addr string // of its listener, host:port; in clear, also when it speaks TLS beside

	t      testing.TB
	dir    string
	args   []string
	env    []string // nil: this process's
	beside string   // the file that sets its clock
	cmd    *exec.Cmd
	exit   chan struct{} // closed when the process has ended
}

// Start starts one server that keeps every write (appendonly, appendfsync always) and evicts nothing. Further settings
// are given as on its command line, such as "--maxmemory", "8mb".
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{t: t}
	return s.start(needed.Program(t, "redis-server"), t.TempDir(), freePort(t), args)
}

func (s *Server) start(binary, dir string, port int, args []string) *Server {
	s.t.Helper()
	s.Addr, s.dir = net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), dir
	s.args = append([]string{
		binary, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--save", "", "--appendonly", "yes",
		"--appendfsync", "always", "--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", filepath.Join(dir, "log"),
		"--repl-diskless-sync-delay", "0", "--enable-debug-command", "local",
	}, args...)
	s.run()
	s.t.Cleanup(s.Kill)
	s.await()
	return s
}

func (s *Server) run() {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Env, s.cmd.SysProcAttr = s.env, endWithTest()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.args[0], err)
	}
	s.exit = make(chan struct{})
	go func(cmd *exec.Cmd, exit chan struct{}) {
		_ = cmd.Wait()
		close(exit)
	}(s.cmd, s.exit)
}

// await waits until the server answers, as loaded.
func (s *Server) await() {
	s.t.Helper()
	Eventually(s.t, "redis-server at "+s.Addr+" answers", func() error {
		select {
		case <-s.exit:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("redis-server ended: %s", log)
		default:
		}
		reply, err := Ask(s.Addr, "PING")
		if err == nil && reply != "PONG" {
			err = fmt.Errorf("%v", reply)
		}
		return err
	})
}

// Do sends one command and gives its reply: a string, an int64, a []any or nil.
func (s *Server) Do(args ...string) any {
	s.t.Helper()
	reply, err := Ask(s.Addr, args...)
	if err != nil {
		s.t.Fatalf("%s: %s: %v", s.Addr, strings.Join(args, " "), err)
	}
	return reply
}

// Info is one line of INFO.
func (s *Server) Info(name string) string {
	s.t.Helper()
	text, _ := s.Do("INFO", "everything").(string)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

// Pause stops the process (SIGSTOP): connections stay and nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("%v to redis-server: %v", sig, err)
	}
}

// Kill ends the process at once (SIGKILL).
func (s *Server) Kill() {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("kill redis-server: %v", err)
	}
	<-s.exit
}

// Restart starts it again on the same port and data after a Kill, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.run()
	s.await()
}

// Eventually waits until the condition holds.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s until %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freePort is a port on which, like on that of the cluster's bus 10,000 above it, nobody listens now. It is below those
// that the system gives to outgoing connections: one of those may be taken while a server is down that will be back.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_240 + rand.IntN(10_000)
		if free(port) && free(port+10_000) {
			return port
		}
	}
	t.Fatal("no free port in 100 tries")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
