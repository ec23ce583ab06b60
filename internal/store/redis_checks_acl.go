package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// What the Redis user must be allowed, as the README's ACL line has it; KEY and CHANNEL stand for one of ours. INFO and
// CONFIG GET are not among them: where they are denied the start goes on, and says what it could not look at.
var (
	aclScripts  = strings.Fields("time get:KEY set:KEY:v del:KEY exists:KEY incr:KEY persist:KEY pexpire:KEY:1 hget:KEY:f hset:KEY:f:v hsetnx:KEY:f:v hdel:KEY:f hlen:KEY hmget:KEY:f hgetall:KEY hexists:KEY:f hincrby:KEY:f:1 zadd:KEY:1:m zrem:KEY:m zcard:KEY zrange:KEY:0:1 publish:CHANNEL:m evalsha:x:1:KEY ping")
	aclReplicas = strings.Fields("wait:0:0")
	aclCluster  = strings.Fields("asking cluster:slots")
	aclOptional = map[string]string{ // by command, what is lost without it
		"xadd:KEY:*:f:v":    "records do not get into the audit stream",
		"subscribe:CHANNEL": "what other sidecars change is seen within store.redis.poll only",
	}
)

// Which of the commands in ARGV, their words apart by a line break each, the user may not run. It runs none of them. A
// server that cannot tell is taken for one that allows all.
var aclScript = newScript("acl", `#!lua flags=no-writes,allow-oom
local lacks = {}
for i = 1, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '[^\n]+') do
    words[#words + 1] = word
  end
  local told, may = pcall(redis.acl_check_cmd, unpack(words))
  if told and not may then
    lacks[#lacks + 1] = i
  end
end
return lacks`)

// permitted asks what the Redis user may do. refused says why that is too little, weak what goes without it: the first
// script that needs a command finds it out in the middle of a call otherwise.
func (c *redisClient) permitted(ctx context.Context) (refused error, weak []string, err error) {
	wanted := aclScripts
	if c.cfg.WaitReplicas > 0 {
		wanted = slices.Concat(wanted, aclReplicas)
	}
	if c.cfg.Mode == "cluster" {
		wanted = slices.Concat(wanted, aclCluster)
	}
	needed := len(wanted)
	for command := range aclOptional {
		wanted = append(wanted[:len(wanted):len(wanted)], command)
	}
	names := strings.NewReplacer("KEY", c.key("acl"), "CHANNEL", c.key("acl"))
	args := make([]any, len(wanted))
	for i, command := range wanted {
		args[i] = names.Replace(strings.ReplaceAll(command, ":", "\n"))
	}
	reply, err := c.follow(ctx, asks(aclScript, []string{c.key("acl")}, args))
	switch text, answered := serverError(err); {
	case denied(err):
		return fmt.Errorf("the Redis user may not run scripts on keys below %s: give it the README's ACL line (%s)", c.cfg.Prefix, text), nil, nil
	case answered && strings.Contains(text, "compiling script"):
		return fmt.Errorf("it knows no flags of scripts: Redis 7.0 or newer is needed"), nil, nil
	case err != nil:
		return nil, nil, err
	}
	var lacks []string
	list, _ := reply.([]any)
	for _, at := range list {
		i, _ := at.(int64)
		if i < 1 || int(i) > len(wanted) {
			continue
		}
		allow := aclWord(wanted[i-1])
		if int(i) <= needed {
			lacks = append(lacks, allow)
		} else {
			weak = append(weak, aclOptional[wanted[i-1]]+": allow the Redis user "+allow)
		}
	}
	if len(lacks) > 0 {
		refused = fmt.Errorf("the Redis user lacks %s for keys and channels below %s: add that to it, or give it the README's ACL line", strings.Join(lacks, " "), c.cfg.Prefix)
	}
	slices.Sort(weak)
	return refused, weak, nil
}

// aclWord is a command as a rule of an ACL.
func aclWord(command string) string {
	name, rest, _ := strings.Cut(command, ":")
	if name == "cluster" {
		name += "|" + rest
	}
	return "+" + name
}
