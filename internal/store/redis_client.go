package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// redisClient asks the master that holds the keys of a hash tag: one script, one round trip, and never one twice without
// saying so. Its methods may be called from any goroutine.
type redisClient struct {
	cfg    RedisConfig
	log    *slog.Logger
	tag    string // of what the namespace shares
	routes topology
	dial   nodeDialer

	ctx  context.Context // ends with close
	stop context.CancelFunc
	work sync.WaitGroup // what runs until then

	mu       sync.Mutex
	nodes    map[string]*redisNode // guarded by mu
	tags     map[string]*tagged    // each that was ever asked for; guarded by mu
	servers  map[string]server     // by address: who answered there last; guarded by mu
	onEpochs []func(tag string, old, new epoch)
	judged   judgement // guarded by mu
	unmet    error     // why no server has passed the checks yet; nil: one has; guarded by mu
	closed   bool      // guarded by mu

	met chan struct{} // closed once a server has passed the checks
}

// firstContact bounds what dialRedis waits: a resolver and a handshake may be slow once.
const firstContact = 2 * time.Second

// dialRedis connects to the server that the configuration names and judges it. A server that must not be used, such as
// one that evicts keys, is an error; so is one below its promise with `strict`. One that does not answer is waited for
// in the background: until it has come and passed the checks nothing is asked of it.
func dialRedis(ctx context.Context, cfg RedisConfig, log *slog.Logger) (*redisClient, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &redisClient{cfg: cfg, log: log, tag: tagOf(cfg.Prefix), nodes: map[string]*redisNode{}, tags: map[string]*tagged{}, servers: map[string]server{}, met: make(chan struct{}), unmet: errAway}
	c.judged.Promise = "none yet: Redis has not answered since the start"
	var err error
	if c.dial, err = newNodeDialer(cfg); err != nil {
		return nil, err
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	if c.routes, err = c.topology(); err == nil {
		err = c.firstLook(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.work.Go(c.keepJudging)
	return c, nil
}

// tagged is what is known of one hash tag.
type tagged struct {
	breaker *gobreaker.TwoStepCircuitBreaker[any]
	failed  atomic.Pointer[error] // the last failure that the breaker was told of
	asked   bool                  // its server is known; guarded by redisClient.mu
	epoch   epoch                 // of the server that was last asked; guarded by redisClient.mu
}

// of is what is known of the tag.
func (c *redisClient) of(tag string) *tagged {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ofLocked(tag)
}

// ofLocked is of with mu held.
func (c *redisClient) ofLocked(tag string) *tagged {
	t := c.tags[tag]
	if t == nil {
		t = &tagged{}
		t.breaker = newRedisBreaker(c, tag, t)
		c.tags[tag] = t
	}
	return t
}

// tagOf is what stands between the braces of keys: what a namespace shares hashes to one slot, that of another prefix to
// another.
func tagOf(prefix string) string {
	if tag := strings.Trim(prefix, ":{}"); tag != "" {
		return tag
	}
	return "oo"
}

// base is what every key of a tag begins with.
func (c *redisClient) base(tag string) string { return c.cfg.Prefix + "{" + tag + "}:" }

// key names something that the namespace shares.
func (c *redisClient) key(parts ...string) string { return c.base(c.tag) + strings.Join(parts, ":") }

// tagIn is the hash tag of a key of this store.
func tagIn(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}

// question is what is asked once.
type question struct {
	name    string // for errors
	tag     string // of the keys
	command func(whole bool) []any
	durable bool // on wait_replicas replicas
	reads   bool // one plain command that only reads
}

func asks(s *script, keys []string, args []any) question {
	return question{name: s.name, tag: tagIn(keys[0]), command: func(whole bool) []any { return s.command(whole, keys, args) }}
}

// reads asks for one plain command on a key.
func reads(args []any) question {
	name, _ := args[0].(string)
	key := ""
	if len(args) > 1 {
		key, _ = args[1].(string)
	}
	return question{name: name, tag: tagIn(key), command: func(bool) []any { return args }, reads: true}
}

// run runs the script once on the master that holds the keys, which are all of one tag.
func (c *redisClient) run(ctx context.Context, s *script, keys []string, args ...any) (any, error) {
	return c.ask(ctx, asks(s, keys, args))
}

// runDurable is run for what must be on wait_replicas replicas. When they are too few the reply is there all the same,
// with errReplicas.
func (c *redisClient) runDurable(ctx context.Context, s *script, keys []string, args ...any) (any, error) {
	q := asks(s, keys, args)
	q.durable = c.cfg.WaitReplicas > 0
	return c.ask(ctx, q)
}

// do runs one plain command, which only reads.
func (c *redisClient) do(ctx context.Context, args ...any) (any, error) {
	return c.ask(ctx, reads(args))
}

// ask bounds, guards and names one question.
func (c *redisClient) ask(ctx context.Context, q question) (any, error) {
	if err := c.meeting(); err != nil {
		return nil, fmt.Errorf("redis: %s: %w: %w", q.name, errNotExecuted, err)
	}
	t := c.of(q.tag)
	if t.breaker.State() != gobreaker.StateClosed {
		return nil, fmt.Errorf("redis: %s: %w: %w", q.name, errNotExecuted, errAway)
	}
	done, err := t.breaker.Allow()
	if err != nil {
		return nil, fmt.Errorf("redis: %s: %w: %w", q.name, errNotExecuted, err)
	}
	reply, err := c.follow(ctx, q)
	c.report(ctx, t, done, err)
	if err != nil {
		err = fmt.Errorf("redis: %s: %w", q.name, err)
	}
	return reply, err
}

// maxHops bounds how often one question goes on to another node, or again to the same one. Each hop follows an answer
// that says that nothing ran.
const maxHops = 5

// follow asks the owner, and goes where it is sent. It is what a cluster client does, without ever repeating what may
// have run.
func (c *redisClient) follow(ctx context.Context, q question) (reply any, err error) {
	h := hop{}
	if h.addr, err = c.owner(ctx, q.tag); err != nil {
		return nil, notExecuted(err)
	}
	for range maxHops {
		reply, err = c.node(h.addr).lane(q.durable).send(ctx, &request{tag: q.tag, args: q.command(h.whole), asking: h.asking})
		if !errors.Is(err, errNotExecuted) || !c.next(ctx, q, &h, err) {
			return reply, err
		}
	}
	return nil, err
}

// owner is the address of the master to ask.
func (c *redisClient) owner(ctx context.Context, tag string) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	return c.routes.owner(bounded, tag)
}

// hop is where and how a question goes.
type hop struct {
	addr   string
	asking bool // the node is taking the slot over
	whole  bool // the node does not know the script
}

// next says whether the question may go on, and where: what ran nowhere may be asked elsewhere.
func (c *redisClient) next(ctx context.Context, q question, h *hop, err error) bool {
	text, answered := serverError(err)
	if !answered {
		addr, lost := c.owner(ctx, q.tag)
		moved := lost == nil && addr != h.addr && !h.asking
		h.addr = addr
		return moved
	}
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "NOSCRIPT":
		h.whole = true
	case "MOVED":
		_, to, _ := strings.Cut(rest, " ")
		h.addr, h.asking = beside(to, h.addr), false
		c.routes.moved(q.tag, h.addr)
	case "ASK":
		// Half of the slot is here and half there. A script would take what it finds in neither, or not yet in the new
		// place, for absent, and a claim would win twice: scripts wait until the slot has moved.
		if !q.reads {
			return false
		}
		_, to, _ := strings.Cut(rest, " ")
		h.addr, h.asking = beside(to, h.addr), true
	case "TRYAGAIN":
		pause(ctx, 5*time.Millisecond)
	default:
		return false
	}
	return ctx.Err() == nil
}

// pause waits, but not beyond the context.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

var errAway = errors.New("Redis does not answer; it is asked again several times a second")

// err says why nothing is asked about what the namespace shares; nil when questions are.
func (c *redisClient) err() error { return c.errOf(c.tag) }

// errOf is err for a tag.
func (c *redisClient) errOf(tag string) error {
	if err := c.meeting(); err != nil {
		return err
	}
	if t := c.of(tag); t.breaker.State() != gobreaker.StateClosed {
		if why := t.failed.Load(); why != nil {
			if _, answered := serverError(*why); answered {
				return fmt.Errorf("Redis takes nothing now; it is asked again several times a second: %w", *why)
			}
		}
		return errAway
	}
	return c.judgement().Refused
}

// close ends the connections. Questions on their way end with an error.
func (c *redisClient) close() error {
	c.stop()
	var errs []error
	if c.routes != nil {
		errs = append(errs, c.routes.close())
	}
	c.mu.Lock()
	c.closed = true
	for _, n := range c.nodes {
		errs = append(errs, n.close())
	}
	c.mu.Unlock()
	c.work.Wait()
	return errors.Join(errs...)
}
