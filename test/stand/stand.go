// Package stand is what the tests of this module stand on: the sidecar, built; programs that others made; free ports.
// What is missing skips the test, and fails it where CI=true: a test that nobody runs is none.
package stand

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Missing says why a test cannot run.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip("SKIPPED: " + why)
}

// Program is the path of a program; `make tools` installs those that the tests use.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name+" is not installed; make tools installs it")
	}
	return path
}

// Installed is the path of what `make tools` puts below bin/.
func Installed(t testing.TB, parts ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{repository(t), "bin"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		Missing(t, filepath.Join(append([]string{"bin"}, parts...)...)+" is not there; make tools installs it")
	}
	return path
}

// Root is asked for by what only root may do, in a namespace or to another process.
func Root(t testing.TB, what string) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "only root can "+what)
	}
}

// Corpus reads the test data of other projects that a pattern names below $OO_CORPORA, or in shared/corpora beside the
// repository, by their file names.
func Corpus(t testing.TB, pattern string) map[string]string {
	t.Helper()
	root := os.Getenv("OO_CORPORA")
	if root == "" {
		root = filepath.Join(repository(t), "..", "shared", "corpora")
	}
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		Missing(t, "the test data "+pattern+" is missing; set OO_CORPORA to the folder of the corpora")
	}
	all := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = string(data)
	}
	return all
}

// Sidecar is the program under test: $OO_BIN, or built once for this run. It stands below bin/, so that a run that is
// killed leaves nothing elsewhere.
func Sidecar(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("OO_BIN"); bin != "" {
		return bin
	}
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var built = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin", "tested", "oo-sidecar")
	own := fmt.Sprintf("%s.%d", bin, os.Getpid())
	build := exec.Command("go", "build", "-o", own, "./cmd/oo-sidecar")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return bin, os.Rename(own, bin) // whole, under the eyes of another package's tests
})

// repository is its folder; tests run in those of their packages, two below it.
func repository(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// nextPort goes through the ports below those that the kernel gives to connections and to ":0", from a place of this
// process's own: a port that is free when it is chosen is still free when the sidecar binds it.
var nextPort = func() *atomic.Int32 {
	n := &atomic.Int32{}
	n.Store(int32(os.Getpid()*37%11000) + 20000)
	return n
}()

// FreeAddr is a loopback address that nobody listens on, and that is given to nobody else in this run.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+nextPort.Add(1)%12000)
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	panic("unreachable")
}
