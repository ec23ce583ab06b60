package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"
)

// contender is one way for a call to reach the tool.
type contender struct {
	name    string
	proc    *process // the one under test; nil: there is none
	address string
	host    string // in the Host field; empty: the address
	path    string
	must    string // a line of every answer
	differ  bool   // every call has arguments of its own
	sheds   bool   // may answer 503 when its store does not keep up; others must not

	dialog func(*caller, uint64) error // the requests of one call; nil: one request for path

	over func(net.Conn) (net.Conn, error) // what a connection begins with; nil: nothing
}

// connect opens one connection, ready for requests.
func (c contender) connect() (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", c.address, 2*time.Second)
	if err != nil || c.over == nil {
		return conn, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	ready, err := c.over(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ready, conn.SetDeadline(time.Time{})
}

// The names, which are also the columns' order in a round.
const (
	nameDirect = "direct"
	nameBare   = "bare proxy"
	nameNginx  = "nginx"
	nameFirst  = "first calls"
	nameReplay = "replays"
)

// field is everyone who is measured. The sidecar of first calls and of replays is the same one.
type field struct {
	contenders []contender
	sidecar    *sidecar
	shared     *sidecar // on Redis; nil: there is none
	others     []*process
}

// startField starts everyone. Stop the field also when this fails.
func startField(ctx context.Context, s settings, dir, toolAddress string) (*field, error) {
	f := &field{contenders: []contender{{name: nameDirect, address: toolAddress, path: "/ok", differ: true}}}
	bare, address, err := startRole(ctx, dir, "bare", toolAddress)
	if err != nil {
		return f, err
	}
	f.add(nameBare, bare, address)
	if nginxVersion(s.nginx) != "" {
		nginx, address, err := startNginx(ctx, s.nginx, dir, toolAddress)
		if err != nil {
			return f, err
		}
		f.add(nameNginx, nginx, address)
	}
	if f.sidecar, err = newSidecar(s.binary, filepath.Join(dir, "run"), toolAddress); err != nil {
		return f, err
	}
	if _, err := f.sidecar.start(ctx, 0); err != nil {
		return f, err
	}
	first := contender{name: nameFirst, proc: f.sidecar.process, address: f.sidecar.address, path: "/tools/bench", must: executed, differ: true}
	replay := first
	replay.name, replay.must, replay.differ = nameReplay, replayed, false // of call 0, made at start
	f.contenders = append(f.contenders, first, replay)
	return f, f.addRedis(ctx, s, dir, toolAddress)
}

// chosen are the contenders of these names, in the order of the names; all of no names.
func (f *field) chosen(names []string) ([]contender, error) {
	if len(names) == 0 {
		return f.contenders, nil
	}
	var all []contender
	for _, name := range names {
		i := slices.IndexFunc(f.contenders, func(c contender) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-contenders: nobody here is called %q", name)
		}
		all = append(all, f.contenders[i])
	}
	return all, nil
}

func (f *field) add(name string, p *process, address string) {
	f.others = append(f.others, p)
	f.contenders = append(f.contenders, contender{name: name, proc: p, address: address, path: "/ok", differ: true})
}

func (f *field) stop() {
	for _, s := range []*sidecar{f.sidecar, f.shared} { // before the Redis that one of them stands on
		if s != nil && s.process != nil {
			s.stop()
		}
	}
	for _, p := range f.others {
		p.stop()
	}
}
