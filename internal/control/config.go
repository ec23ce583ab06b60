// Package control is the sidecar's side of a control plane: any OnceOnly-compatible API, the hosted service or another
// oo-sidecar. It follows what the control plane says of tools, policies and agents, asks it for leases, and tells it what
// was done.
package control

import "time"

// Config is the section `control` of the configuration file.
type Config struct {
	// Address of the control plane, such as https://control.internal:4781; empty: none. /v1 is added where it has no path.
	BaseURL string `koanf:"base_url"`
	// The key it knows this sidecar by; where it is an oo-sidecar, one of role sidecar.
	APIKey string `koanf:"api_key"`
	// How often policies, tools and the kill switch are asked for where the control plane does not push them.
	Poll time.Duration `koanf:"poll"`
	// Older than this, what it said last binds no more and calls with effects are refused.
	MaxStale time.Duration `koanf:"max_stale"`
	// Who grants leases: local (the default) or remote.
	Lease string `koanf:"lease"`
	// Keys of leases go out as HMAC under this secret, the same at all sidecars of a namespace, 16 characters at least;
	// empty: as SHA-256, which whoever lists the control plane's leases can compare with guessed calls.
	KeySecret string `koanf:"key_secret"`
	// How long a call waits for the control plane's answer to its lease.
	Timeout time.Duration `koanf:"timeout"`
	// Give it the answers of tools, for duplicates at other sidecars; otherwise it gets their hash and they get 410.
	Results bool `koanf:"results"`
	// Secrets of its tools. It never tells them; a tool that has one there and none here is not callable.
	Credentials []Credential `koanf:"credentials"`
}

// Credential is what this sidecar adds to the calls of one tool that the control plane registered.
type Credential struct {
	// The tool's name.
	Tool string `koanf:"tool"`
	// Host, or host:port, that they are for: if the control plane moves the tool elsewhere, it is not callable.
	Host string `koanf:"host"`
	// Signing secrets, as tools[].auth.secrets.
	Secrets []string `koanf:"secrets"`
	// Headers, as tools[].headers.
	Headers map[string]string `koanf:"headers"`
}
