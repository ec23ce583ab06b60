package main

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
)

// nameRedis is a sidecar whose store is a Redis on this machine.
const nameRedis = "first calls, Redis"

// addRedis adds a sidecar on a Redis of its own to the field, where there is a redis-server. That Redis writes nothing to
// the disk, where it would wait for what the others write; the sidecar's journal does, as the embedded store's.
func (f *field) addRedis(ctx context.Context, s settings, dir, toolAddress string) error {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address)
	server, err := start(dir, "redis-server", "redis-server", "--bind", host, "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	f.others = append(f.others, server)
	if err := server.awaitListener(ctx, address); err != nil {
		return err
	}
	f.shared, err = newSidecar(s.binary, filepath.Join(dir, "redis"), toolAddress, func(conf map[string]any) {
		store := conf["store"].(map[string]any)
		store["kind"], store["seal_key"] = "redis", "seal-key-of-the-benchmark"
		store["redis"] = map[string]any{"addrs": []string{address}}
	})
	if err != nil {
		return err
	}
	if _, err := f.shared.start(ctx, 0); err != nil {
		return err
	}
	f.contenders = append(f.contenders, contender{name: nameRedis, proc: f.shared.process, address: f.shared.address, path: "/tools/bench", must: executed, differ: true, sheds: true})
	return nil
}
