package store

import (
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Config is the section `store` of the configuration file: where claims, answers and facts are kept.
type Config struct {
	// embedded (the default: a journal of this sidecar's own) or redis (shared by several sidecars).
	Kind string `koanf:"kind"`
	// The journal. With redis it is this sidecar's own record beside the shared one.
	Embedded EmbeddedConfig `koanf:"embedded"`
	// Seals the secrets of tools set through the api: at least 16 characters. Made beside the embedded store when
	// empty; required with redis.
	SealKey string `koanf:"seal_key"`
	// The shared store.
	Redis RedisConfig `koanf:"redis"`
}

// EmbeddedConfig is the section `store.embedded`.
type EmbeddedConfig struct {
	// Directory of the journal; made with mode 0700. One sidecar at a time.
	Dir string `koanf:"dir"`
	// What an acknowledged step survives: power (fdatasync, the default) or process (the kernel's cache).
	Durability string `koanf:"durability"`
	// How long the directory lives: volume (the default) or pod (an emptyDir). It changes only what `guarantee` says.
	Lifetime string `koanf:"lifetime"`
	// How long facts, the audit among them, are kept.
	Retention time.Duration `koanf:"retention"`
	// Largest journal on disk. Past it new claims get 503 and everything else goes on.
	MaxBytes tool.Size `koanf:"max_bytes"`
	// Most keys alive at once. Past it new claims get 503.
	MaxKeys int64 `koanf:"max_keys"`
	// Most unknown outcomes at once. Past it new claims get 503 until an operator resolves some.
	MaxUnknown int64 `koanf:"max_unknown"`
}

// RedisConfig is the section `store.redis`.
type RedisConfig struct {
	// standalone (the default), sentinel or cluster.
	Mode string `koanf:"mode"`
	// Addresses of the server, the sentinels or some nodes of the cluster.
	Addrs []string `koanf:"addrs"`
	// User of the ACL; empty: the default user.
	Username string `koanf:"username"`
	// Its password.
	Password string `koanf:"password"`
	// Number of the database; 0 with a cluster.
	DB int `koanf:"db"`
	// Name of the master that the sentinels watch.
	SentinelMaster string `koanf:"sentinel_master"`
	// Speak TLS.
	TLS bool `koanf:"tls"`
	// File of PEM root certificates for it; empty: the system's.
	TLSCA string `koanf:"tls_ca"`
	// What every key begins with.
	Prefix string `koanf:"prefix"`
	// WAIT for that many replicas before a claim counts.
	WaitReplicas int `koanf:"wait_replicas"`
	// How long bodies of answers are kept for replays.
	AnswerTTL time.Duration `koanf:"answer_ttl"`
	// What shares a hash slot: namespace (the default: all) or agent (each agent's calls, where no tool's dedup.scope is
	// wider; a Cluster's masters share the load then). The first sidecar of the prefix decides for all.
	Shard string `koanf:"shard"`
	// Refuse to start below the promise that the checks of the server would allow.
	Strict bool `koanf:"strict"`
	// After a failover new mutating calls wait this long while own unknown outcomes are asserted again.
	Hold time.Duration `koanf:"hold"`
	// How often policies, tools and the kill switch are read.
	Poll time.Duration `koanf:"poll"`
}

// apart says whether each agent's calls stand in a slot of their own.
func (c *RedisConfig) apart() bool { return c.Shard == "agent" }

// holds is how long new claims wait after a failover.
func (c *RedisConfig) holds() time.Duration {
	if c.Hold <= 0 {
		return 2 * time.Second
	}
	return c.Hold
}
