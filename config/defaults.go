package config

import (
	"os"
	"path/filepath"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/control"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	day = 24 * time.Hour
)

// defaults is what a file need not say. Defaults of a tool's and a policy's own fields are with tool.New and policy.New.
func defaults() *Config {
	return &Config{
		Version: 1,
		Agent:   AgentConfig{ID: "default"},
		Proxy: proxy.Config{
			Listen:          "127.0.0.1:4780",
			Unregistered:    "deny",
			Passthrough:     []string{"model-apis"},
			MaxRequestBytes: 8 * mib,
			Drain:           20 * time.Second,
			TunnelIdle:      5 * time.Minute,
			Intercept:       proxy.InterceptConfig{Hosts: proxy.HostList{"registered"}, CAKey: "disk"},
		},
		API:    api.Config{Listen: "127.0.0.1:4781"},
		Health: HealthConfig{Listen: "127.0.0.1:4782"},
		Store: store.Config{
			Kind: "embedded",
			Embedded: store.EmbeddedConfig{
				Dir:        "/var/lib/oo-sidecar",
				Durability: "power",
				Lifetime:   "volume",
				Retention:  30 * day,
				MaxBytes:   4 * gib,
				MaxKeys:    5_000_000,
				MaxUnknown: 10_000,
			},
			Redis: store.RedisConfig{
				Mode:      "standalone",
				Addrs:     []string{"127.0.0.1:6379"},
				Prefix:    "oo:",
				AnswerTTL: time.Hour,
				Shard:     "namespace",
				Hold:      2 * time.Second,
				Poll:      time.Second,
			},
		},
		Control: control.Config{Poll: 5 * time.Second, MaxStale: 5 * time.Minute, Lease: "local", Timeout: 2 * time.Second},
		Limits:  govern.Limits{AnswerBytes: mib, Waiters: 1024, HeaderBytes: 32 * kib},
		Log:     LogConfig{Level: "info", Format: "json"},
	}
}

// builtin suits a laptop, where no file says anything: state under the user's own directory, every call governed, and
// private and loopback addresses allowed, since nothing is enforced there anyway.
func builtin(environ []string) (*Config, error) {
	dir, err := stateDir(environ)
	if err != nil {
		return nil, err
	}
	c := defaults()
	c.Store.Embedded.Dir = dir
	c.Proxy.Unregistered = "govern"
	c.Proxy.AllowPrivate = []string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}
	return c, nil
}

// stateDir is the user's state directory by the XDG base directory rules.
func stateDir(environ []string) (string, error) {
	if d := lookup(environ, "XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "oo-sidecar"), nil
	}
	home := lookup(environ, "HOME")
	if home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "", Problem{Key: "store.embedded.dir", Message: "neither XDG_STATE_HOME nor HOME is set",
				Mend: "set one, or name a directory in a configuration file"}
		}
	}
	return filepath.Join(home, ".local", "state", "oo-sidecar"), nil
}
