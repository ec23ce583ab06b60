package main

import (
	"context"
	"path/filepath"
)

// contender is one way for a call to reach the tool.
type contender struct {
	name    string
	proc    *process // the one under test; nil: there is none
	address string
	path    string
	must    string // a line of every answer
	differ  bool   // every call has arguments of its own
}

// The names, which are also the columns' order in a round.
const (
	nameDirect = "direct"
	nameBare   = "bare proxy"
	nameNginx  = "nginx"
	nameFirst  = "first calls"
	nameReplay = "replays"
)

// startField starts everyone. The sidecar of first calls and of replays is the same one. end stops whom it started
// and is never nil.
func startField(ctx context.Context, s settings, dir, toolAddress string) (field []contender, end func(), err error) {
	var started []*process
	end = func() {
		for _, p := range started {
			p.stop()
		}
	}
	field = append(field, contender{name: nameDirect, address: toolAddress, path: "/ok", differ: true})

	bare, address, err := startRole(ctx, dir, "bare", toolAddress)
	if err != nil {
		return nil, end, err
	}
	started = append(started, bare)
	field = append(field, contender{name: nameBare, proc: bare, address: address, path: "/ok", differ: true})

	if nginxVersion(s.nginx) != "" {
		nginx, address, err := startNginx(ctx, s.nginx, dir, toolAddress)
		if err != nil {
			return nil, end, err
		}
		started = append(started, nginx)
		field = append(field, contender{name: nameNginx, proc: nginx, address: address, path: "/ok", differ: true})
	}

	oo, err := newSidecar(s.binary, filepath.Join(dir, "run"), toolAddress)
	if err != nil {
		return nil, end, err
	}
	if _, err := oo.start(ctx, 0); err != nil {
		return nil, end, err
	}
	started = append(started, oo.process)
	governed := contender{name: nameFirst, proc: oo.process, address: oo.address, path: "/tools/bench", must: executed, differ: true}
	replay := governed
	replay.name, replay.must, replay.differ = nameReplay, replayed, false // of call 0, made at start
	return append(field, governed, replay), end, nil
}
