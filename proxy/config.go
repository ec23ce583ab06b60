package proxy

import (
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Config is the section `proxy` of the configuration file: the listener that the agent reaches, and where calls may go.
type Config struct {
	// Address of the proxy listener, host:port. The agent uses it as HTTP_PROXY and calls /tools/{name} on it.
	Listen string `koanf:"listen"`
	// What happens to a call that matches no tool: deny refuses it (the default with a file); pass lets it through under
	// the kill switch, the destination rules and the audit; govern also deduplicates writes lightly and counts them
	// towards the hour (the default without a file).
	Unregistered string `koanf:"unregistered"`
	// Hosts that are no tools: kill switch and audit only, streamed, never kept. model-apis stands for the well-known
	// language-model APIs. A tool that matches wins.
	Passthrough []string `koanf:"passthrough"`
	// Largest request body of a governed call. A larger one is 413 and nothing is sent.
	MaxRequestBytes tool.Size `koanf:"max_request_bytes"`
	// Addresses for host names, asked before DNS: for tests and split horizons.
	Resolve map[string]string `koanf:"resolve"`
	// Address ranges (CIDR) that calls may reach although private or loopback. Cloud metadata addresses never are.
	AllowPrivate []string `koanf:"allow_private"`
	// File of further PEM root certificates for TLS to tools.
	UpstreamCA string `koanf:"upstream_ca"`
	// Corporate proxy that connections to tools go through, as a URL.
	Via string `koanf:"via"`
	// Further host names by which requests may address the proxy listener itself.
	Hosts []string `koanf:"hosts"`
	// How long running calls may finish after SIGTERM.
	Drain time.Duration `koanf:"drain"`
	// An opaque tunnel without a byte for this long is closed.
	TunnelIdle time.Duration `koanf:"tunnel_idle"`
	// TLS interception: govern the requests inside CONNECT tunnels.
	Intercept InterceptConfig `koanf:"intercept"`
}

// InterceptConfig is the section `proxy.intercept`: the local CA and whose tunnels are opened with it.
type InterceptConfig struct {
	// Off by default.
	Enabled bool `koanf:"enabled"`
	// Directory of the local CA; empty: beside the embedded store.
	CADir string `koanf:"ca_dir"`
	// Whose tunnels are opened: registered (the default, hosts of tools), all (but passthrough), or a list of hosts.
	Hosts HostList `koanf:"hosts"`
	// Where the CA's key lives: disk (the default) or memory (a new CA at each start).
	CAKey string `koanf:"ca_key"`
	// Directory where the CA's certificate and the merged bundle are written for clients; empty: the CA's directory.
	CAOut string `koanf:"ca_out"`
}

// HostList is a list of hosts, written as a list or as one word that stands for several.
type HostList []string
