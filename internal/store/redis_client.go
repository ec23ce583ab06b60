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

// redisClient asks the master that holds the namespace's keys: one script, one round trip, and never one twice without
// saying so. Its methods may be called from any goroutine.
type redisClient struct {
	cfg     RedisConfig
	log     *slog.Logger
	tag     string
	routes  topology
	dial    nodeDialer
	breaker *gobreaker.TwoStepCircuitBreaker[any]
	failed  atomic.Pointer[error] // the last failure that the breaker was told of

	ctx  context.Context // ends with close
	stop context.CancelFunc
	work sync.WaitGroup // what runs until then

	mu       sync.Mutex
	nodes    map[string]*redisNode // guarded by mu
	epoch    epoch                 // last known; guarded by mu
	onEpochs []func(old, new epoch)
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
	c := &redisClient{cfg: cfg, log: log, tag: tagOf(cfg.Prefix), nodes: map[string]*redisNode{}, met: make(chan struct{}), unmet: errAway}
	c.judged.Promise = "none yet: Redis has not answered since the start"
	var err error
	if c.dial, err = newNodeDialer(cfg); err != nil {
		return nil, err
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.breaker = newRedisBreaker(c)
	if c.routes, err = c.topology(); err == nil {
		err = c.firstLook(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.work.Go(c.keepJudging)
	return c, nil
}

// tagOf is what stands between the braces of every key: all of a namespace hash to one slot, those of another prefix to
// another.
func tagOf(prefix string) string {
	if tag := strings.Trim(prefix, ":{}"); tag != "" {
		return tag
	}
	return "oo"
}

// key names something of the namespace.
func (c *redisClient) key(parts ...string) string {
	return c.cfg.Prefix + "{" + c.tag + "}:" + strings.Join(parts, ":")
}

// question is what is asked once.
type question struct {
	name    string // for errors
	command func(whole bool) []any
	durable bool // on wait_replicas replicas
	reads   bool // one plain command that only reads
}

func asks(s *script, keys []string, args []any) question {
	return question{name: s.name, command: func(whole bool) []any { return s.command(whole, keys, args) }}
}

func reads(args []any) question {
	name, _ := args[0].(string)
	return question{name: name, command: func(bool) []any { return args }, reads: true}
}

// run runs the script once on the master that holds the keys.
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
	if c.breaker.State() != gobreaker.StateClosed {
		return nil, fmt.Errorf("redis: %s: %w: %w", q.name, errNotExecuted, errAway)
	}
	done, err := c.breaker.Allow()
	if err != nil {
		return nil, fmt.Errorf("redis: %s: %w: %w", q.name, errNotExecuted, err)
	}
	reply, err := c.follow(ctx, q)
	c.report(ctx, done, err)
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
	if h.addr, err = c.owner(ctx); err != nil {
		return nil, notExecuted(err)
	}
	for range maxHops {
		reply, err = c.node(h.addr).lane(q.durable).send(ctx, &request{args: q.command(h.whole), asking: h.asking})
		if !errors.Is(err, errNotExecuted) || !c.next(ctx, q, &h, err) {
			return reply, err
		}
	}
	return nil, err
}

// owner is the address of the master to ask.
func (c *redisClient) owner(ctx context.Context) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	return c.routes.owner(bounded)
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
		addr, lost := c.owner(ctx)
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
		c.routes.moved(h.addr)
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

// err says why nothing is asked now; nil when questions are.
func (c *redisClient) err() error {
	if err := c.meeting(); err != nil {
		return err
	}
	if c.breaker.State() != gobreaker.StateClosed {
		if why := c.failed.Load(); why != nil {
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
