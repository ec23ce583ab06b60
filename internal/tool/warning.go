package tool

import "time"

const (
	recommendedSecret     = 8  // characters of a onceonly secret
	recommendedWebhookKey = 24 // bytes of a standard-webhooks key
	shortWindow           = time.Minute
)

// Warnings are what New accepts and an operator should know: each names the tool, the field and the mend, and never
// holds a secret.
func (t *Tool) Warnings() []*FieldError {
	var list []*FieldError
	warn := func(field, problem string) {
		list = append(list, &FieldError{"tool " + t.Name, field, problem})
	}
	if t.Auth != nil && !t.SecretGone && hasShortSecret(t.Auth) {
		warn("auth.secrets", "a secret is short enough to be guessed; use 32 random characters")
	}
	if t.Effect == Idempotent && t.UpstreamKey == (UpstreamKey{}) {
		warn("upstream_key", "effect: idempotent promises that the tool honours a key, and none is sent; set upstream_key, or use effect: mutating")
	}
	if t.Effect == Mutating && t.Dedup.Mode == Off {
		warn("dedup.mode", "off: a call that is repeated by mistake runs again; use window, or effect: read if calls change nothing")
	}
	if t.Effect != Read && t.Dedup.Mode != Off && t.Dedup.TTL < shortWindow {
		warn("dedup.ttl", t.Dedup.TTL.String()+": a call that is repeated after that runs again, and clients that have given up repeat theirs within a minute; make it longer")
	}
	if t.Effect == Mutating && t.FailOpen {
		warn("on_store_error", "allow: while the store is away a call may run twice; use deny")
	}
	return list
}

func hasShortSecret(a *Auth) bool {
	for _, s := range a.Secrets {
		if a.Scheme == StandardWebhooks && len(webhookKey(s)) < recommendedWebhookKey || len(s) < recommendedSecret {
			return true
		}
	}
	return false
}
