package redistest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// Cluster is a Redis Cluster of three masters, each with the same number of replicas.
type Cluster struct {
	Nodes []*Server // the first three are the first masters

	t testing.TB
}

const (
	slots   = 16384
	masters = 3
)

// StartCluster starts three masters that share the slots, and waits until each says that the cluster stands.
func StartCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	return StartReplicatedCluster(t, 0, args...)
}

// StartReplicatedCluster is StartCluster with replicas of each master, one of which is promoted when the others of the
// cluster have not heard of their master for two seconds.
func StartReplicatedCluster(t testing.TB, replicas int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range masters * (1 + replicas) {
		bus := freePort(t)
		own := append([]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "2000"}, args...)
		c.Nodes = append(c.Nodes, Start(t, own...))
		if len(c.Nodes) > 1 {
			host, port, _ := net.SplitHostPort(c.Nodes[len(c.Nodes)-1].Addr)
			c.Nodes[0].Do("CLUSTER", "MEET", host, port, strconv.Itoa(bus))
		}
	}
	for i, n := range c.Nodes[:masters] {
		n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
	}
	Eventually(t, "the cluster stands", c.stands)
	for i, n := range c.Nodes[masters:] {
		n.Do("CLUSTER", "REPLICATE", fmt.Sprint(c.Nodes[i%masters].Do("CLUSTER", "MYID")))
	}
	Eventually(t, "the replicas follow", func() error { return c.followed(replicas, c.Nodes[:masters]...) })
	return c
}

func (c *Cluster) stands() error {
	for _, n := range c.Nodes {
		text, err := Ask(n.Addr, "CLUSTER", "INFO")
		info, _ := text.(string)
		if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) {
			return fmt.Errorf("%s: %v: %s", n.Addr, err, info)
		}
	}
	return nil
}

func (c *Cluster) followed(replicas int, nodes ...*Server) error {
	for _, n := range nodes {
		text, err := Ask(n.Addr, "INFO", "replication")
		if info, _ := text.(string); strings.Count(info, "state=online") < replicas {
			return fmt.Errorf("%s: %v: %v", n.Addr, err, text)
		}
	}
	return c.stands()
}

// Failover takes the master of the key's slot away, and gives it back when a replica has been promoted: killed and
// started again, or frozen, which leaves it its connections and what it takes itself for. It waits until all follow.
func (c *Cluster) Failover(key string, frozen bool) {
	c.t.Helper()
	old, _ := c.Owner(key)
	leave, back := old.Kill, old.Restart
	if frozen {
		leave, back = old.Pause, old.Resume
	}
	leave()
	var master *Server
	Eventually(c.t, "a replica is promoted", func() error {
		for _, n := range c.Nodes {
			if n == old {
				continue
			}
			if _, err := Ask(n.Addr, "EXISTS", key); err == nil {
				master = n
				return nil
			}
		}
		return fmt.Errorf("nobody serves %s", key)
	})
	back()
	Eventually(c.t, "the old master follows", func() error { return c.followed(len(c.Nodes)/masters-1, master) })
}

// Addrs are the addresses of the nodes.
func (c *Cluster) Addrs() []string {
	var all []string
	for _, n := range c.Nodes {
		all = append(all, n.Addr)
	}
	return all
}

// Slot is the hash slot of a key, as a word of commands.
func (c *Cluster) Slot(key string) string {
	return fmt.Sprint(c.Nodes[0].Do("CLUSTER", "KEYSLOT", key))
}

// Owner is the node that serves the key's slot, and some other node.
func (c *Cluster) Owner(key string) (owner, other *Server) {
	c.t.Helper()
	for i, n := range c.Nodes {
		if _, err := Ask(n.Addr, "EXISTS", key); err == nil {
			return n, c.Nodes[(i+1)%len(c.Nodes)]
		}
	}
	c.t.Fatalf("no node serves %s", key)
	return nil, nil
}

// BeginMove starts to move the key's slot: the owner answers ASK for keys it has not.
func (c *Cluster) BeginMove(key string, from, to *Server) {
	c.t.Helper()
	slot := c.Slot(key)
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", fmt.Sprint(from.Do("CLUSTER", "MYID")))
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", fmt.Sprint(to.Do("CLUSTER", "MYID")))
}

// MoveKeys moves keys whose slot is being moved.
func (c *Cluster) MoveKeys(from, to *Server, keys ...string) {
	c.t.Helper()
	host, port, _ := net.SplitHostPort(to.Addr)
	from.Do(append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, keys...)...)
}

// EndMove moves what is left of the slot and gives it to its new owner: the old one answers MOVED.
func (c *Cluster) EndMove(key string, from, to *Server) {
	c.t.Helper()
	slot, id := c.Slot(key), fmt.Sprint(to.Do("CLUSTER", "MYID"))
	for {
		list, _ := from.Do("CLUSTER", "GETKEYSINSLOT", slot, "100").([]any)
		if len(list) == 0 {
			break
		}
		for _, k := range list {
			c.MoveKeys(from, to, fmt.Sprint(k))
		}
	}
	to.Do("CLUSTER", "SETSLOT", slot, "NODE", id)
	from.Do("CLUSTER", "SETSLOT", slot, "NODE", id)
}
