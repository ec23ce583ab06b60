package k8s

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
	core "k8s.io/api/core/v1"
)

const (
	sidecarUser = 4780
	agentUser   = 10001
)

// world is a pod's network namespace with another one beside it, where the tool and a resolver are.
type world struct {
	pod, outside namespace
	home         string
}

// newWorld joins two namespaces by a cable. Outside are 10.9.0.1 and fd09::1 with the tool on 8080 and something on 53,
// in the pod 10.9.0.2 and fd09::2 with the agent's own server on 9000.
func newWorld(t *testing.T) world {
	t.Helper()
	stand.Root(t, "make network namespaces and become other users")
	home := homeOfAll(t)
	w := world{newNamespace(t, home), newNamespace(t, home), home}
	w.pod.ip("link add eth0 type veth peer name eth0 netns " + w.outside.pid)
	for _, n := range []struct {
		namespace
		host string
	}{{w.outside, "1"}, {w.pod, "2"}} {
		n.ip("addr add 10.9.0." + n.host + "/24 dev eth0")
		n.ip("-6 addr add fd09::" + n.host + "/64 dev eth0 nodad")
		n.ip("link set eth0 up")
	}
	w.outside.serves(agentUser+1, "8080")
	w.outside.serves(0, "53")
	w.pod.serves(agentUser, "9000")
	return w
}

// lock loads the rules by the command of the init container, as the rendered manifests have both.
func (w world) lock(t *testing.T) {
	t.Helper()
	stand.Program(t, "nft")
	r := render(t, filepath.Join(examples, "overlays", "production"))
	lists := r.governed()["billing-agent"].InitContainers
	at := slices.IndexFunc(lists, func(c core.Container) bool { return c.Name == "oo-egress-lock" })
	if at != 1 {
		t.Fatalf("the lock is init container %d, wanted 1: behind the sidecar, before all others", at)
	}
	mount := lists[at].VolumeMounts[0].MountPath
	for _, object := range r.objects {
		if m, ok := object.(*core.ConfigMap); ok && m.Name == "oo-egress-lock" {
			for name, text := range m.Data {
				write(t, filepath.Join(w.home, name), text)
			}
		}
	}
	var command []string
	for _, word := range lists[at].Command {
		command = append(command, strings.ReplaceAll(word, mount+"/", w.home+"/"))
	}
	for range 2 { // a restarted pod's init container loads them again
		if out, err := w.pod.command(0, command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", command, err, out)
		}
	}
	w.pod.ip("-4 neigh flush dev eth0")
	w.pod.ip("-6 neigh flush dev eth0") // what was learnt without the lock
}

// sidecar runs the program as the sidecar's user.
func (w world) sidecar(t *testing.T) (config string) {
	t.Helper()
	config = filepath.Join(w.home, "config.yaml")
	write(t, config, `version: 1
agent: {id: locked}
proxy: {allow_private: [10.9.0.0/24, "fd09::/64"]}
health: {listen: "[::]:4782"}
store: {embedded: {dir: `+w.home+`/state}}
tools:
  - {name: pay4, url: "http://10.9.0.1:8080/pay"}
  - {name: pay6, url: "http://[fd09::1]:8080/pay"}
`)
	if err := os.Mkdir(filepath.Join(w.home, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(w.home, "state"), sidecarUser, sidecarUser); err != nil {
		t.Fatal(err)
	}
	cmd := w.pod.command(sidecarUser, filepath.Join(w.home, "oo-sidecar"), "serve", "--config", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if out, err := w.pod.command(agentUser, filepath.Join(w.home, "oo-sidecar"), "health", "--config", config, "--wait", "60s").CombinedOutput(); err != nil {
		t.Fatalf("the sidecar is not ready: %v\n%s", err, out)
	}
	return config
}

// around is what doctor, run as the agent, says of a way around the sidecar.
func (w world) around(t *testing.T, flags ...string) (state, detail string) {
	t.Helper()
	cmd := w.pod.command(agentUser, filepath.Join(w.home, "oo-sidecar"), append([]string{"doctor", "-o", "json"}, flags...)...)
	cmd.Env = []string{"PATH=" + w.home, "HOME=/"} // as a runtime sets it for a user without a name
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		t.Fatal(err)
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = nsenter
	cmd.Args[slices.Index(cmd.Args, "setpriv")] = setpriv
	out, _ := cmd.Output()
	var findings []struct{ Check, State, Detail string }
	if err := json.Unmarshal(out, &findings); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range findings {
		if f.Check == "way around" {
			return f.State, f.Detail
		}
	}
	t.Fatalf("doctor does not look for a way around: %s", out)
	return "", ""
}

// outsideOf are all ways out of the pod that this test knows; within are those that stay in it.
var (
	outsideOf = []string{
		"tcp,10.9.0.1:8080", "udp,10.9.0.1:8080", "tcp,[fd09::1]:8080", "udp,[fd09::1]:8080",
		"tcp,10.9.0.1:53", "udp,10.9.0.1:53", "tcp,[fd09::1]:53", "udp,[fd09::1]:53",
		"mptcp,10.9.0.1:8080", "mptcp,[fd09::1]:8080", // the kernel makes its sockets
	}
	toSidecar = []string{"tcp,127.0.0.1:4780", "tcp,127.0.0.1:4781", "tcp,127.0.0.1:4782", "tcp,[::1]:4782"}
	within    = []string{
		"tcp,127.0.0.1:9000", "udp,127.0.0.1:9000", "tcp,[::1]:9000", "udp,[::1]:9000",
		"mptcp,127.0.0.1:9000", "mptcp,[::1]:9000",
		"tcp,10.9.0.2:9000", "udp,10.9.0.2:9000", "tcp,[fd09::2]:9000", "udp,[fd09::2]:9000",
	}
)

func (w world) expect(t *testing.T, what string, user int, reached bool, targets ...string) {
	t.Helper()
	for target, said := range w.pod.reaches(user, targets...) {
		if (said == "reached") != reached {
			t.Errorf("%s, user %d: %s: %s", what, user, target, said)
		}
	}
}

// TestEgressLock: with the rules as they are shipped the sidecar alone leaves the pod.
func TestEgressLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.sidecar(t)

	w.expect(t, "unlocked", agentUser, true, slices.Concat(outsideOf, toSidecar, within)...)
	if state, detail := w.around(t, "--config", config); state != "bad" || !strings.Contains(detail, "bypassable") {
		t.Errorf("unlocked, doctor says %s: %s", state, detail)
	}

	w.lock(t)
	w.expect(t, "locked", agentUser, false, outsideOf...)
	w.expect(t, "locked", 0, false, outsideOf...) // whoever it is
	w.expect(t, "locked", agentUser, true, slices.Concat(toSidecar, within)...)
	w.expect(t, "locked", sidecarUser, true, slices.Concat(outsideOf, toSidecar, within)...)
	for _, flags := range [][]string{{"--config", config}, {"--direct", "10.9.0.1:8080"}} { // a container of the agent has no configuration
		if state, detail := w.around(t, flags...); state != "ok" || !strings.Contains(detail, "enforced") {
			t.Errorf("locked, doctor %q says %s: %s", flags, state, detail)
		}
	}

	urls := []string{"http://127.0.0.1:4780/tools/pay4", "http://127.0.0.1:4780/tools/pay6"}
	out, err := w.pod.act(agentUser, "post", urls...).CombinedOutput()
	if want := strings.Repeat("200 executed paid\n", 2); err != nil || string(out) != want {
		t.Errorf("calls through the sidecar: %v\n%s", err, out)
	}

	t.Run("who calls the pod is answered", func(t *testing.T) {
		for target, said := range w.outside.reaches(agentUser, "tcp,10.9.0.2:9000", "udp,10.9.0.2:9000", "tcp,[fd09::2]:9000", "udp,[fd09::2]:9000", "tcp,10.9.0.2:4782", "tcp,[fd09::2]:4782") {
			if said != "reached" {
				t.Errorf("%s: %s", target, said)
			}
		}
		for target, said := range w.outside.reaches(agentUser, "tcp,10.9.0.2:4780", "tcp,10.9.0.2:4781") {
			if said == "reached" {
				t.Errorf("%s is open to the network", target)
			}
		}
	})

	t.Run("a refusal is told at once", func(t *testing.T) {
		began := time.Now()
		for target, said := range w.pod.reaches(agentUser, outsideOf...) {
			if strings.Contains(said, "timeout") {
				t.Errorf("%s: %s", target, said)
			}
		}
		t.Logf("%d refusals in %s", len(outsideOf), time.Since(began))
	})

	// An agent that takes the address and port which the sidecar has just used may not go on where that one was.
	t.Run("the sidecar's former ports", func(t *testing.T) {
		for i, target := range []string{"udp,10.9.0.1:53", "udp,[fd09::1]:53", "tcp,10.9.0.1:8080", "tcp,[fd09::1]:8080"} {
			port := ",2555" + string(rune('1'+i))
			w.expect(t, "first", sidecarUser, true, target+port)
			w.expect(t, "then", agentUser, false, target+port)
		}
	})

	// An agent that calls itself from an address of somebody outside, and answers.
	t.Run("a borrowed address", func(t *testing.T) {
		out, err := w.pod.act(agentUser, "borrow", "[fd09::1]:8080", "[fd09::2]:9100").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) == "reached" {
			t.Errorf("%v: %s", err, out)
		}
	})

	t.Run("loopback ports denied", func(t *testing.T) {
		if out, err := w.pod.command(0, "nft", "add element inet oo_egress_lock sidecar_only { 8990-9010 }").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		w.expect(t, "denied", agentUser, false, within...)
		w.expect(t, "denied", agentUser, true, toSidecar...)
		w.expect(t, "denied", sidecarUser, true, within...)
	})
}
