package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// ask runs a script that may be run any number of times with the same arguments, until it is known what became of it
// or ctx ends. Three lost replies in a row are an errLost.
func (s *shared) ask(ctx context.Context, sc *script, keys []string, args ...any) (any, error) {
	return asked(ctx, s.c.run, sc, keys, args)
}

// inTime asks for what must not happen later than its caller waits for it, and once more where the server's clock is another.
func (s *shared) inTime(ctx context.Context, ask func(till int64) (any, error)) (reply any, err error) {
	for range 2 {
		if reply, err = ask(s.now().Add(delayFor).UnixMicro()); err != nil || text(reply) != "late" {
			return reply, err
		}
		if err := s.read(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: it came %v late", errNotExecuted, delayFor)
}

// askDurable is ask for what must stand on the replicas. With errReplicas there is a reply.
func (s *shared) askDurable(ctx context.Context, sc *script, keys []string, args ...any) (any, error) {
	return asked(ctx, s.c.runDurable, sc, keys, args)
}

func asked(ctx context.Context, run func(context.Context, *script, []string, ...any) (any, error), sc *script, keys []string, args []any) (any, error) {
	for attempt := 1; ; attempt++ {
		reply, err := run(ctx, sc, keys, args...)
		if err == nil || !errors.Is(err, errLost) || attempt == 3 || ctx.Err() != nil {
			return reply, err
		}
	}
}

// uncertain says of a change whether it may stand all the same.
func uncertain(err error) error {
	if errors.Is(err, errNotExecuted) {
		return fmt.Errorf("it is as it was: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrUncertain, err)
}

func away(err error) error {
	return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
}

// nonceText names one attempt to change something.
func nonceText() string {
	var p [8]byte
	_, _ = rand.Read(p[:])
	return hex.EncodeToString(p[:])
}

// text is a reply that is a string or a number, as a string; empty for everything else.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// pairs is the reply of HGETALL.
func pairs(v any) map[string]string {
	list, _ := v.([]any)
	m := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		m[text(list[i])] = text(list[i+1])
	}
	return m
}
