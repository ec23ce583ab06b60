package k8s

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// container runs the image as a container runtime would: its user, its command, a read-only root, mounts.
type container struct {
	t      *testing.T
	img    image
	dir    string            // of the mounts, on this machine
	mounts map[string]string // path in the container: name below dir
}

// newContainer has this configuration and empty volumes for state and trust.
func newContainer(t *testing.T, img image, config string) container {
	t.Helper()
	dir, err := os.MkdirTemp("", "oo-container-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := container{t, img, dir, map[string]string{"/etc/oo-sidecar": "config", "/var/lib/oo-sidecar": "state", "/run/oo-sidecar/trust": "trust"}}
	write(t, filepath.Join(dir, "config", "config.yaml"), config)
	for path, name := range c.mounts {
		for _, made := range []string{filepath.Join(dir, name), filepath.Join(img.root, path)} { // the runtime makes the places of mounts
			if err := os.MkdirAll(made, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if name == "config" {
			continue
		}
		if err := os.Chown(filepath.Join(dir, name), 65532, 65532); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// command is a process in the container: a mount namespace of its own, in which only the volumes can be written.
func (c container) command(words ...string) *exec.Cmd {
	c.t.Helper()
	script := fmt.Sprintf("set -e; mount --rbind %[1]s %[1]s; ", c.img.root)
	for path, name := range c.mounts {
		script += fmt.Sprintf("mount --bind %s %s; ", filepath.Join(c.dir, name), filepath.Join(c.img.root, path))
	}
	script += fmt.Sprintf(`mount -o remount,ro,bind %[2]s; exec chroot --userspec=%[1]s %[2]s "$@"`, c.img.config.User, c.img.root)
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "sh"}, words...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, c.img.config.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// probe runs the image's own health check.
func (c container) probe(args ...string) (string, error) {
	c.t.Helper()
	out, err := c.command(append(c.img.config.Healthcheck.Test[1:], args...)...).CombinedOutput()
	return string(out), err
}

// start runs the image's command and waits until its health check is content. end is SIGTERM and the exit.
func (c container) start() (end func() error) {
	c.t.Helper()
	cmd := c.command(append(c.img.config.Entrypoint, c.img.config.Cmd...)...)
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	c.t.Cleanup(func() { _ = cmd.Process.Kill() })
	if out, err := c.probe("--wait", "60s"); err != nil {
		_ = cmd.Process.Kill()
		<-exited
		c.t.Fatalf("not healthy: %v %s\n%s", err, out, log)
	}
	return func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-exited:
			return err
		case <-time.After(60 * time.Second):
			_ = cmd.Process.Kill()
			return fmt.Errorf("it did not end:\n%s", log)
		}
	}
}

// said is what a call came to: its body and whether it is a replay.
func said(proxy, body string) string {
	resp, err := http.Post("http://"+proxy+"/tools/pay", "application/json", strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("X-OnceOnly-Decision"), " ", string(text))
}

// runs: as 65532 with a read-only root it serves and is healthy, ends the call that runs when it is told to stop, and
// knows after the restart what had run.
func (img image) runs(t *testing.T) {
	stand.Program(t, "unshare")
	var calls atomic.Int32
	arrived, release := make(chan bool, 1), make(chan bool)
	tool := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "slow") {
			arrived <- true
			<-release
		}
		fmt.Fprintf(w, "receipt %d", n)
	}))
	t.Cleanup(tool.Close)
	proxy, health := stand.FreeAddr(t), stand.FreeAddr(t)
	c := newContainer(t, img, fmt.Sprintf(`version: 1
proxy: {listen: "%s", allow_private: [127.0.0.0/8], intercept: {enabled: true, ca_key: memory, ca_out: /run/oo-sidecar/trust}}
api: {listen: "%s"}
health: {listen: "%s"}
store: {embedded: {dir: /var/lib/oo-sidecar}}
tools: [{name: pay, url: "%s/pay", timeout: 60s}]
`, proxy, stand.FreeAddr(t), health, tool.URL))

	if out, err := c.probe(); err == nil {
		t.Errorf("healthy before it runs: %s", out)
	}
	end := c.start()
	if got := said(proxy, `{"n":"fast"}`); got != "200 executed receipt 1" {
		t.Errorf("a call: %s", got)
	}
	slow := make(chan string, 1)
	go func() { slow <- said(proxy, `{"n":"slow"}`) }()
	<-arrived
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	awaitDraining(t, health)
	close(release)
	if got := <-slow; got != "200 executed receipt 2" {
		t.Errorf("the call that ran when it was told to stop: %s", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}

	end = c.start()
	for body, want := range map[string]string{`{"n":"fast"}`: "200 dedup receipt 1", `{"n":"slow"}`: "200 dedup receipt 2"} {
		if got := said(proxy, body); got != want {
			t.Errorf("after the restart %s is %s, wanted %s", body, got, want)
		}
	}
	if out, err := c.probe(); err != nil || !strings.Contains(out, "user: 65532") {
		t.Errorf("health: %v %s", err, out)
	}
	if err := end(); err != nil || calls.Load() != 2 {
		t.Errorf("it ended with %v, the tool was called %d times", err, calls.Load())
	}
	c.trusted()
}

// awaitDraining waits until the sidecar takes no more calls: it is not ready then, or does not listen any more.
func awaitDraining(t *testing.T, health string) {
	t.Helper()
	for range 2000 {
		resp, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return
		}
		time.Sleep(5 * time.Millisecond) // polling another process: there is nothing to wait on
	}
	t.Error("it goes on taking calls")
}

// trusted: what the agent's volume holds is certificates and no key.
func (c container) trusted() {
	c.t.Helper()
	files, err := os.ReadDir(filepath.Join(c.dir, "trust"))
	if err != nil {
		c.t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		data, err := os.ReadFile(filepath.Join(c.dir, "trust", f.Name()))
		if err != nil {
			c.t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			c.t.Errorf("%s holds a key", f.Name())
		}
	}
	if got := strings.Join(names, " "); got != "bundle.p12 bundle.pem ca.pem" {
		c.t.Errorf("the agent's volume holds %s", got)
	}
}
