package e2e

import "testing"

// kinds are the stores that a sidecar may stand on: each makes the section `store` of a configuration, but for its
// directory.
var kinds = map[string]func(t *testing.T) settings{
	"embedded": func(*testing.T) settings { return settings{"kind": "embedded"} },
	"redis": func(t *testing.T) settings {
		return settings{"kind": "redis", "seal_key": "oo_test_seal_key_1234", "redis": settings{"addrs": []string{keep(t).addr}}}
	},
}
