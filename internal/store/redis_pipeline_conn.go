package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// replicaTimeout bounds WAIT; it leaves room in redisTimeout for the script before it.
const replicaTimeout = 150 * time.Millisecond

// redisConn is one connection, made when it is needed. It belongs to whoever took it from its lane.
type redisConn struct {
	node  *redisNode
	conn  *redis.Conn // nil: not connected
	epoch epoch       // of the server at its other end
	told  bool        // the client has heard of that epoch
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
	return errors.Is(err, errLost) || begins(text, []string{"READONLY", "MOVED", "NOAUTH", "NOPERM"})
}

// ready connects if need be, and has the client told of a new epoch before the first script that needs the slot's owner.
func (c *redisConn) ready(ctx context.Context, batch []*request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return fmt.Errorf("connect to Redis at %s: %w", c.node.addr, err)
		}
	}
	if !c.told && slices.ContainsFunc(batch, func(r *request) bool { return !r.asking }) {
		c.node.heard(c.epoch)
		c.told = true
	}
	return nil
}

// connect opens the connection and learns who is there. Nothing is ever asked of a server that is no master.
func (c *redisConn) connect(ctx context.Context) error {
	conn := c.node.client.Conn()
	e, err := readEpoch(ctx, conn)
	if err == nil && e.Role != "" && e.Role != "master" {
		err = fmt.Errorf("READONLY this server is a %s", e.Role)
	}
	if err != nil {
		_ = conn.Close()
		return err
	}
	c.conn, c.epoch, c.told = conn, e, false
	return nil
}

func (c *redisConn) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
