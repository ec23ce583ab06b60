package redistest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// Watched is a master with replicas, watched by three sentinels that promote a replica one second after the master
// went silent.
type Watched struct {
	Name      string    // of the master, for the sentinels
	Sentinels []string  // their addresses
	Servers   []*Server // the first master and the replicas

	t testing.TB
}

// StartSentinel starts a master, replicas and three sentinels, and waits until they know each other.
func StartSentinel(t testing.TB, replicas int, args ...string) *Watched {
	t.Helper()
	binary := needed.Program(t, "redis-sentinel")
	w := &Watched{Name: "main", t: t, Servers: []*Server{Start(t, args...)}}
	host, port, _ := net.SplitHostPort(w.Servers[0].Addr)
	for range replicas {
		w.Servers = append(w.Servers, Start(t, append([]string{"--replicaof", host + " " + port}, args...)...))
	}
	Eventually(t, "the replicas follow", func() error { return w.online(w.Servers[0], replicas) })
	for range 3 {
		w.Sentinels = append(w.Sentinels, w.sentinel(binary, host, port))
	}
	Eventually(t, "the sentinels know each other", func() error {
		for _, s := range w.Sentinels {
			if m := w.master(s); m["num-other-sentinels"] != "2" || m["num-slaves"] != strconv.Itoa(replicas) {
				return fmt.Errorf("%s knows %s sentinels and %s replicas", s, m["num-other-sentinels"], m["num-slaves"])
			}
		}
		return nil
	})
	return w
}

func (w *Watched) online(master *Server, replicas int) error {
	text, err := Ask(master.Addr, "INFO", "replication")
	if info, _ := text.(string); strings.Count(info, "state=online") < replicas {
		return fmt.Errorf("%v: %v", err, text)
	}
	return nil
}

func (w *Watched) sentinel(binary, host, port string) string {
	w.t.Helper()
	own, dir := strconv.Itoa(freePort(w.t)), w.t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	lines := []string{
		"bind 127.0.0.1", "port " + own, "dir " + dir, "logfile " + filepath.Join(dir, "log"), "sentinel monitor " + w.Name + " " + host + " " + port + " 2",
		"sentinel down-after-milliseconds " + w.Name + " 1000", "sentinel failover-timeout " + w.Name + " 2000", "sentinel parallel-syncs " + w.Name + " 2",
	}
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(binary, conf)
	cmd.SysProcAttr = endWithTest()
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return net.JoinHostPort("127.0.0.1", own)
}

// master is what a sentinel says of the master.
func (w *Watched) master(sentinel string) map[string]string {
	reply, _ := Ask(sentinel, "SENTINEL", "MASTER", w.Name)
	list, _ := reply.([]any)
	facts := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		facts[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return facts
}

// Master is the server that all sentinels call the master and that says so itself.
func (w *Watched) Master() *Server {
	w.t.Helper()
	var master *Server
	Eventually(w.t, "the sentinels agree on a master", func() (err error) {
		master, err = w.agreed()
		return err
	})
	return master
}

func (w *Watched) agreed() (*Server, error) {
	votes := map[string]int{}
	for _, s := range w.Sentinels {
		m := w.master(s)
		votes[net.JoinHostPort(m["ip"], m["port"])]++
	}
	for _, s := range w.Servers {
		if votes[s.Addr] < len(w.Sentinels) {
			continue
		}
		role, err := Ask(s.Addr, "ROLE")
		if list, _ := role.([]any); err == nil && len(list) > 0 && list[0] == "master" {
			return s, nil
		}
	}
	return nil, fmt.Errorf("they say %v", votes)
}

// Failover kills the master, waits for the new one, starts the old one again as its replica, and waits until every
// replica follows. It returns the new master.
func (w *Watched) Failover() *Server {
	w.t.Helper()
	old := w.Master()
	old.Kill()
	var master *Server
	Eventually(w.t, "a replica is promoted", func() (err error) {
		if master, err = w.agreed(); err == nil && master == old {
			err = fmt.Errorf("still %s", old.Addr)
		}
		return err
	})
	host, port, _ := net.SplitHostPort(master.Addr)
	old.args = append(old.args, "--replicaof", host+" "+port) // what the sentinels would tell it in ten seconds
	old.Restart()
	Eventually(w.t, "the replicas follow the new master", func() (err error) {
		if master, err = w.agreed(); err == nil {
			err = w.online(master, len(w.Servers)-1)
		}
		return err
	})
	return master
}
