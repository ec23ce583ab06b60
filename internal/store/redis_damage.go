package store

import (
	"fmt"
	"strings"
)

// Keys of the namespace that hold something else than oo-sidecar wrote. None is taken for absent: a call's is an unknown
// call; what decides on claims has them refused until an operator has looked.

// damagedKey is what an operator is told of such a key.
func damagedKey(name string) error {
	_, key, _ := strings.Cut(name, "}:")
	kind, _, _ := strings.Cut(key, ":")
	after := map[string]string{
		"fence":     "look also whether the clock of Redis is right: it may stand more than a day before the last claim",
		"switch":    "sidecars that know of a switch give it back: compare `agent ls`",
		"switch-on": "agents that were let go lately may be off again: compare `agent ls`",
		"entries":   "sidecars give back the policies and tools that they know",
		"shard":     "the sidecars that run say it again: see that their store.redis.shard is what it was",
		"shards":    "agents' calls are listed again as they are asked for",
		"secret":    "keys may be shown under new names",
		"open":      "calls are listed again as they are asked for",
		"unknown":   "calls are listed again as they are asked for",
		"h":         "the agent's calls of the hour count anew",
		"d":         "the agent's calls and spending of the day count anew",
	}[kind]
	return fmt.Errorf("%s in Redis cannot be read: something else than oo-sidecar has written it; find out what uses the prefix, then remove the key (redis-cli DEL '%s'; %s)", name, name, after)
}

// damaged takes what the beat says: the key of the shard that cannot be read, or none.
func (r *Redis) damaged(s *redisShard, name string) {
	was := s.damage.Swap(&name)
	switch {
	case name != "" && (was == nil || *was != name):
		r.local.log.Error("no claims are taken", "error", damagedKey(name).Error())
	case name == "" && was != nil && *was != "":
		r.local.log.Info("what could not be read is there no more; every sidecar says again what it holds", "key", *was)
		r.failedOver(s)
	}
}

// met is told of a key that was in a claim's way. Those of one agent's counts are in nobody else's.
func (r *Redis) met(in *redisShard, name string) error {
	err := damagedKey(name)
	if key := strings.TrimPrefix(name, in.base); strings.HasPrefix(key, "h:") || strings.HasPrefix(key, "d:") {
		r.local.log.Error("an agent's calls are refused", "error", err.Error())
		return err
	}
	r.damaged(in, name)
	return err
}

// readable says which key keeps claims from being taken.
func (s *redisShard) readable() error {
	if name := s.damage.Load(); name != nil && *name != "" {
		return damagedKey(*name)
	}
	return nil
}
