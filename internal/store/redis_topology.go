package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// topology knows which node holds the keys of a hash tag.
type topology interface {
	// owner is the address of the master to ask.
	owner(ctx context.Context, tag string) (string, error)
	// masters are the addresses of all that hold keys of any tag.
	masters(ctx context.Context) ([]string, error)
	// moved says that a node answered MOVED to this address.
	moved(tag, addr string)
	// doubt says that the owner did not behave like one: look again soon.
	doubt()
	// electable is how many replicas of a master a failover could promote; false when only the master knows of them.
	electable(ctx context.Context, master string) (int, bool)
	// changed is when tags were last seen to have gone to another address; zero: never since the first look.
	changed() time.Time
	close() error
}

func (c *redisClient) topology() (topology, error) {
	if len(c.cfg.Addrs) == 0 {
		return nil, errors.New("store.redis.addrs names no server: write host:port")
	}
	switch c.cfg.Mode {
	case "", "standalone":
		return fixed(c.cfg.Addrs[0]), nil
	case "sentinel":
		if c.cfg.SentinelMaster == "" {
			return nil, errors.New("store.redis.sentinel_master is empty: write the name that the sentinels watch the master by")
		}
		return watchSentinels(c), nil
	case "cluster":
		return watchCluster(c), nil
	}
	return nil, fmt.Errorf("store.redis.mode: %q is not standalone, sentinel or cluster", c.cfg.Mode)
}

// fixed is the topology of one server.
type fixed string

func (f fixed) owner(context.Context, string) (string, error)       { return string(f), nil }
func (f fixed) masters(context.Context) ([]string, error)           { return []string{string(f)}, nil }
func (f fixed) moved(string, string)                                {}
func (f fixed) doubt()                                              {}
func (f fixed) electable(context.Context, string) (n int, own bool) { return 0, false }
func (f fixed) changed() time.Time                                  { return time.Time{} }
func (f fixed) close() error                                        { return nil }

const (
	lookEvery = time.Second           // while all is well
	lookPause = 50 * time.Millisecond // between two looks
)

// lookout asks who the owners are when it is told to, and now and then.
type lookout struct {
	look  func(ctx context.Context) error // asks those who know, and keeps what they say
	again chan struct{}                   // asks for another look; holds one

	looking sync.Mutex // one look at a time
}

func newLookout(look func(ctx context.Context) error) *lookout {
	return &lookout{look: look, again: make(chan struct{}, 1)}
}

func (l *lookout) refresh(ctx context.Context) error {
	l.looking.Lock()
	defer l.looking.Unlock()
	return l.look(ctx)
}

func (l *lookout) doubt() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// keep looks until the context ends.
func (l *lookout) keep(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.again:
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, redisTimeout)
		_ = l.refresh(bounded) // without an answer the last one stays
		cancel()
		pause(ctx, lookPause)
	}
}

// poll asks all at once and gives what each answered, and the errors of the others.
func poll[T any](clients map[string]*redis.Client, ask func(addr string, client *redis.Client) (T, error)) (answers []T, err error) {
	type answer struct {
		value T
		err   error
	}
	back := make(chan answer, len(clients))
	for addr, client := range clients {
		go func() {
			v, err := ask(addr, client)
			if err != nil {
				err = fmt.Errorf("%s: %w", addr, err)
			}
			back <- answer{v, err}
		}()
	}
	var errs []error
	for range clients {
		if a := <-back; a.err != nil {
			errs = append(errs, a.err)
		} else {
			answers = append(answers, a.value)
		}
	}
	return answers, errors.Join(errs...)
}

// beside is the address, with the host of the one that named it where it names none.
func beside(addr, namedBy string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "" && host != "?" {
		return addr
	}
	if host, _, err = net.SplitHostPort(namedBy); err != nil {
		return addr
	}
	return net.JoinHostPort(host, port)
}
