package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// sidecar is a configuration to start oo-sidecar with, and the process while it runs.
type sidecar struct {
	*process
	binary, dir, file string
	address           string // of the proxy listener
}

// newSidecar writes the configuration of a sidecar with one tool, registered, priced and signed, and a policy whose
// caps are never reached, so that every step of governance runs. Its store is dir/store. What change says is different.
func newSidecar(binary, dir, toolAddress string, change ...func(conf map[string]any)) (*sidecar, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var free [3]string
	for i := range free {
		var err error
		if free[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	type object = map[string]any
	conf := object{
		"version": 1,
		"agent":   object{"id": "bench"},
		"proxy":   object{"listen": free[0]},
		"api":     object{"listen": free[1]},
		"health":  object{"listen": free[2]},
		"store":   object{"kind": "embedded", "embedded": object{"dir": filepath.Join(dir, "store"), "durability": "power"}},
		"tools": []object{{
			"name": "bench", "url": "http://" + toolAddress + "/ok", "price_usd": "0.000001", "max_in_flight": 1024,
			"auth": object{"type": "hmac_sha256", "secrets": []string{"a secret of the benchmark"}},
		}},
		"policies": []object{{
			"agent_id": "bench", "max_actions_per_hour": 1_000_000_000, "max_spend_usd_per_day": "1000000",
			"allowed_tools": []string{"bench"}, "max_calls_per_tool": map[string]int{"bench": 1_000_000_000},
		}},
		"log": object{"level": "error"},
	}
	for _, f := range change {
		f(conf)
	}
	text, err := json.MarshalIndent(conf, "", "  ") // JSON is YAML
	if err != nil {
		return nil, err
	}
	s := &sidecar{binary: binary, dir: dir, file: filepath.Join(dir, "oo-sidecar.yaml"), address: free[0]}
	return s, os.WriteFile(s.file, text, 0o600)
}

// start runs the sidecar until its first governed call is answered, and tells how long that took. The call must be
// one that this store has not seen.
func (s *sidecar) start(ctx context.Context, number uint64) (time.Duration, error) {
	began := time.Now()
	p, err := start(s.dir, "oo-sidecar", s.binary, "serve", "--config", s.file)
	if err != nil {
		return 0, err
	}
	s.process = p
	for ctx.Err() == nil && !p.ended() && time.Since(began) < 30*time.Second {
		if err = callOnce(s.address, "/tools/bench", executed, number); err == nil {
			return time.Since(began), nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	s.stop()
	return 0, errors.Join(ctx.Err(), err, p.failure())
}
