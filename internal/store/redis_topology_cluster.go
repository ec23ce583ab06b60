package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// slots is how many hash slots a cluster has.
const slots = 16384

// cluster is the topology of a cluster: who serves each slot.
type cluster struct {
	*lookout
	dial func(addr string) *redis.Client

	guard    sync.Mutex
	clients  map[string]*redis.Client // of every node ever named; guarded by guard
	names    []string                 // of every master ever named; the tables hold 1 + an index of it; guarded by guard
	table    slotTable                // guarded by guard
	replicas map[string]int           // of each master, as last heard; guarded by guard
	since    time.Time                // when a slot last went to another master; guarded by guard
	closed   bool                     // guarded by guard
}

// slotTable says who serves each slot: 1 + the master's index; 0: nobody.
type slotTable [slots]uint16

func watchCluster(c *redisClient) *cluster {
	t := &cluster{clients: map[string]*redis.Client{}, replicas: map[string]int{}}
	t.dial = func(addr string) *redis.Client { return redis.NewClient(c.dial.options(addr)) }
	t.lookout = newLookout(t.ask)
	t.learn(c.cfg.Addrs)
	c.work.Go(func() { t.keep(c.ctx) })
	return t
}

// owner is the last answer; the first one is waited for.
func (t *cluster) owner(ctx context.Context, tag string) (string, error) {
	slot := slotOf(tag)
	if addr := t.known(slot); addr != "" {
		return addr, nil
	}
	err := t.refresh(ctx)
	if addr := t.known(slot); addr != "" {
		return addr, nil
	}
	if err == nil {
		err = errors.New("nobody serves it")
	}
	return "", fmt.Errorf("no node of the cluster names the master of slot %d: %w", slot, err)
}

func (t *cluster) known(slot int64) string {
	t.guard.Lock()
	defer t.guard.Unlock()
	if n := t.table[slot]; n != 0 {
		return t.names[n-1]
	}
	return ""
}

func (t *cluster) masters(ctx context.Context) ([]string, error) {
	if all := t.serving(); len(all) > 0 {
		return all, nil
	}
	err := t.refresh(ctx)
	return t.serving(), err
}

// serving are the masters that serve a slot.
func (t *cluster) serving() (all []string) {
	t.guard.Lock()
	defer t.guard.Unlock()
	used := make([]bool, len(t.names)+1)
	for _, n := range t.table {
		used[n] = true
	}
	for i, name := range t.names {
		if used[i+1] {
			all = append(all, name)
		}
	}
	return all
}

func (t *cluster) moved(tag, addr string) {
	t.guard.Lock()
	defer t.guard.Unlock()
	t.set(slotOf(tag), t.index(addr))
}

// set has a slot be served by a master. Call it with guard held.
func (t *cluster) set(slot int64, by uint16) {
	if was := t.table[slot]; was != 0 && was != by {
		t.since = time.Now()
	}
	t.table[slot] = by
}

// index is 1 + the master's place among names. Call it with guard held.
func (t *cluster) index(addr string) uint16 {
	i := slices.Index(t.names, addr)
	if i < 0 {
		i = len(t.names)
		t.names = append(t.names, addr)
	}
	return uint16(i + 1)
}

func (t *cluster) changed() time.Time {
	t.guard.Lock()
	defer t.guard.Unlock()
	return t.since
}

func (t *cluster) learn(addrs []string) {
	t.guard.Lock()
	defer t.guard.Unlock()
	for _, addr := range addrs {
		if t.clients[addr] == nil && !t.closed {
			t.clients[addr] = t.dial(addr)
		}
	}
}

func (t *cluster) nodes() map[string]*redis.Client {
	t.guard.Lock()
	defer t.guard.Unlock()
	known := make(map[string]*redis.Client, len(t.clients))
	for addr, client := range t.clients {
		known[addr] = client
	}
	return known
}

// clusterView is who serves what as one node knows it.
type clusterView struct {
	table    slotTable
	masters  []string // that the table's numbers mean
	replicas [][]string
}

// ask takes, for each slot, the word of most nodes: one that is cut off may not know of a failover.
func (t *cluster) ask(ctx context.Context) error {
	said, err := poll(t.nodes(), func(addr string, client *redis.Client) (*clusterView, error) {
		//lint:ignore SA1019 CLUSTER SHARDS knows nothing that is needed here, and older or managed clusters do not have it
		ranges, err := client.ClusterSlots(ctx).Result()
		if err != nil {
			return nil, err
		}
		return viewOf(ranges, addr)
	})
	if len(said) == 0 {
		return err
	}
	for _, v := range said {
		t.learn(v.masters)
		for _, replicas := range v.replicas {
			t.learn(replicas)
		}
	}
	t.guard.Lock()
	defer t.guard.Unlock()
	for _, v := range said {
		for i, m := range v.masters {
			t.replicas[m] = len(v.replicas[i])
		}
	}
	t.vote(said)
	return nil
}

// vote takes for each slot what most say; where as many say another, who spoke first. Call it with guard held.
func (t *cluster) vote(said []*clusterView) {
	meant := make([][]uint16, len(said)) // each one's numbers as ours
	for i, v := range said {
		meant[i] = make([]uint16, len(v.masters)+1)
		for j, m := range v.masters {
			meant[i][j+1] = t.index(m)
		}
	}
	votes := make([]int, len(t.names)+1)
	for slot := range t.table {
		best := uint16(0)
		for i, v := range said {
			if n := meant[i][v.table[slot]]; n != 0 {
				if votes[n]++; best == 0 || votes[n] > votes[best] {
					best = n
				}
			}
		}
		for i, v := range said {
			votes[meant[i][v.table[slot]]] = 0
		}
		if best != 0 { // nobody serves it for the moment: whoever did may again
			t.set(int64(slot), best)
		}
	}
}

func viewOf(ranges []redis.ClusterSlot, namedBy string) (*clusterView, error) {
	v := &clusterView{}
	for _, r := range ranges {
		if r.Start < 0 || r.End >= slots || len(r.Nodes) == 0 {
			continue
		}
		master := beside(r.Nodes[0].Addr, namedBy)
		i := slices.Index(v.masters, master)
		if i < 0 {
			i = len(v.masters)
			v.masters, v.replicas = append(v.masters, master), append(v.replicas, nil)
		}
		for _, n := range r.Nodes[1:] {
			if addr := beside(n.Addr, namedBy); !slices.Contains(v.replicas[i], addr) {
				v.replicas[i] = append(v.replicas[i], addr)
			}
		}
		for slot := r.Start; slot <= r.End; slot++ {
			v.table[slot] = uint16(i + 1)
		}
	}
	if len(v.masters) == 0 {
		return nil, errors.New("it serves no slot and knows nobody who does")
	}
	return v, nil
}

func (t *cluster) electable(_ context.Context, master string) (int, bool) {
	t.guard.Lock()
	defer t.guard.Unlock()
	return t.replicas[master], true
}

func (t *cluster) close() error {
	t.guard.Lock()
	defer t.guard.Unlock()
	t.closed = true
	var errs []error
	for _, c := range t.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// slotOf is the hash slot of a tag: CRC-16/XMODEM modulo 16384, as the Redis Cluster specification says.
func slotOf(tag string) int64 {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			carry := crc & 0x8000
			if crc <<= 1; carry != 0 {
				crc ^= 0x1021
			}
		}
	}
	return int64(crc % slots)
}
