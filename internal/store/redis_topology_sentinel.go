package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// sentinels are the topology of one watched master. What they say is asked for again whenever the master misbehaves, when
// one of them tells of a switch, and every second.
type sentinels struct {
	*lookout
	name    string
	clients map[string]*redis.Client
	change  func(old, new string) // called after the master changed

	mu   sync.Mutex
	addr string // of the master; empty: not known yet; guarded by mu
}

// watchSentinels asks the sentinels of the configuration. When they name another master, nothing more is read from or
// written to the old one: it may come back and believe itself master still.
func watchSentinels(c *redisClient) *sentinels {
	s := &sentinels{name: c.cfg.SentinelMaster, clients: map[string]*redis.Client{}}
	s.lookout = newLookout(s.ask)
	s.change = func(old, new string) {
		c.log.Warn("the sentinels name another master", "old", old, "new", new)
		c.drop(old)
	}
	for _, addr := range c.cfg.Addrs {
		opt := c.dial.options(addr)
		opt.DB, opt.Username, opt.Password = 0, "", ""
		opt.OnConnect = c.dial.introduce
		s.clients[addr] = redis.NewClient(opt)
	}
	for _, client := range s.clients {
		c.work.Go(func() { s.listen(c.ctx, client) })
	}
	c.work.Go(func() { s.keep(c.ctx) })
	return s
}

// named is a sentinel's word.
type named struct {
	addr  string
	epoch int // of its configuration: the newest is right
}

// owner is the last answer, for every tag; the first one is waited for.
func (s *sentinels) owner(ctx context.Context, _ string) (string, error) {
	if addr := s.known(); addr != "" {
		return addr, nil
	}
	if err := s.refresh(ctx); err != nil {
		return "", err
	}
	return s.known(), nil
}

func (s *sentinels) known() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

func (s *sentinels) masters(ctx context.Context) ([]string, error) {
	addr, err := s.owner(ctx, "")
	return []string{addr}, err
}

func (s *sentinels) moved(_, addr string) {
	s.mu.Lock()
	old := s.addr
	s.addr = addr
	s.mu.Unlock()
	if old != addr && old != "" {
		s.change(old, addr)
	}
}

func (s *sentinels) changed() time.Time { return time.Time{} } // a master at another address is another epoch

// ask takes the word of the sentinel that has heard of the latest failover.
func (s *sentinels) ask(ctx context.Context) error {
	said, err := poll(s.clients, func(_ string, client *redis.Client) (named, error) {
		facts, err := factsIn(client.Do(ctx, "sentinel", "master", s.name))
		if err != nil {
			return named{}, err
		}
		epoch, err := strconv.Atoi(facts["config-epoch"])
		return named{net.JoinHostPort(facts["ip"], facts["port"]), epoch}, err
	})
	if len(said) == 0 {
		return fmt.Errorf("no sentinel names the master %q: %w", s.name, err)
	}
	best := said[0]
	for _, n := range said[1:] {
		if n.epoch > best.epoch {
			best = n
		}
	}
	s.moved("", best.addr)
	return nil
}

// electable counts the replicas that the sentinels know of and may promote, those that are away too.
func (s *sentinels) electable(ctx context.Context, _ string) (int, bool) {
	counts, _ := poll(s.clients, func(_ string, client *redis.Client) (int, error) {
		list, err := client.Do(ctx, "sentinel", "replicas", s.name).Slice()
		n := 0
		for _, item := range list {
			if facts := pairsOf(item); facts["slave-priority"] != "0" {
				n++
			}
		}
		return n, err
	})
	most := 0
	for _, n := range counts {
		most = max(most, n)
	}
	return most, len(counts) > 0
}

// listen asks again as soon as this sentinel tells of a switch.
func (s *sentinels) listen(ctx context.Context, client *redis.Client) {
	for ; ctx.Err() == nil; pause(ctx, lookEvery) {
		sub := client.Subscribe(ctx, "+switch-master")
		unblock := context.AfterFunc(ctx, func() { _ = sub.Close() })
		for {
			m, err := sub.ReceiveMessage(ctx)
			if err != nil {
				break
			}
			if strings.HasPrefix(m.Payload, s.name+" ") {
				s.doubt()
			}
		}
		unblock()
		_ = sub.Close()
	}
}

func (s *sentinels) close() error {
	var errs []error
	for _, c := range s.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// factsIn reads a reply of names and values in turn.
func factsIn(cmd *redis.Cmd) (map[string]string, error) {
	list, err := cmd.Slice()
	return pairsOf(list), err
}

func pairsOf(reply any) map[string]string {
	list, _ := reply.([]any)
	facts := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		facts[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return facts
}
