package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// Switch is the kill switch as it stands for one agent, or for all as "*".
type Switch struct {
	AgentID string
	Off     bool
	Reason  string
	Since   time.Time // of Off; zero when on
	Pending string    // what the change still waits for, in words; empty: nothing
}

// Switchboard is where the kill switch is kept. Its law: when Disable or Enable returns nil the change is durable,
// binds the next call here, and its audit record was written in the same step. Both are idempotent and know agents that
// were never seen.
type Switchboard interface {
	Switches() []Switch // one for each agent with a policy, a call or a switch
	Disable(ctx context.Context, agent, reason, who string) (Switch, error)
	Enable(ctx context.Context, agent, reason, who string) (Switch, error)
}

// Unknown is one call whose outcome nobody knows.
type Unknown struct {
	Key       dedup.Key // never shown
	Shown     string    // its HMAC, 64 hex digits
	Tenant    string
	Agent     string
	Tool      string
	Effect    string
	Claimed   time.Time // of the first attempt
	Ended     time.Time // zero while its holder is at it
	Fence     uint64
	Attempt   int
	Timeout   time.Duration // of the tool
	SpendUSD  string
	RequestID string
}

// Unknowns is where open calls are kept. Resolve is one durable step together with its audit record; it is decided by
// the fence that the operator saw and fails with dedup's ErrMoved, ErrNotUnknown, ErrStillRunning or ErrTooYoung.
type Unknowns interface {
	Unknowns() ([]Unknown, error) // oldest first; ErrStore where they cannot be read: none is not said then
	Resolve(ctx context.Context, r *dedup.Resolution) error
}

// Entry is a tool, a policy or a key as an operator sees it.
type Entry struct {
	Name   string          `json:"name"`
	Scope  string          `json:"scope,omitempty"` // of a tool
	Source string          `json:"source"`          // file | api
	Spec   json.RawMessage `json:"spec"`            // in the words of the configuration file, without secrets
}

// Registry is where tools, policies and operators' keys stand, those of the file and those of this API. A change is validated like the
// file, durable when it returns, and audited in the same step. What does not validate is an Invalid.
type Registry interface {
	Tools() []Entry
	Policies() []Entry
	Keys() []Entry // of operators, without the keys themselves
	Put(ctx context.Context, kind Kind, spec []byte, who string) (Entry, error)
	// PutTool registers a tool, or changes the fields of one that spec names. An empty secret is the present one. The
	// secret is kept sealed and never shown. A tool of the file keeps its target and its secrets: to change those is an Owned.
	PutTool(ctx context.Context, name, scope string, spec map[string]json.RawMessage, secret, who string) error
	Delete(ctx context.Context, kind Kind, name, scope, who string) error // a key is revoked, also one of a file
}

// Kind is what an entry is.
type Kind string

const (
	ToolEntry   Kind = "tool"
	PolicyEntry Kind = "policy"
	KeyEntry    Kind = "key" // of an operator
)

// Invalid says what is wrong with an entry and how to mend it.
type Invalid struct{ Message string }

func (e *Invalid) Error() string { return e.Message }

// Owned says what of a tool only the configuration file may change.
type Owned struct{ Message string }

func (e *Owned) Error() string { return e.Message }

var (
	// ErrStore is wrapped by errors of a store that takes no changes now.
	ErrStore = errors.New("store is unavailable")
	// ErrUncertain is wrapped beside ErrStore where some of a change stands, or may.
	ErrUncertain = errors.New("some of it may have changed")
	// ErrNotFound says that there is no such entry, or none that this API may change.
	ErrNotFound = errors.New("no such entry")
	// ErrConflict says that somebody else changed the entry since it was looked at.
	ErrConflict = errors.New("somebody else changed the entry meanwhile")
)

// Status is what the sidecar says of itself to an operator.
type Status struct {
	Version   string            `json:"version"`
	Config    string            `json:"config"`        // file; empty for the built-in configuration
	Digest    string            `json:"config_digest"` // equal for equal configurations
	Started   time.Time         `json:"started"`
	Process   int               `json:"process"` // its number, as it sees itself
	Agent     string            `json:"agent_id"`
	Proxy     string            `json:"proxy"` // addresses of the listeners
	API       string            `json:"api"`
	Health    string            `json:"health"`
	Journal   string            `json:"journal"` // directory
	Guarantee string            `json:"guarantee"`
	Unknown   int               `json:"unknown_outcomes"`
	Running   int64             `json:"running"`
	Runs      *int              `json:"runs,omitempty"`     // children of `run`; absent unless `run` started this sidecar
	Problems  map[string]string `json:"problems,omitempty"` // failed readiness checks
}
