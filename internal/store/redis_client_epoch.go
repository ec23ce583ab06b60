package store

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// epoch tells one life of a master from another: after a restart or a failover what it acknowledged may be gone. Fields
// are empty when the user may not run INFO and ROLE.
type epoch struct {
	RunID  string // of the server process
	ReplID string // of its history of writes
	Role   string // master or slave
}

// readEpoch asks the server at the other end who it is.
func readEpoch(ctx context.Context, conn *redis.Conn) (epoch, error) {
	pipe := conn.Pipeline()
	server, replication := pipe.Do(ctx, "info", "server"), pipe.Do(ctx, "info", "replication")
	_, err := pipe.Exec(ctx)
	if text, answered := serverError(err); answered && strings.HasPrefix(text, "NOPERM") {
		return readRole(ctx, conn)
	}
	if err != nil {
		return epoch{}, err
	}
	run, _ := server.Text()
	repl, _ := replication.Text()
	facts := parseInfo(run + "\n" + repl)
	return epoch{RunID: facts["run_id"], ReplID: facts["master_replid"], Role: facts["role"]}, nil
}

// readRole is the lesser question. A user that may not even ask it is not refused: the checks say so.
func readRole(ctx context.Context, conn *redis.Conn) (epoch, error) {
	role, err := conn.Do(ctx, "role").Slice()
	if text, answered := serverError(err); answered && strings.HasPrefix(text, "NOPERM") {
		return epoch{}, nil
	}
	if err != nil || len(role) == 0 {
		return epoch{}, err
	}
	word, _ := role[0].(string)
	return epoch{Role: word}, nil
}

// parseInfo reads the lines "name:value" of INFO.
func parseInfo(text string) map[string]string {
	facts := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(line, "#") {
			facts[name] = value
		}
	}
	return facts
}

// server is who answers at an address.
type server struct {
	epoch epoch
	since time.Time // when it was first met; zero: when this process started
}

// heard notes who answers for a tag on a new connection, and tells who wants to know when that is not who did before.
// Who never was asked for a tag goes by what this process has seen of the servers: one that it did not know before, or
// another life of it, may have lost what others did with that tag.
func (c *redisClient) heard(tag, addr string, e epoch) {
	moved := c.routes.changed()
	c.mu.Lock()
	was := c.meets(addr, e)
	if tag == "" {
		c.mu.Unlock()
		return
	}
	t := c.ofLocked(tag)
	old, known := t.epoch, t.asked
	t.epoch, t.asked = e, true
	told := c.onEpochs
	started := c.unmet != nil
	c.mu.Unlock()
	switch {
	case known && (old == e || old == (epoch{})):
		return
	case !known && (started || time.Since(was) > c.cfg.holds() && time.Since(moved) > c.cfg.holds()):
		return
	}
	c.log.Warn("another Redis answers now, or the same one in another life", "keys", c.base(tag), "old", old, "new", e)
	for _, f := range told {
		f(tag, old, e)
	}
}

// meets notes who answers at an address, and says since when. Call it with mu held.
func (c *redisClient) meets(addr string, e epoch) time.Time {
	s, known := c.servers[addr]
	if !known || s.epoch != e {
		s = server{epoch: e}
		if c.unmet == nil {
			s.since = time.Now()
		}
		c.servers[addr] = s
	}
	return s.since
}

// onEpoch calls f before the first script on a connection whose server is not the last known one of the tag, or not in
// the same life: what the old one acknowledged may be gone. f must not wait for a script.
func (c *redisClient) onEpoch(f func(tag string, old, new epoch)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEpochs = append(c.onEpochs[:len(c.onEpochs):len(c.onEpochs)], f)
}
