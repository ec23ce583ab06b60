package k8s

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/test/stand"
)

// TestMain is also what these tests run as other users and in other network namespaces.
func TestMain(m *testing.M) {
	if act, ok := acts[os.Getenv("OO_K8S_ACT")]; ok {
		if err := act(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var acts = map[string]func(args []string) error{"serve": serve, "dial": dial, "post": post, "borrow": borrow}

// serve answers HTTP over TCP and echoes datagrams on the ports given, of every address, until its input ends.
func serve(ports []string) error {
	for _, port := range ports {
		tcp, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		go http.Serve(tcp, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "paid") }))
		go func() {
			buffer := make([]byte, 1500)
			for n, from, err := udp.ReadFrom(buffer); err == nil; n, from, err = udp.ReadFrom(buffer) {
				_, _ = udp.WriteTo(buffer[:n], from)
			}
		}()
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// dial tries each NETWORK,ADDRESS[,LOCALPORT] and prints a line for it, which is "reached" or why not. A datagram
// reaches who echoes it.
func dial(targets []string) error {
	for _, target := range targets {
		parts := strings.Split(target, ",")
		var d net.Dialer
		d.Timeout = time.Second
		if len(parts) == 3 {
			port, err := strconv.Atoi(parts[2])
			if err != nil {
				return err
			}
			if d.LocalAddr = (&net.TCPAddr{Port: port}); strings.HasPrefix(parts[0], "udp") {
				d.LocalAddr = &net.UDPAddr{Port: port}
			}
			d.Control = func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
			}
		}
		d.SetMultipathTCP(parts[0] == "mptcp")
		fmt.Println(reach(d, strings.TrimPrefix(parts[0], "mp"), parts[1]))
	}
	return nil
}

func reach(d net.Dialer, network, address string) string {
	conn, err := d.Dial(network, address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if network == "udp" {
		_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err = conn.Write([]byte("?")); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	if err != nil {
		return err.Error()
	}
	return "reached"
}

// borrow takes the address of somebody outside (its first argument), which Linux lets every user bind, calls a server of
// the pod (the second) from it, and has the pod's port answer: a packet that looks like a reply. It prints "reached" when
// whoever has that address echoes it.
func borrow(args []string) error {
	outside, err := net.ResolveUDPAddr("udp6", args[0])
	if err != nil {
		return err
	}
	inside, err := net.ResolveUDPAddr("udp6", args[1])
	if err != nil {
		return err
	}
	answering, err := net.ListenUDP("udp6", inside)
	if err != nil {
		return err
	}
	const ipv6Freebind = 78
	free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, ipv6Freebind, 1) })
		return err
	}}
	borrowed, err := free.ListenPacket(context.Background(), "udp6", outside.String())
	if err != nil {
		return err
	}
	if _, err := borrowed.WriteTo([]byte("?"), inside); err != nil {
		fmt.Println(err)
		return nil
	}
	_ = answering.SetDeadline(time.Now().Add(500 * time.Millisecond))
	buffer := make([]byte, 16)
	if _, _, err := answering.ReadFrom(buffer); err != nil {
		fmt.Println("its call did not come:", err)
		return nil
	}
	borrowed.Close() // so that what comes back is not its own
	if _, err := answering.WriteTo([]byte("!"), outside); err != nil {
		fmt.Println(err)
		return nil
	}
	if _, _, err := answering.ReadFrom(buffer); err != nil {
		fmt.Println(err)
		return nil
	}
	fmt.Println("reached")
	return nil
}

// post sends a call and prints what came back.
func post(urls []string) error {
	for _, url := range urls {
		resp, err := http.Post(url, "application/json", strings.NewReader(`{"bill":1}`))
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		fmt.Println(resp.StatusCode, resp.Header.Get("X-OnceOnly-Decision"), string(body))
	}
	return nil
}

// namespace is a network namespace that lasts as long as its test.
type namespace struct {
	t    *testing.T
	pid  string
	home string // binaries that every user may run
}

// newNamespace makes one with nothing but loopback, or says why this machine cannot.
func newNamespace(t *testing.T, home string) namespace {
	t.Helper()
	stand.Program(t, "nsenter")
	stand.Program(t, "setpriv")
	stand.Program(t, "ip")
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		stand.Missing(t, "no network namespace can be made here: "+err.Error())
	}
	t.Cleanup(func() {
		input.Close()
		_ = holder.Wait()
	})
	n := namespace{t, strconv.Itoa(holder.Process.Pid), home}
	n.ip("link set lo up")
	return n
}

// ip runs the tool of that name in the namespace.
func (n namespace) ip(args string) {
	n.t.Helper()
	if out, err := n.command(0, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// command runs a program in the namespace as a user without any right.
func (n namespace) command(user int, program string, args ...string) *exec.Cmd {
	enter := []string{"-t", n.pid, "-n", "--"}
	if user != 0 {
		id := strconv.Itoa(user)
		enter = append(enter, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--")
	}
	cmd := exec.Command("nsenter", append(append(enter, program), args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// act runs this test's own binary as a user in the namespace.
func (n namespace) act(user int, act string, args ...string) *exec.Cmd {
	cmd := n.command(user, filepath.Join(n.home, "test"), args...)
	cmd.Env = append(cmd.Env, "OO_K8S_ACT="+act)
	return cmd
}

// serves starts the servers of a user in the namespace and waits until they listen.
func (n namespace) serves(user int, ports ...string) {
	n.t.Helper()
	cmd := n.act(user, "serve", ports...)
	input, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		input.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		n.t.Fatalf("serve: %q, %v", line, err)
	}
}

// reaches says for each target whether that user reaches it.
func (n namespace) reaches(user int, targets ...string) map[string]string {
	n.t.Helper()
	out, err := n.act(user, "dial", targets...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		n.t.Fatalf("dial: %v\n%s", err, exit.Stderr)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(targets) {
		n.t.Fatalf("%d answers for %d targets: %q", len(lines), len(targets), lines)
	}
	said := map[string]string{}
	for i, target := range targets {
		said[target] = lines[i]
	}
	return said
}

// homeOfAll is a directory with the program and this test's binary, where every user may run them.
func homeOfAll(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "oo-k8s-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := stand.Sidecar(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"oo-sidecar": bin, "test": self} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
