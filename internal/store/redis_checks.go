package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Of the server's memory in use: above keepBodiesBelow no bodies are kept, above takeClaimsBelow new claims get 503.
const (
	keepBodiesBelow = 0.80
	takeClaimsBelow = 0.90
)

const judgeEvery = 5 * time.Second

// judgement is what the checks of the server came to.
type judgement struct {
	At        time.Time
	Promise   string   // in words, for `guarantee`
	Problems  []string // what weakens it, each with its mend; `strict` refuses them
	Unchecked []string // what could not be asked, each with what would allow it
	Refused   error    // why the server must not be used at all
	Memory    float64  // share of maxmemory in use; 0 without a bound
	Version   string
	Replicas  int // connected now
	Electable int // replicas that a failover could promote
}

// judgement is the last result of the checks.
func (c *redisClient) judgement() judgement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judged
}

// firstLook judges before anything is asked.
func (c *redisClient) firstLook(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstContact)
	defer cancel()
	j, err := c.judge(ctx)
	if err == nil {
		err = j.Refused
	}
	if err != nil {
		return fmt.Errorf("store.redis: %w", err)
	}
	if c.cfg.Strict && len(j.Problems)+len(j.Unchecked) > 0 {
		return fmt.Errorf("store.redis.strict: %s", strings.Join(append(j.Problems, j.Unchecked...), "; "))
	}
	c.keep(j)
	return nil
}

func (c *redisClient) keep(j judgement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judged = j
}

func (c *redisClient) keepJudging() {
	for pause(c.ctx, judgeEvery); c.ctx.Err() == nil; pause(c.ctx, judgeEvery) {
		ctx, cancel := context.WithTimeout(c.ctx, redisTimeout)
		if j, err := c.judge(ctx); err == nil {
			c.keep(j)
		}
		cancel()
	}
}

// judge asks the owner what it promises.
func (c *redisClient) judge(ctx context.Context) (judgement, error) {
	reply, err := c.follow(ctx, false, func(bool) []any { return []any{"info"} })
	j := judgement{At: time.Now()}
	if text, answered := serverError(err); answered && strings.HasPrefix(text, "NOPERM") {
		j.Promise = "not known: the Redis user may not run INFO"
		j.Unchecked = []string{"INFO is denied: maxmemory-policy, persistence and replicas are not known; allow +info"}
		return j, nil
	}
	if err != nil {
		return j, err
	}
	text, _ := reply.(string)
	facts := parseInfo(text)
	if policy := facts["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		j.Refused = errors.New("maxmemory-policy is " + policy + ": Redis would forget claims; set it to noeviction")
	}
	j.Version = facts["redis_version"]
	j.Memory = share(facts["used_memory"], facts["maxmemory"])
	j.Replicas, _ = strconv.Atoi(facts["connected_slaves"])
	j.Electable = j.Replicas
	j.Promise = "at most once, as far as this Redis keeps its data"
	return j, nil
}

func share(used, limit string) float64 {
	u, _ := strconv.ParseFloat(used, 64)
	l, _ := strconv.ParseFloat(limit, 64)
	if l <= 0 {
		return 0
	}
	return u / l
}
