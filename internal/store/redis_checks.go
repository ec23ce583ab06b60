package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Of the server's memory in use: from keepBodiesBelow on no bodies of answers are kept, from takeClaimsBelow on new claims get 503.
const (
	keepBodiesBelow = 0.80
	takeClaimsBelow = 0.90
)

const judgeEvery = 2 * time.Second

// judgement is what the checks of the server came to.
type judgement struct {
	At        time.Time
	Promise   string   // in words, for `guarantee`
	Problems  []string // what weakens it, each with its mend; `strict` refuses to start with one
	Unchecked []string // what could not be asked, each with what would allow it; `strict` refuses these too
	Refused   error    // why the server must not be used at all
	Memory    float64  // share of maxmemory in use; 0 without a bound
	Version   string   // of the server
	Replicas  int      // connected now
	Electable int      // replicas that a failover could promote
	Evicted   int      // keys that this life of the server dropped to make room

	evicted map[string]int // the same, by the address of each
}

// judgement is the last result of the checks.
func (c *redisClient) judgement() judgement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judged
}

// errRefused: there is a server, and it did not pass the checks.
var errRefused = errors.New("this Redis must not be used")

// firstLook judges before anything else is asked. A server that has not answered by its end may come later.
func (c *redisClient) firstLook(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstContact)
	defer cancel()
	err := c.meet(ctx)
	for ; notYet(err) && ctx.Err() == nil; err = c.meet(ctx) {
		pause(ctx, probeEvery)
	}
	if notYet(err) {
		c.log.Warn("redis does not answer; the start goes on without it: not ready, and calls that need a claim are refused until it comes", "error", err.Error())
		return nil
	}
	return err
}

// meet judges the server for the first time. While it returns an error nothing is asked.
func (c *redisClient) meet(ctx context.Context) error {
	j, err := c.judge(ctx)
	weak := slices.Concat(j.Problems, j.Unchecked)
	switch {
	case err != nil:
		err = fmt.Errorf("store.redis: %w", err)
	case j.Refused != nil:
		err = fmt.Errorf("store.redis: %w: %w", errRefused, j.Refused)
	case c.cfg.Strict && len(weak) > 0:
		err = fmt.Errorf("store.redis.strict: %w: it promises less than it could: %s", errRefused, strings.Join(weak, "; "))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unmet = err; err != nil {
		return err
	}
	for _, p := range weak {
		c.log.Warn("redis: " + p)
	}
	c.judged = j
	close(c.met)
	return nil
}

// meeting says why no server has passed the checks yet; nil when one has.
func (c *redisClient) meeting() error {
	select {
	case <-c.met:
		return nil
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unmet
}

// notYet says that the server may be about to come: nobody answered, or not as one that serves.
func notYet(err error) bool {
	var untrusted *tls.CertificateVerificationError
	if err == nil || errors.As(err, &untrusted) || errors.Is(err, errRefused) {
		return false
	}
	text, answered := serverError(err)
	return !answered || begins(text, []string{"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "ERR max number of clients"})
}

// keep replaces the judgement, and tells what is new in it. A server that has evicted keys since has forgotten as one that
// failed over.
func (c *redisClient) keep(j judgement) {
	c.mu.Lock()
	was, told := c.judged, c.onEpochs
	asked := map[string]epoch{}
	for tag, t := range c.tags {
		if t.asked {
			asked[tag] = t.epoch
		}
	}
	c.judged = j
	c.mu.Unlock()
	if was.Promise != "" && was.Promise != j.Promise {
		c.log.Warn("redis: the promise has changed", "was", was.Promise, "is", j.Promise)
	}
	evicted := 0
	for addr, n := range j.evicted {
		evicted += max(0, n-was.evicted[addr])
	}
	if evicted == 0 {
		return
	}
	c.log.Error("redis has evicted keys: calls whose records were among them may run again", "keys", evicted)
	for tag, e := range asked {
		for _, f := range told {
			f(tag, e, e)
		}
	}
}

func (c *redisClient) keepJudging() {
	every := func() time.Duration {
		if c.meeting() != nil {
			return probeEvery
		}
		return judgeEvery
	}
	for pause(c.ctx, every()); c.ctx.Err() == nil; pause(c.ctx, every()) {
		c.judgeAgain()
	}
}

func (c *redisClient) judgeAgain() {
	ctx, cancel := context.WithTimeout(c.ctx, 2*redisTimeout)
	defer cancel()
	if was := c.meeting(); was != nil {
		if err := c.meet(ctx); err == nil {
			c.log.Info("redis has come and passed the checks")
		} else if errors.Is(err, errRefused) && !errors.Is(was, errRefused) {
			c.log.Error("redis has come and is refused", "error", err.Error())
		}
		return
	}
	if j, err := c.judge(ctx); err == nil {
		c.keep(j)
	}
}

// judge asks those that hold keys, and those who watch them, what they promise. The weakest of several decides.
func (c *redisClient) judge(ctx context.Context) (judgement, error) {
	addr, err := c.owner(ctx, c.tag)
	if err != nil {
		return judgement{}, notExecuted(err)
	}
	all := []string{addr}
	if c.cfg.apart() {
		if all, err = c.routes.masters(ctx); err != nil && len(all) == 0 {
			return judgement{}, notExecuted(err)
		}
	}
	refused, weak, err := c.permitted(ctx)
	if err != nil {
		return judgement{}, err
	}
	var worst judgement
	for i, addr := range all {
		j, err := c.judgeNode(ctx, addr)
		if err != nil {
			return judgement{}, fmt.Errorf("%s: %w", addr, err)
		}
		if len(all) > 1 {
			j = j.of(addr)
		}
		if i == 0 {
			worst = j
		} else {
			worst = worst.and(j)
		}
	}
	worst.Refused, worst.Problems = cmp.Or(refused, worst.Refused), append(weak, worst.Problems...)
	if refused != nil {
		worst.Promise = "none: " + refused.Error()
	}
	return worst, nil
}

// of says in each line which of several masters it speaks of.
func (j judgement) of(addr string) judgement {
	for _, lines := range [][]string{j.Problems, j.Unchecked} {
		for i := range lines {
			lines[i] = addr + ": " + lines[i]
		}
	}
	if j.Refused != nil {
		j.Refused = fmt.Errorf("%s: %w", addr, j.Refused)
	}
	return j
}

// and is what holds of both.
func (j judgement) and(o judgement) judgement {
	j.Problems, j.Unchecked = append(j.Problems, o.Problems...), append(j.Unchecked, o.Unchecked...)
	if o.Promise != j.Promise && (o.Refused != nil || len(o.Problems)+len(o.Unchecked) > 0) && j.Refused == nil {
		j.Promise = o.Promise // of what is weaker somewhere
	}
	if j.Refused == nil {
		j.Refused = o.Refused
	}
	j.Memory, j.Electable = max(j.Memory, o.Memory), max(j.Electable, o.Electable)
	j.Replicas, j.Evicted = min(j.Replicas, o.Replicas), j.Evicted+o.Evicted
	all := maps.Clone(j.evicted)
	if all == nil {
		all = map[string]int{}
	}
	maps.Copy(all, o.evicted)
	j.evicted = all
	return j
}

func (c *redisClient) judgeNode(ctx context.Context, addr string) (judgement, error) {
	j := judgement{At: time.Now()}
	facts, err := c.serverFacts(ctx, addr)
	if denied(err) {
		j.Promise = "not known: the Redis user may not run INFO, and so nobody looks whether Redis forgets claims"
		j.Unchecked = []string{"maxmemory-policy, persistence, replicas and failovers are not known: allow the Redis user +info"}
		return j, nil
	}
	if err != nil {
		return j, err
	}
	j.Version = facts["redis_version"]
	j.Memory = share(facts["used_memory"], facts["maxmemory"])
	j.Replicas, _ = strconv.Atoi(facts["connected_slaves"])
	j.Electable = j.Replicas
	if n, ok := c.routes.electable(ctx, addr); ok {
		j.Electable = max(n, j.Replicas)
	}
	if j.Evicted, _ = strconv.Atoi(facts["evicted_keys"]); j.Evicted > 0 {
		j.Problems = append(j.Problems, fmt.Sprintf("Redis has evicted %d keys since its start, because maxmemory-policy was not noeviction: calls whose records were among them may run again, and no budget counts them", j.Evicted))
	}
	j.evicted = map[string]int{addr: j.Evicted}
	j.Refused = evicts(facts)
	fsync, err := c.setting(ctx, addr, "appendfsync")
	if err != nil {
		return j, err
	}
	c.weigh(&j, facts["aof_enabled"] == "1", fsync)
	return j, nil
}

// at asks one node about itself.
func (c *redisClient) at(ctx context.Context, addr string, args ...any) (any, error) {
	return c.node(addr).lane(false).send(ctx, &request{args: args})
}

func (c *redisClient) serverFacts(ctx context.Context, addr string) (map[string]string, error) {
	reply, err := c.at(ctx, addr, "info")
	text, _ := reply.(string)
	return parseInfo(text), err
}

// setting is one line of the server's configuration; empty when the user may not read it.
func (c *redisClient) setting(ctx context.Context, addr, name string) (string, error) {
	reply, err := c.at(ctx, addr, "config", "get", name)
	if _, answered := serverError(err); answered {
		return "", nil // denied, or renamed away as hosted servers do
	}
	return pairsOf(reply)[name], err
}

func denied(err error) bool {
	text, answered := serverError(err)
	return answered && strings.HasPrefix(text, "NOPERM")
}

func evicts(facts map[string]string) error {
	policy := facts["maxmemory_policy"]
	if policy == "" || policy == "noeviction" {
		return nil
	}
	return errors.New("maxmemory-policy is " + policy + ": a full Redis would forget claims and calls would run twice; set it to noeviction")
}

// weigh puts the promise into words and names what weakens it.
func (c *redisClient) weigh(j *judgement, appendonly bool, fsync string) {
	var words []string
	if j.Electable > 0 {
		words = append(words, c.afterFailover(j))
	}
	words = append(words, afterRestart(j, appendonly, fsync))
	if c.cfg.WaitReplicas > j.Replicas {
		j.Problems = append(j.Problems, fmt.Sprintf("%d replicas are connected and store.redis.wait_replicas is %d: no claim can win; connect more or lower it", j.Replicas, c.cfg.WaitReplicas))
	}
	j.Promise = "at most once on this Redis; " + strings.Join(words, "; ")
	if j.Refused != nil {
		j.Promise = "none: " + j.Refused.Error()
	}
}

// afterFailover is what is left of the acknowledged claims when a replica is promoted. With fewer answers than replicas
// the one that has not answered may be the one that is promoted.
func (c *redisClient) afterFailover(j *judgement) string {
	if c.cfg.WaitReplicas >= j.Electable {
		return "no claim is lost by one failover"
	}
	j.Problems = append(j.Problems, fmt.Sprintf("%d replicas can be promoted and store.redis.wait_replicas is %d: a failover may lose claims; set it to %d", j.Electable, c.cfg.WaitReplicas, j.Electable))
	return fmt.Sprintf("a failover may lose the last claims and run them twice (wait_replicas %d of %d)", c.cfg.WaitReplicas, j.Electable)
}

// afterRestart is what is left when the server itself comes back.
func afterRestart(j *judgement, appendonly bool, fsync string) string {
	switch {
	case !appendonly:
		j.Problems = append(j.Problems, "appendonly is off: a restart of Redis forgets claims; set appendonly yes")
		return "a restart of Redis forgets claims (appendonly no)"
	case fsync == "always":
		return "no claim is lost by a restart of Redis"
	case fsync == "":
		j.Unchecked = append(j.Unchecked, "appendfsync is not known: allow the Redis user +config|get, or see that it is always")
		return "a crash of its machine may lose the last second (appendfsync is not known)"
	}
	if j.Electable == 0 {
		j.Problems = append(j.Problems, "appendfsync is "+fsync+" and no replica has a second copy: a crash of the machine may lose claims; set appendfsync always")
	}
	return "a crash of its machine may lose the last second (appendfsync " + fsync + ")"
}

func share(used, limit string) float64 {
	u, _ := strconv.ParseFloat(used, 64)
	l, _ := strconv.ParseFloat(limit, 64)
	if l <= 0 {
		return 0
	}
	return u / l
}
