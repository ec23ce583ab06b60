package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
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

// SharedKey is an operator's key as a store keeps it for every sidecar of a namespace: without the key itself.
type SharedKey struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	Plan      string `json:"plan,omitempty"`
	Rate      string `json:"rate,omitempty"`
	Preview   string `json:"preview,omitempty"`
	Digest    string `json:"digest,omitempty"` // SHA-256 of the key, 64 hex digits
	Revoked   bool   `json:"revoked,omitempty"`
}

// Shared is the operator's key c as a store keeps it.
func Shared(c KeyConfig) SharedKey {
	digest := sha256.Sum256([]byte(c.Key))
	return SharedKey{Name: c.Name, Namespace: c.Namespace, Plan: c.Plan, Rate: c.Rate, Preview: preview(c.Key), Digest: hex.EncodeToString(digest[:])}
}

// key is the bearer key; false when it is revoked, or damaged: then it lets nobody in.
func (k *SharedKey) key() (Key, bool) {
	p, err := hex.DecodeString(k.Digest)
	rate, bad := newBucket(k.Rate)
	if k.Revoked || err != nil || bad != nil || len(p) != sha256.Size {
		return Key{}, false
	}
	return Key{Name: k.Name, Role: Operator, Namespace: or(k.Namespace, "default"), Plan: or(k.Plan, usualPlan[Operator]), preview: k.Preview, digest: [sha256.Size]byte(p), rate: rate}, true
}

// NewKeyring makes a keyring of the configured keys and the shared ones. An operator's key of the configuration holds
// only while none of its name is shared, revoked ones included.
func NewKeyring(configs []KeyConfig, shared ...SharedKey) (*Keyring, error) {
	ring := &Keyring{keys: make([]Key, 0, len(configs)+len(shared))}
	overruled := map[string]bool{}
	for i := range shared {
		overruled[shared[i].Name] = true
		if k, good := shared[i].key(); good {
			ring.keys = append(ring.keys, k)
		}
	}
	for _, c := range configs {
		if c.Key == "" {
			return nil, fmt.Errorf("api key %q is empty", c.Name)
		}
		if c.Role == string(Operator) && overruled[c.Name] {
			continue
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

// goOn has the keys that stand in was with the same rate go on with what is left of it: else whoever may share a key, or have
// the configuration read again, could begin every rate anew. Call it before ring is used.
func (ring *Keyring) goOn(was *Keyring) {
	for i := range ring.keys {
		k := &ring.keys[i]
		for j := range was.keys {
			if old := &was.keys[j]; k.digest == old.digest && k.Name == old.Name && k.rate.same(old.rate) {
				k.rate = old.rate
			}
		}
	}
}

// Operators is how many operators' keys there are.
func (ring *Keyring) Operators() (n int) {
	for i := range ring.keys {
		if ring.keys[i].Role == Operator {
			n++
		}
	}
	return n
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
