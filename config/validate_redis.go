package config

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/store"
)

// redisPrefix is what keys may begin with: nothing that is a pattern to an ACL, and no hash tag but the store's own.
var redisPrefix = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{0,64}$`)

// redis judges store.redis, and what the other sections may not say when it is the store.
func (v *checker) redis() {
	r := v.Store.Redis
	if v.Store.Kind != "redis" {
		if !slices.Equal(r.Addrs, defaults().Store.Redis.Addrs) {
			v.odd("store.redis.addrs", "is not used: store.kind is "+v.Store.Kind+", and this sidecar shares nothing", "write store.kind: redis, or remove store.redis")
		}
		return
	}
	v.redisAddresses(r.Addrs)
	switch {
	case r.Mode == "cluster" && r.DB != 0:
		v.bad("store.redis.db", fmt.Sprintf("%d: a cluster has database 0 only", r.DB), "remove it")
	case r.DB < 0:
		v.bad("store.redis.db", "must be 0 or more", "")
	case r.Mode == "sentinel" && r.SentinelMaster == "":
		v.bad("store.redis.sentinel_master", "is empty", "name the master that the sentinels watch")
	case r.Mode != "sentinel" && r.SentinelMaster != "":
		v.odd("store.redis.sentinel_master", "is used with mode: sentinel only", "remove it, or write mode: sentinel")
	}
	if r.TLSCA != "" && !r.TLS {
		v.bad("store.redis.tls_ca", "names roots for TLS, and tls is off", "write tls: true")
	}
	if r.TLSCA != "" && r.TLS {
		if err := checkRoots(r.TLSCA); err != nil {
			v.bad("store.redis.tls_ca", err.Error(), "name a file of PEM certificates")
		}
	}
	if !redisPrefix.MatchString(r.Prefix) {
		v.bad("store.redis.prefix", "must be up to 64 letters, digits and any of _ . : / -", "")
	}
	if r.Username != "" && r.Password == "" {
		v.odd("store.redis.password", "is empty, and username is not", "write ${env:NAME} or ${file:/path}, or remove username")
	}
	if r.WaitReplicas < 0 {
		v.bad("store.redis.wait_replicas", "must be 0 or more", "")
	}
	v.redisTimes(r)
	if r.Shard == "agent" && r.Mode != "cluster" {
		v.odd("store.redis.shard", "agent has the masters of a cluster share the load, and this is one server", "write shard: namespace, or mode: cluster")
	}
	if v.Store.SealKey == "" {
		v.odd("store.seal_key", "is empty: secrets of tools cannot be set through the api, because the sidecars could not share them sealed",
			"write the same ${file:/path} on every sidecar")
	}
}

func (v *checker) redisAddresses(addrs []string) {
	if len(addrs) == 0 {
		v.bad("store.redis.addrs", "is empty", "name the server, the sentinels or some nodes of the cluster")
	}
	for i, a := range addrs {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" || strings.ContainsAny(a, "@/ ") {
			v.bad(fmt.Sprintf("store.redis.addrs[%d]", i), "is no host:port", "write it like redis.internal:6379; user and password have keys of their own")
		}
	}
	if v.Store.Redis.Mode == "standalone" && len(addrs) > 1 {
		v.bad("store.redis.addrs", fmt.Sprintf("%d addresses of one server", len(addrs)), "keep one, or write mode: sentinel or mode: cluster")
	}
}

func (v *checker) redisTimes(r store.RedisConfig) {
	v.positive("store.redis.answer_ttl", r.AnswerTTL)
	if r.Hold < 0 || r.Hold > time.Minute {
		v.bad("store.redis.hold", "must be 0s to 1m", "")
	}
	if r.Poll < 50*time.Millisecond || r.Poll > time.Minute {
		v.bad("store.redis.poll", "must be 50ms to 1m: so late may the kill switch be where pub/sub fails", "")
	}
}
