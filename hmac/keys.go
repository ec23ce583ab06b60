package hmac

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Schemes of signatures, in the words of the configuration.
const (
	OnceOnly         = "onceonly"
	StandardWebhooks = "standard-webhooks"
)

// Keys are the active secrets of one tool. The first signs; where a scheme can carry several signatures, all do, so
// that a secret is rotated without a moment at which the tool knows none.
type Keys struct {
	scheme string
	keys   []key
}

type key struct {
	signer *Signer
	kid    string
}

// Call is what of a call is signed, as it is sent.
type Call struct {
	Method    string
	Authority string // the value of Host
	Path      string // escaped path and query, as in the request line
	Body      []byte
	Key       string // the value of the idempotency header; "" when none is sent
	Fence     uint64
	Tool      string
	Agent     string
	ID        string // names the message to standard-webhooks; the same for every attempt of one run
}

// Field is a header field.
type Field struct{ Name, Value string }

// ErrUnsignable means that a value of the call cannot be signed unmistakably: it holds a control character, or an ID a dot.
var ErrUnsignable = errors.New("a value of the call cannot be signed")

// NewKeys reads the active secrets of a scheme: any text for onceonly, whsec_ and base64 for standard-webhooks. Errors
// tell a secret's place, never the secret.
func NewKeys(scheme string, secrets []string) (*Keys, error) {
	if scheme != OnceOnly && scheme != StandardWebhooks {
		return nil, fmt.Errorf("signature scheme %q is not known; use %s or %s", scheme, OnceOnly, StandardWebhooks)
	}
	if len(secrets) == 0 {
		return nil, errors.New("there is no secret to sign with")
	}
	k := &Keys{scheme: scheme}
	for i, secret := range secrets {
		raw, err := decodeSecret(scheme, secret)
		if err != nil {
			return nil, fmt.Errorf("secret %d %w", i+1, err)
		}
		signer := NewSigner(raw)
		id := signer.Sum([]byte("kid"))
		k.keys = append(k.keys, key{signer, hex.EncodeToString(id[:4])})
	}
	return k, nil
}

func decodeSecret(scheme, secret string) ([]byte, error) {
	if secret == "" {
		return nil, errors.New("is empty")
	}
	if scheme == OnceOnly {
		return []byte(secret), nil
	}
	text, ok := strings.CutPrefix(secret, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) == 0 {
		return nil, errors.New("is not whsec_ followed by base64")
	}
	return raw, nil
}

// Scheme is the word of the scheme.
func (k *Keys) Scheme() string { return k.scheme }

// Sign is the headers that prove who calls, at now: for onceonly the plain signature with its algorithm and timestamp,
// and V2; for standard-webhooks its three. Who calls, with which fence and attempt, is for the caller to add.
func (k *Keys) Sign(c *Call, now time.Time) ([]Field, error) {
	if k.scheme == StandardWebhooks {
		return k.signWebhook(c, now.Unix())
	}
	return k.signOnceOnly(c, now.Unix())
}

func hasControl(values ...string) bool {
	for _, s := range values {
		for i := range len(s) {
			if s[i] < ' ' || s[i] == 0x7f {
				return true
			}
		}
	}
	return false
}
