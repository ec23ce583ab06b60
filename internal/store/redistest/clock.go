package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

//go:embed testdata/clock.c
var clockSource string

// StartWithClock is Start for a server whose wall clock the test sets by SetClock. It needs a C compiler, and Linux.
func StartWithClock(t testing.TB, args ...string) *Server {
	t.Helper()
	compiler, binary, dir := needed.Program(t, "cc"), needed.Program(t, "redis-server"), t.TempDir()
	source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	if err := os.WriteFile(source, []byte(clockSource), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("compile the clock: %v: %s", err, out)
	}
	s := &Server{beside: filepath.Join(dir, "beside"), t: t}
	s.env = append(os.Environ(), "LD_PRELOAD="+library, "CLOCK_BESIDE="+s.beside)
	s.SetClock(0)
	return s.start(binary, t.TempDir(), freePort(t), args)
}

// SetClock sets the server's wall clock that far ahead of this machine's, in whole seconds.
func (s *Server) SetClock(ahead time.Duration) {
	s.t.Helper()
	file, err := os.OpenFile(s.beside, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = binary.Write(file, binary.NativeEndian, int64(ahead/time.Second))
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
