package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// cluster is the topology of the one slot that all keys of the namespace hash to.
type cluster struct {
	*lookout
	slot int64
	dial func(addr string) *redis.Client

	guard    sync.Mutex
	clients  map[string]*redis.Client // of every node ever named; guarded by guard
	replicas int                      // of the slot's owner, as last heard; guarded by guard
	closed   bool                     // guarded by guard
}

func watchCluster(c *redisClient) *cluster {
	t := &cluster{slot: slotOf(c.tag), clients: map[string]*redis.Client{}}
	t.dial = func(addr string) *redis.Client { return redis.NewClient(c.dial.options(addr)) }
	t.lookout = newLookout(t.ask)
	t.learn(c.cfg.Addrs)
	c.work.Go(func() { t.keep(c.ctx) })
	return t
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

// holders are the nodes of the slot as one node knows them: its master, then the replicas.
type holders []string

// ask takes the word of most nodes: one that is cut off may not know of a failover.
func (t *cluster) ask(ctx context.Context) (string, error) {
	said, err := poll(t.nodes(), func(addr string, client *redis.Client) (holders, error) {
		//lint:ignore SA1019 CLUSTER SHARDS knows nothing that is needed here, and older or managed clusters do not have it
		ranges, err := client.ClusterSlots(ctx).Result()
		if err != nil {
			return nil, err
		}
		return t.find(ranges, addr)
	})
	votes, best := map[string]int{}, holders(nil)
	for _, h := range said {
		t.learn(h)
		if votes[h[0]]++; best == nil || votes[h[0]] > votes[best[0]] {
			best = h
		}
	}
	if best == nil {
		return "", fmt.Errorf("no node of the cluster names the master of slot %d: %w", t.slot, err)
	}
	t.guard.Lock()
	t.replicas = len(best) - 1
	t.guard.Unlock()
	return best[0], nil
}

// find is who serves the slot.
func (t *cluster) find(ranges []redis.ClusterSlot, namedBy string) (holders, error) {
	for _, r := range ranges {
		if t.slot < int64(r.Start) || t.slot > int64(r.End) || len(r.Nodes) == 0 {
			continue
		}
		var found holders
		for _, n := range r.Nodes {
			found = append(found, beside(n.Addr, namedBy))
		}
		return found, nil
	}
	return nil, fmt.Errorf("nobody serves slot %d", t.slot)
}

func (t *cluster) electable(context.Context) (int, bool) {
	t.guard.Lock()
	defer t.guard.Unlock()
	return t.replicas, true
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
	return int64(crc % 16384)
}
