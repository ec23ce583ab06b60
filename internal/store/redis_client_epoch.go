package store

import (
	"context"
	"strings"

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

// heard notes the epoch of a new connection, and tells who wants to know when it is not the last known one.
func (c *redisClient) heard(e epoch) {
	c.mu.Lock()
	old, told := c.epoch, c.onEpochs
	c.epoch = e
	c.mu.Unlock()
	if old == e || old == (epoch{}) {
		return
	}
	c.log.Warn("another Redis answers now, or the same one in another life", "old", old, "new", e)
	for _, f := range told {
		f(old, e)
	}
}

// onEpoch calls f before the first script on a connection whose server is not the last known one, or not in the same
// life: what the old one acknowledged may be gone. f must not wait for a script.
func (c *redisClient) onEpoch(f func(old, new epoch)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onEpochs = append(c.onEpochs[:len(c.onEpochs):len(c.onEpochs)], f)
}
