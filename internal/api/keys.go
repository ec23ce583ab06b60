package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Role is what a key may do.
type Role string

const (
	Agent    Role = "agent"    // its own calls only
	Operator Role = "operator" // policies, tools, switches, unknown outcomes, the audit
	Sidecar  Role = "sidecar"  // what a sidecar needs of its control plane: see sidecars
)

// Key is one bearer key, without the key itself.
type Key struct {
	Name      string
	Role      Role
	AgentID   string // whom an agent key speaks for
	Namespace string
	Plan      string

	preview string // what /v1/me shows of it
	digest  [sha256.Size]byte
	rate    *bucket // nil: no limit
}

// Keyring knows keys by their SHA-256 only. It is not changed once made.
type Keyring struct {
	keys    []Key
	limited func(*Key) // hears of requests above a rate; set by UseKeys
}

// usualPlan is the plan of a key that names none. What a sidecar does is counted at its agents' policies.
var usualPlan = map[Role]string{Agent: "agency", Operator: "agency", Sidecar: "unlimited"}

// NewKeyring makes a keyring of the configured keys.
func NewKeyring(configs []KeyConfig) (*Keyring, error) {
	ring := &Keyring{keys: make([]Key, 0, len(configs))}
	for _, c := range configs {
		if c.Key == "" {
			return nil, fmt.Errorf("api key %q is empty", c.Name)
		}
		role := Role(c.Role)
		if role != Agent && role != Operator && role != Sidecar {
			return nil, fmt.Errorf("api key %q: role %q is neither agent, operator nor sidecar", c.Name, c.Role)
		}
		rate, err := newBucket(c.Rate)
		if err != nil {
			return nil, fmt.Errorf("api key %q: %w", c.Name, err)
		}
		ring.keys = append(ring.keys, Key{Name: c.Name, Role: role, AgentID: c.AgentID, Namespace: or(c.Namespace, "default"),
			Plan: or(c.Plan, usualPlan[role]), preview: preview(c.Key), digest: sha256.Sum256([]byte(c.Key)), rate: rate})
	}
	return ring, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// find compares with every key, in a time that tells nothing about them.
func (ring *Keyring) find(presented string) *Key {
	digest := sha256.Sum256([]byte(presented))
	var found *Key
	for i := range ring.keys {
		if subtle.ConstantTimeCompare(ring.keys[i].digest[:], digest[:]) == 1 {
			found = &ring.keys[i]
		}
	}
	return found
}

// authenticate answers 401, 403 or 429 itself and then returns nil.
func (ring *Keyring) authenticate(w http.ResponseWriter, r *http.Request, now time.Time) *Key {
	presented, ok := bearer(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.Header().Set("Connection", "close") // nobody is kept a place for
		fail(w, http.StatusUnauthorized, "Missing Authorization Bearer token")
		return nil
	}
	key := ring.find(presented)
	if key == nil {
		w.Header().Set("Connection", "close")
		fail(w, http.StatusForbidden, "Invalid API key")
		return nil
	}
	if wait := key.rate.take(now); wait > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int64((wait+time.Second-1)/time.Second)))
		if ring.limited != nil {
			ring.limited(key)
		}
		fail(w, http.StatusTooManyRequests, problem{Error: "rate_limited", Message: "this key's rate is used up"})
		return nil
	}
	return key
}

func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}
