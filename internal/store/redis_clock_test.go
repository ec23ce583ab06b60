package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
)

// clockFact is what people are told of the server's clock.
func clockFact(r *Redis) (lines string) {
	for _, f := range r.Facts() {
		if f[0] == "redis_clock" {
			lines += f[1] + "\n"
		}
	}
	return lines
}

// TestTheClockOfRedisIsSet sets the clock of a server ahead and back, by less than the window of an answer, while three
// sidecars run calls, each asked for four times.
func TestTheClockOfRedisIsSet(t *testing.T) {
	s := redistest.StartWithClock(t, "--appendonly", "no")
	f := newFleet(sidecars(t, 3, RedisConfig{Addrs: []string{s.Addr}, Hold: 200 * time.Millisecond}))
	stop := f.load(t)
	for _, ahead := range []time.Duration{0, 90 * time.Second, 0, time.Hour, 30 * time.Minute, -time.Hour, 20 * time.Hour, 0, -time.Minute, 0} {
		s.SetClock(ahead)
		before := f.ran()
		until(t, fmt.Sprintf("calls run with the clock at %v", ahead), func() bool { return f.ran() > before+20 })
	}
	stop()
	f.once(t)
	if said := clockFact(f.stores[0]); !strings.Contains(said, "was set by") || !strings.Contains(said, "behind the store's time") {
		t.Errorf("of its clock it is said: %q", said)
	}
}

func (f *fleet) ran() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.executed)
}

// TestTheClockOfRedisIsWrong has a server come back with a clock that stands before its last claim by more than a day:
// nothing is claimed until it is right, and what runs is ended.
func TestTheClockOfRedisIsWrong(t *testing.T) {
	s := redistest.StartWithClock(t)
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Hold: 50 * time.Millisecond})[0]
	c, b := won(t, r, "running")
	s.SetClock(-48 * time.Hour)
	until(t, "no claim is taken", func() bool {
		_, err := r.Begin(t.Context(), storetest.NewClaim("x"))
		return errors.Is(err, dedup.ErrUnavailable) && strings.Contains(err.Error(), "clock of Redis")
	})
	if err := r.Finish(context.Background(), storetest.Ending(c, b, dedup.Done)); err != nil {
		t.Fatal(err)
	}
	s.SetClock(0)
	until(t, "claims are taken again", func() bool { return r.Err() == nil })
	stands(t, r, "running", dedup.Replay)
	won(t, r, "x")
}

// TestBudgetsWhileTheClockOfRedisIsSet spends all of a day at every place of the clock: no day of the store has more than
// its cap, and setting the clock back gives nothing back.
func TestBudgetsWhileTheClockOfRedisIsSet(t *testing.T) {
	s := redistest.StartWithClock(t, "--appendonly", "no")
	r := sidecars(t, 1, RedisConfig{Addrs: []string{s.Addr}, Hold: 50 * time.Millisecond})[0]
	days := map[int64]int{}
	n := 0
	for _, ahead := range []time.Duration{0, time.Hour, 0, 24 * time.Hour, 12 * time.Hour, 0, 24 * time.Hour, 48 * time.Hour, 25 * time.Hour} {
		s.SetClock(ahead)
		for range 4 {
			c, most := storetest.NewClaim(fmt.Sprint("x", n)), int64(3)
			n++
			c.Limits.CallsPerDay = &most
			b, err := r.Begin(t.Context(), c)
			if err != nil {
				t.Fatalf("at %v: %v", ahead, err)
			}
			if b.Status == dedup.Mine {
				days[dayOf(b.Now)]++
			}
		}
	}
	for day, calls := range days {
		if calls > 3 {
			t.Errorf("%d calls on day %d, and 3 were allowed", calls, day)
		}
	}
	if len(days) < 3 {
		t.Errorf("only %d days were seen", len(days))
	}
}
