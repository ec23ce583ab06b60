package govern

import (
	"fmt"
	"time"

	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// Unregistered says what happens to a call that matches no tool.
type Unregistered uint8

const (
	Deny    Unregistered = iota // 403 tool_not_registered
	Pass                        // kill switch, destination rules and audit only
	Lightly                     // `govern`: writes are deduplicated against running and undelivered calls
)

// Snapshot is the immutable policy and registry that one request sees.
type Snapshot struct {
	Registry     *tool.Registry
	Policies     *policy.Set
	Unregistered Unregistered
	Passthrough  func(host string) bool // hosts that are no tools; host without port
	At           time.Time

	signers map[*tool.Tool]*hmac.Keys
}

// NewSnapshot makes the snapshot in which these tools and policies hold. Its errors name the tool.
func NewSnapshot(s Snapshot) (*Snapshot, error) {
	s.signers = map[*tool.Tool]*hmac.Keys{}
	for _, t := range s.Registry.Tools() {
		if t.Auth == nil || t.SecretGone {
			continue
		}
		keys, err := hmac.NewKeys(t.Auth.Scheme, t.Auth.Secrets)
		if err != nil {
			return nil, fmt.Errorf("tool %s: auth.secrets: %w", t.Name, err)
		}
		s.signers[t] = keys
	}
	return &s, nil
}
