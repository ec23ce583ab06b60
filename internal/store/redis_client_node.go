package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// nodeDialer makes clients for single servers.
type nodeDialer struct {
	cfg RedisConfig
	tls *tls.Config // nil: in clear
}

// quiet takes what go-redis would print: every error of it comes back to us, and is told once.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(quiet{}) }

func newNodeDialer(cfg RedisConfig) (nodeDialer, error) {
	d := nodeDialer{cfg: cfg}
	if !cfg.TLS {
		return d, nil
	}
	d.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLSCA == "" {
		return d, nil
	}
	pem, err := os.ReadFile(cfg.TLSCA)
	if err != nil {
		return d, fmt.Errorf("store.redis.tls_ca: %w", err)
	}
	d.tls.RootCAs = x509.NewCertPool()
	if !d.tls.RootCAs.AppendCertsFromPEM(pem) {
		return d, fmt.Errorf("store.redis.tls_ca: %s holds no PEM certificate", cfg.TLSCA)
	}
	return d, nil
}

// dialTimeout bounds a dial that goes on when its caller has given up, so that the next finds the connection there.
const dialTimeout = time.Second

// options are what makes go-redis do one thing once: no retries, no redirects, no timeouts but ours.
func (d nodeDialer) options(addr string) *redis.Options {
	opt := &redis.Options{
		Addr: addr, Username: d.cfg.Username, Password: d.cfg.Password, DB: d.cfg.DB,
		Protocol: 2, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: dialTimeout, ReadTimeout: firstContact, WriteTimeout: firstContact, // callers bound them by context
		PoolSize: 8, PoolTimeout: redisTimeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	opt.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
		if d.tls == nil {
			return dialer.DialContext(ctx, network, addr)
		}
		return (&tls.Dialer{NetDialer: dialer, Config: d.tls}).DialContext(ctx, network, addr)
	}
	return opt
}

// introduce gives the credentials to a sentinel that asks for some; most ask for none, and refuse any.
func (d nodeDialer) introduce(ctx context.Context, conn *redis.Conn) error {
	text, answered := serverError(conn.Ping(ctx).Err())
	if !answered || !strings.HasPrefix(text, "NOAUTH") {
		return nil
	}
	if d.cfg.Username == "" {
		return conn.Auth(ctx, d.cfg.Password).Err()
	}
	return conn.AuthACL(ctx, d.cfg.Username, d.cfg.Password).Err()
}

// redisNode is one server.
type redisNode struct {
	addr    string
	dial    nodeDialer
	client  *redis.Client // for subscriptions
	heard   func(tag, addr string, e epoch)
	plain   *lane
	durable *lane // a batch of it waits for replicas
}

func (n *redisNode) lane(durable bool) *lane {
	if durable {
		return n.durable
	}
	return n.plain
}

func (n *redisNode) close() error {
	return errors.Join(n.plain.close(), n.durable.close(), n.client.Close())
}

// node is the server at the address.
func (c *redisClient) node(addr string) *redisNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[addr]
	if !ok {
		n = &redisNode{addr: addr, dial: c.dial, client: redis.NewClient(c.dial.options(addr)), heard: c.heard}
		n.plain, n.durable = newLane(n, 0), newLane(n, c.cfg.WaitReplicas)
		if c.closed {
			_ = n.close()
		}
		c.nodes[addr] = n
	}
	return n
}

// drop ends all connections to a node: what is on its way there is lost.
func (c *redisClient) drop(addr string) {
	c.mu.Lock()
	n := c.nodes[addr]
	delete(c.nodes, addr)
	c.mu.Unlock()
	if n != nil {
		_ = n.close()
	}
}
