// Package config is the configuration file: one struct tree with its documentation, strict loading, validation as a
// whole, and reload. The comments on the fields, here and in the packages that own a section, are the manual.
package config

import (
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/control"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// Config is the whole configuration of one sidecar, complete with defaults and validated. It is not changed once loaded.
type Config struct {
	// Version of the file's format: 1.
	Version int `koanf:"version"`
	// Who the calls are charged to.
	Agent AgentConfig `koanf:"agent"`
	// The listener that the agent reaches, and where calls may go.
	Proxy proxy.Config `koanf:"proxy"`
	// The listener of the OnceOnly-compatible API and the console.
	API api.Config `koanf:"api"`
	// The listener of probes and metrics.
	Health HealthConfig `koanf:"health"`
	// Where claims, answers and facts are kept.
	Store store.Config `koanf:"store"`
	// The registered endpoints.
	Tools []tool.Config `koanf:"tools"`
	// What each agent may do.
	Policies []policy.Config `koanf:"policies"`
	// A OnceOnly-compatible control plane.
	Control control.Config `koanf:"control"`
	// Bounds of this sidecar's memory.
	Limits govern.Limits `koanf:"limits"`
	// Diagnostics. The audit is not here: it is in the store.
	Log LogConfig `koanf:"log"`

	path   string  // the file it came from; "" for built-in
	origin *origin // where each value stands and what must not be shown
}

// AgentConfig is the section `agent`.
type AgentConfig struct {
	// Who this sidecar's calls are charged to, unless proxy_users says otherwise.
	ID string `koanf:"id"`
	// Tokens by agent id, 16 characters at least. When set, every request on the proxy listener needs one:
	// http://ID:TOKEN@127.0.0.1:4780; on /tools Proxy-Authorization, or Authorization: Basic with a configured ID.
	ProxyUsers map[string]string `koanf:"proxy_users"`
}

// HealthConfig is the section `health`.
type HealthConfig struct {
	// Address of the listener of /livez, /readyz and /metrics, host:port.
	Listen string `koanf:"listen"`
}

// LogConfig is the section `log`.
type LogConfig struct {
	// debug, info (the default), warn or error.
	Level string `koanf:"level"`
	// json (the default) or text.
	Format string `koanf:"format"`
}

// Path is the file the configuration came from; empty for the built-in one.
func (c *Config) Path() string { return c.path }

// String names the configuration and shows nothing of it: it holds secrets.
func (c *Config) String() string {
	if c.path == "" {
		return "built-in configuration"
	}
	return "configuration of " + c.path
}
