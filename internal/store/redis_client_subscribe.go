package store

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	hearEvery = 3 * time.Second // a silent subscription is asked for a sign of life
	hearAgain = 200 * time.Millisecond
)

// subscribe calls f, one message at a time, for what is published on the channel. It is a hint only: what is published
// while the connection is away is lost. f must not wait for long. stop returns when f will not be called any more.
func (c *redisClient) subscribe(channel string, f func(payload string)) (stop func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	c.work.Go(func() {
		defer close(done)
		for ctx.Err() == nil {
			c.hear(ctx, channel, f)
			pause(ctx, hearAgain)
		}
	})
	return func() {
		cancel()
		<-done
	}
}

// hear listens on one connection until it breaks or the owner changes.
func (c *redisClient) hear(ctx context.Context, channel string, f func(payload string)) {
	addr, err := c.routes.owner(ctx, tagIn(channel))
	if err != nil {
		return
	}
	sub := c.node(addr).client.Subscribe(ctx, channel)
	unblock := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		unblock()
		_ = sub.Close()
	}()
	silent := false
	for ctx.Err() == nil {
		got, err := sub.ReceiveTimeout(ctx, hearEvery)
		if now, lost := c.routes.owner(ctx, tagIn(channel)); lost != nil || now != addr {
			return
		}
		if err != nil {
			if !timedOut(err) || silent || sub.Ping(ctx) != nil {
				return
			}
			silent = true
			continue
		}
		silent = false
		if m, ok := got.(*redis.Message); ok {
			f(m.Payload)
		}
	}
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
