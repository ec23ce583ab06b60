package e2e

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// kinds are the stores that a sidecar may stand on: each makes the section `store` of a configuration, but for its
// directory.
var kinds = map[string]func(t *testing.T) settings{
	"embedded": func(*testing.T) settings { return settings{"kind": "embedded"} },
	"redis": func(t *testing.T) settings {
		return settings{"kind": "redis", "seal_key": "oo_test_seal_key_1234", "redis": settings{"addrs": []string{startRedis(t)}}}
	},
}

// startRedis starts a server that keeps every write, and returns its address. It is ended with the test.
func startRedis(t *testing.T) string {
	t.Helper()
	server, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("redis-server is not installed; make tools installs it")
	}
	if err != nil {
		t.Skip("SKIPPED: redis-server is not installed; make tools installs it")
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(server, "--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) { // another process: there is nothing to wait on
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return addr
		}
	}
	t.Fatal("redis-server does not listen")
	return ""
}
