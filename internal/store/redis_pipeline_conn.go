package store

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// replicaTimeout bounds WAIT; it leaves room in redisTimeout for the script before it.
var replicaTimeout = redisTimeout * 3 / 5

// idleTrust is how long a connection that was just used is taken to be open.
const idleTrust = 20 * time.Millisecond

// redisConn is one connection, made when it is needed. It belongs to whoever took it from its lane.
type redisConn struct {
	node   *redisNode
	client *redis.Client            // of this connection only
	raw    atomic.Pointer[net.Conn] // what client dialled last
	conn   *redis.Conn              // nil: not connected
	used   time.Time                // last
	epoch  epoch                    // of the server at its other end
	told   map[string]bool          // the tags for which the client has heard of that epoch
}

func newRedisConn(n *redisNode, opt *redis.Options) *redisConn {
	c := &redisConn{node: n}
	dial := opt.Dialer
	opt.PoolSize = 2 // the second for when a dial that nobody waits for any more hangs
	opt.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			c.raw.Store(&conn)
		}
		return conn, err
	}
	c.client = redis.NewClient(opt)
	return c
}

// send writes the batch at once and reads the replies into it.
func (c *redisConn) send(ctx context.Context, batch []*request, replicas int) {
	if len(batch) == 0 {
		return
	}
	if err := c.ready(ctx, batch); err != nil {
		for _, r := range batch {
			r.err = notExecuted(err)
		}
		return
	}
	pipe := c.conn.Pipeline()
	cmds := make([]*redis.Cmd, len(batch))
	for i, r := range batch {
		if r.asking {
			pipe.Do(ctx, "asking")
		}
		cmds[i] = pipe.Do(ctx, r.args...)
	}
	var wait *redis.Cmd
	if replicas > 0 {
		wait = pipe.Do(ctx, "wait", replicas, int(replicaTimeout/time.Millisecond))
	}
	_, _ = pipe.Exec(ctx) // every command has its own error
	c.used = time.Now()
	broken := false
	for i, r := range batch {
		r.reply, r.err = cmds[i].Val(), sentError(cmds[i].Err())
		broken = broken || ofConnection(r.err)
	}
	if wait != nil {
		broken = held(batch, wait, replicas) || broken
	}
	if broken {
		c.close()
	}
}

// held gives those that ran an error when not enough replicas have them, and says whether the connection is broken.
func held(batch []*request, wait *redis.Cmd, replicas int) bool {
	n, err := wait.Int()
	if err == nil && n < replicas {
		err = fmt.Errorf("%d of the %d of store.redis.wait_replicas answered", n, replicas)
	}
	if err == nil {
		return false
	}
	for _, r := range batch {
		if r.err == nil {
			r.err = fmt.Errorf("%w: %w", errReplicas, err)
		}
	}
	return ofConnection(sentError(wait.Err()))
}

// ofConnection says that the connection must not be used again: its replies are out of step, or it leads to the wrong
// server.
func ofConnection(err error) bool {
	text, _ := serverError(err)
	return onTheWay(err) || begins(text, []string{"READONLY", "MOVED", "NOAUTH"})
}

// ready connects if need be, and has the client told of a new epoch before the first script of a tag that needs the slot's owner.
func (c *redisConn) ready(ctx context.Context, batch []*request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.conn != nil && time.Since(c.used) > idleTrust && !alive(*c.raw.Load()) {
		c.close()
	}
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return fmt.Errorf("connect to Redis at %s: %w", c.node.addr, err)
		}
	}
	for _, r := range batch {
		if !r.asking && !c.told[r.tag] {
			c.node.heard(r.tag, c.node.addr, c.epoch)
			c.told[r.tag] = true
		}
	}
	return nil
}

// connect opens the connection and learns who is there. Nothing is ever asked of a server that is no master.
func (c *redisConn) connect(ctx context.Context) error {
	conn := c.client.Conn()
	e, err := readEpoch(ctx, conn)
	if err == nil && e.Role != "" && e.Role != "master" {
		err = fmt.Errorf("READONLY this server is a %s", e.Role)
	}
	if err != nil {
		_ = conn.Close()
		return err
	}
	c.conn, c.epoch, c.told = conn, e, map[string]bool{}
	return nil
}

func (c *redisConn) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
