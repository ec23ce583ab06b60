package store

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	breakAfter = 3                      // failures in a row
	probeEvery = 100 * time.Millisecond // while open
)

// errCallerGone stands for a question that says nothing about Redis: its caller ended it, or another one of its batch said it.
var errCallerGone = errors.New("the caller has gone")

// newRedisBreaker makes a breaker that lets no caller probe: one goroutine does, so that callers are refused at once.
func newRedisBreaker(c *redisClient, tag string, t *tagged) *gobreaker.TwoStepCircuitBreaker[any] {
	return gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: "redis", MaxRequests: 1, Timeout: probeEvery,
		IsExcluded:  func(err error) bool { return errors.Is(err, errCallerGone) },
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakAfter },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				c.log.Warn("Redis does not answer: nothing is asked until a probe is answered", "keys", c.base(tag), "error", (*t.failed.Load()).Error())
				go c.probe(tag, t)
			case to == gobreaker.StateClosed:
				c.log.Info("Redis answers again", "keys", c.base(tag))
			}
		},
	})
}

// probe asks until there is an answer.
func (c *redisClient) probe(tag string, t *tagged) {
	for c.ctx.Err() == nil && t.breaker.State() != gobreaker.StateClosed {
		pause(c.ctx, probeEvery)
		done, err := t.breaker.Allow()
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(c.ctx, redisTimeout)
		_, err = c.follow(ctx, reads([]any{"exists", c.base(tag) + "probe"}))
		cancel()
		c.report(c.ctx, t, done, err)
	}
}

// report tells breaker and topology what came of a question.
func (c *redisClient) report(ctx context.Context, t *tagged, done func(error), err error) {
	var told counted
	switch {
	case errors.As(err, &told):
		done(errCallerGone)
	case err != nil && ctx.Err() != nil:
		done(errCallerGone)
	case outage(err):
		c.routes.doubt()
		t.failed.Store(&err)
		done(err)
	default:
		done(nil)
	}
}
