package api

// Config is the section `api` of the configuration file: the listener of the OnceOnly-compatible API and the console.
type Config struct {
	// Address of the api listener, host:port.
	Listen string `koanf:"listen"`
	// Who may call it. Without an operator key here, one is generated once beside the store.
	Keys []KeyConfig `koanf:"keys"`
	// Refuse policies over /v1 that name tools which are not registered.
	StrictPolicyTools bool `koanf:"strict_policy_tools"`
}

// KeyConfig is one bearer key of the api listener.
type KeyConfig struct {
	// Its name, as audit records show it.
	Name string `koanf:"name"`
	// agent, operator or sidecar. An agent key can never change policies, tools, keys or the kill switch. A sidecar key is
	// that of a sidecar whose control plane this one is: it reads the snapshot, holds leases and tells what was done.
	Role string `koanf:"role"`
	// Whom an agent key speaks for; empty with an operator key.
	AgentID string `koanf:"agent_id"`
	// The key itself, at least 16 characters.
	Key string `koanf:"key"`
	// Tenant of its calls; default "default".
	Namespace string `koanf:"namespace"`
	// Plan that /v1/me and the limits of leases speak of: free, starter, pro, agency (the default) or unlimited.
	Plan string `koanf:"plan"`
	// Most requests, as 100/s, 600/m or 5000/h; empty: no limit.
	Rate string `koanf:"rate"`
}
