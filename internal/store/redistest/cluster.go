package redistest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// Cluster is a Redis Cluster of three masters without replicas.
type Cluster struct {
	Nodes []*Server

	t testing.TB
}

const slots = 16384

// StartCluster starts three masters that share the slots, and waits until each says that the cluster stands.
func StartCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range 3 {
		bus := freePort(t)
		own := append([]string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "2000"}, args...)
		c.Nodes = append(c.Nodes, Start(t, own...))
		if len(c.Nodes) > 1 {
			host, port, _ := net.SplitHostPort(c.Nodes[len(c.Nodes)-1].Addr)
			c.Nodes[0].Do("CLUSTER", "MEET", host, port, strconv.Itoa(bus))
		}
	}
	for i, n := range c.Nodes {
		n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/3), strconv.Itoa((i+1)*slots/3-1))
	}
	Eventually(t, "the cluster stands", func() error {
		for _, n := range c.Nodes {
			info, _ := n.Do("CLUSTER", "INFO").(string)
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return fmt.Errorf("%s: %s", n.Addr, info)
			}
		}
		return nil
	})
	return c
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
