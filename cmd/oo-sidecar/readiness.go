package main

import (
	"context"
	"time"
)

// readinessEvery is how often the checks of /readyz are looked at for the log.
const readinessEvery = time.Second

// watchReadiness says in the log when a check of /readyz begins to fail, with its mend, and when it holds again: who
// reads the log at night has no probe at hand. Draining is said by who drains.
func (s *sidecar) watchReadiness(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := map[string]bool{}
	for !s.draining.Load() {
		for _, c := range s.health.Checks {
			err := c.Err()
			if failed := err != nil; failed != failing[c.Name] && !s.draining.Load() {
				failing[c.Name] = failed
				s.readinessChanged(c.Name, err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *sidecar) readinessChanged(check string, err error) {
	if err == nil {
		s.log.Info("ready again", "check", check)
		return
	}
	s.log.Warn("not ready: calls with effects are refused until it is over", "check", check, "error", err.Error())
}
