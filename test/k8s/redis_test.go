package k8s

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
	core "k8s.io/api/core/v1"
)

// redisOf starts the Redis of a rendered overlay: its configuration and its users, in a directory of this test.
func redisOf(t *testing.T, r rendered) (addr string) {
	t.Helper()
	server := stand.Program(t, "redis-server")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "users.acl"), string(r.secret(t, "oo-sidecar-redis")["users.acl"]))
	conf := ""
	for _, object := range r.objects {
		if m, ok := object.(*core.ConfigMap); ok && strings.HasPrefix(m.Name, "oo-redis") {
			conf = m.Data["redis.conf"]
		}
	}
	for from, to := range map[string]string{"dir /data": "dir " + dir, "/etc/oo-redis-acl/": dir + "/"} {
		if !strings.Contains(conf, from) {
			t.Fatalf("redis.conf has no %q:\n%s", from, conf)
		}
		conf = strings.ReplaceAll(conf, from, to)
	}
	addr = stand.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	write(t, filepath.Join(dir, "redis.conf"), conf+"bind 127.0.0.1\nport "+port+"\n")
	cmd := exec.Command(server, filepath.Join(dir, "redis.conf"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &bytes.Buffer{}
	cmd.Stdout = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		time.Sleep(20 * time.Millisecond) // polling another process: there is nothing to wait on
	}
	t.Fatalf("redis-server does not listen:\n%s", log)
	return ""
}

// TestRedisComponent: the sidecar takes the component's Redis as a store that lacks nothing (strict), as the user that
// the manifests have, who can do no more than the README's line says.
func TestRedisComponent(t *testing.T) {
	t.Parallel()
	r := render(t, filepath.Join(examples, "overlays", "demo-redis"))
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^user oo-sidecar .*$`).FindString(string(readme))
	secret := r.secret(t, "oo-sidecar-redis")
	if want := "user default off\n" + strings.Replace(line, "<password>", string(secret["password"]), 1) + "\n"; string(secret["users.acl"]) != want {
		t.Errorf("users.acl is\n%s, the README says\n%s", secret["users.acl"], want)
	}

	file, _ := r.configuration(t)
	proxy, health := stand.FreeAddr(t), stand.FreeAddr(t)
	env := append(r.environment(t, sidecarOf(r.governed()["agent"])), "PATH="+os.Getenv("PATH"),
		"OO_STORE__REDIS__ADDRS="+redisOf(t, r), "OO_STORE__REDIS__STRICT=true", "OO_STORE__EMBEDDED__DIR="+t.TempDir(),
		"OO_PROXY__LISTEN="+proxy, "OO_API__LISTEN="+stand.FreeAddr(t), "OO_HEALTH__LISTEN="+health, "OO_PROXY__INTERCEPT__CA_OUT="+t.TempDir())
	bin := stand.Sidecar(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := exec.CommandContext(ctx, bin, "serve", "--config", file)
	cmd.Env = env
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	out, errs, err := runIn(t, env, "health", "--config", file, "--wait", "30s")
	if err != nil {
		stop()
		<-exited
		t.Fatalf("%v: %s%s\n%s", err, out, errs, log)
	}
	resp, err := http.Get("http://" + health + "/readyz?verbose")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	guarantee := regexp.MustCompile(`(?m)^guarantee: .*$`).FindString(string(text))
	if !strings.Contains(strings.ToLower(guarantee), "redis") {
		t.Errorf("it promises %q\n%s", guarantee, text)
	}
	t.Log(guarantee)
	stop()
	<-exited
}
