package dedup

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Derived says under which keys a call is known.
type Derived struct {
	// Applies is false for a call that is not deduplicated: mode off; explicit without a client key; GET and HEAD of a
	// tool that does not opt in. Identities and Guards are then empty.
	Applies bool
	// Arguments is the hash of the canonical arguments, shown as args_hash only in the form of its HMAC.
	Arguments Key
	// Identities are the keys for Claim.Keys; the first is the one that is shown. A key may stand there twice with two
	// fingerprints, when the tool's definition changed and the client's key is the identity: the first is the one to keep.
	Identities []Identity
	// Guards are for Claim.Guards: the plain keys of a Force-New.
	Guards []Key
}

// ErrKeyRequired says that the tool takes only calls with an Idempotency-Key and this one has none.
var ErrKeyRequired = errors.New("this tool takes only calls with an Idempotency-Key; send one, and the same one again when you repeat the call")

// Derive says under which keys a call is known. testdata/README.md describes the keys, testdata/keys.json has vectors.
//
// Its errors are *ArgumentsError, also for a call that is not deduplicated, and ErrKeyRequired.
func Derive(c *tool.Call) (Derived, error) {
	w := writers.Get().(*writer)
	defer w.release()
	args, err := w.arguments(c, c.Tool.Dedup.Ignore)
	if err != nil {
		return Derived{}, err
	}
	d := Derived{Arguments: args}
	if d.Applies, err = applies(c); !d.Applies {
		return d, err
	}
	w.headers(c)
	defs, err := w.definitions(c, args)
	if err != nil {
		return Derived{}, err
	}
	d.Identities = make([]Identity, 0, 4)
	for i := range defs {
		d.Identities = w.identify(d.Identities, c, &defs[i], c.ForceNew)
	}
	if c.ForceNew != "" {
		d.Guards = w.guards(c, defs)
	}
	return d, nil
}

// applies says whether the call is deduplicated at all.
func applies(c *tool.Call) (bool, error) {
	rule := &c.Tool.Dedup
	switch {
	case rule.Mode == tool.Off:
		return false, nil
	case (c.Method == "GET" || c.Method == "HEAD") && !rule.DedupReads:
		return false, nil
	case rule.Mode == tool.Required && c.ClientKey == "":
		return false, ErrKeyRequired
	}
	return rule.Mode != tool.Explicit || c.ClientKey != "", nil
}

// definition is what of a tool's definition, as it is or once was, enters the keys of one call.
type definition struct {
	authority, path string
	scope           string // agent | run | global
	scopeID         string
	args            Key
}

// definitions are the tool's own and the earlier ones whose keys are still alive. Derive knows no clock: whoever builds
// the tool drops the others.
func (w *writer) definitions(c *tool.Call, args Key) ([]definition, error) {
	t := c.Tool
	now := definition{authority: c.Target.Authority, path: c.Target.Path, args: args}
	now.scope, now.scopeID = sharers(c, t.Dedup.Scope)
	defs := append(w.defs[:0], now)
	for i := range t.Previous {
		p := &t.Previous[i]
		was := now
		if p.Authority != "" && c.Target.Authority == t.Target.Authority {
			was.authority = p.Authority
		}
		if p.Path != "" && c.Target.Path == t.Target.Path {
			was.path = p.Path
		}
		if p.Scope != "" {
			was.scope, was.scopeID = sharers(c, p.Scope)
		}
		if !slices.Equal(p.Ignore, t.Dedup.Ignore) {
			var err error
			if was.args, err = w.arguments(c, p.Ignore); err != nil {
				return nil, err
			}
		}
		defs = append(defs, was)
	}
	w.defs = defs
	return defs, nil
}

// sharers says who shares the call's answer. A run that nobody named is its agent's.
func sharers(c *tool.Call, scope string) (kind, id string) {
	switch {
	case scope == "global":
		return "global", ""
	case scope == "run" && c.RunID != "":
		return "run", c.RunID
	}
	return "agent", c.Agent
}

// identify appends the keys of the call under one definition.
//
// Where the client's key is the identity, an earlier definition in the same scope has the same key with another
// fingerprint.
func (w *writer) identify(ids []Identity, c *tool.Call, d *definition, label string) []Identity {
	derived := w.derived(c, d, label)
	switch c.Tool.Dedup.Mode {
	case tool.Explicit, tool.Required:
		return appendNew(ids, Identity{w.client(c, d, label), derived})
	}
	ids = appendNew(ids, Identity{derived, derived})
	if c.ClientKey == "" || c.Tool.Dedup.Splits {
		return ids
	}
	client := w.client(c, d, label)
	if slices.ContainsFunc(ids, func(id Identity) bool { return id.Key == client }) {
		return ids // the derived key of the earlier definition leads to the same call
	}
	return append(ids, Identity{client, derived})
}

func appendNew(ids []Identity, id Identity) []Identity {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// guards are the keys of the same call without its label. A window call's client key is not among them: it may belong
// to a call with other arguments.
func (w *writer) guards(c *tool.Call, defs []definition) (keys []Key) {
	for i := range defs {
		var k Key
		switch c.Tool.Dedup.Mode {
		case tool.Explicit, tool.Required:
			k = w.client(c, &defs[i], "")
		default:
			k = w.derived(c, &defs[i], "")
		}
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// UpstreamKey is the idempotency key that the tool is given for one run of a call: `oo_` and 64 hexadecimal digits.
// It stays the same for every re-send of the run.
func UpstreamKey(k Key, generation uint64) string {
	var list [4 + len(kindUpstream) + 4 + len(k) + 4 + 8]byte
	w := writer{buf: list[:0]}
	w.string(kindUpstream)
	w.bytes(k[:])
	var g [8]byte
	binary.BigEndian.PutUint64(g[:], generation)
	w.bytes(g[:])
	sum := w.sum(0)
	var text [3 + 2*len(sum)]byte
	copy(text[:], "oo_")
	hex.Encode(text[3:], sum[:])
	return string(text[:])
}
