package store

import (
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

func TestRedisLawByAgent(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	lawOn(t, RedisConfig{Addrs: []string{s.Addr}, Shard: "agent"})
}

func TestRedisLawByAgentOnCluster(t *testing.T) {
	c := redistest.StartCluster(t, "--appendonly", "no")
	lawOn(t, RedisConfig{Mode: "cluster", Addrs: c.Addrs(), Shard: "agent"})
}

func TestRedisLawByAgentOnSentinel(t *testing.T) {
	w := redistest.StartSentinel(t, 1, "--appendonly", "no")
	lawOn(t, RedisConfig{Mode: "sentinel", Addrs: w.Sentinels, SentinelMaster: w.Name, WaitReplicas: 1, Shard: "agent"})
}

// TestRedisLawByAgentWithLostReplies has each step's script run and its reply be lost.
func TestRedisLawByAgentWithLostReplies(t *testing.T) {
	lawWithLostReplies(t, RedisConfig{Shard: "agent"})
}

// TestRedisACLByAgent holds the README's user to the law where agents have slots of their own.
func TestRedisACLByAgent(t *testing.T) {
	s := redistest.Start(t)
	cfg := limited(t, s, "t")
	cfg.Strict, cfg.Shard = true, "agent"
	t.Run("law", func(t *testing.T) { lawOn(t, cfg) })
	if log, _ := s.Do("ACL", "LOG").([]any); len(log) != 0 {
		t.Errorf("refused to the user: %v", log)
	}
}
