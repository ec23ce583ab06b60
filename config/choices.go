package config

import "strings"

// choices are the words that a key may have, where they are few. Keys as in the schema, lists with [].
var choices = map[string][]string{
	"proxy.unregistered":        {"deny", "pass", "govern"},
	"proxy.intercept.ca_key":    {"disk", "memory"},
	"api.keys[].role":           {"agent", "operator", "sidecar"},
	"api.keys[].plan":           {"free", "starter", "pro", "agency", "unlimited"},
	"store.kind":                {"embedded", "redis"},
	"store.embedded.durability": {"power", "process"},
	"store.embedded.lifetime":   {"volume", "pod"},
	"store.redis.mode":          {"standalone", "sentinel", "cluster"},
	"store.redis.shard":         {"namespace", "agent"},
	"tools[].effect":            {"read", "idempotent", "mutating"},
	"tools[].body":              {"as_is", "envelope"},
	"tools[].auth.type":         {"hmac_sha256"},
	"tools[].auth.scheme":       {"onceonly", "standard-webhooks"},
	"tools[].on_store_error":    {"deny", "allow"},
	"tools[].dedup.mode":        {"window", "explicit", "required", "off"},
	"tools[].dedup.scope":       {"agent", "run", "global"},
	"tools[].dedup.client_key":  {"guards", "splits"},
	"policies[].template":       {"strict", "moderate", "permissive", "read_only", "support_bot"},
	"policies[].mode":           {"enforce", "shadow"},
	"policies[].anomaly":        {"observe", "disable"},
	"control.lease":             {"local", "remote"},
	"log.level":                 {"debug", "info", "warn", "error"},
	"log.format":                {"json", "text"},
}

// secrets are the keys whose values are never shown; {} stands for any name.
var secrets = map[string]bool{
	"agent.proxy_users{}":             true,
	"api.keys[].key":                  true,
	"store.seal_key":                  true,
	"store.redis.password":            true,
	"tools[].auth.secrets[]":          true,
	"tools[].headers{}":               true,
	"control.api_key":                 true,
	"control.key_secret":              true,
	"control.credentials[].secrets[]": true,
	"control.credentials[].headers{}": true,
}

// credentialWords tell headers that carry a credential from those that merely configure (Stripe-Version).
var credentialWords = []string{"auth", "cookie", "key", "token", "secret", "password", "credential", "signature"}

// isCredential says whether a header's name speaks of a credential.
func isCredential(header string) bool {
	header = strings.ToLower(header)
	for _, w := range credentialWords {
		if strings.Contains(header, w) {
			return true
		}
	}
	return false
}
