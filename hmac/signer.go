// Package hmac signs calls and verifies them: pure functions of key, message and time. Two schemes are spoken:
// OnceOnly's, whose plain signature covers the body and whose V2 covers all that matters of a call, and that of
// standard-webhooks. It also masks keys before they are shown.
package hmac

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"slices"
	"sync"
)

// Signer computes HMAC-SHA256 under one key, for any number of goroutines. It keeps keyed states in a pool, since
// keying one costs more than a short message.
type Signer struct{ pool sync.Pool }

// state is one keyed hash with the room that its input and output need to stay off the heap.
type state struct {
	hash hash.Hash
	buf  []byte
	sum  [sha256.Size]byte
}

// NewSigner makes a signer for a copy of key.
func NewSigner(key []byte) *Signer {
	key = slices.Clone(key)
	return &Signer{pool: sync.Pool{New: func() any { return &state{hash: hmac.New(sha256.New, key)} }}}
}

// Sum is the HMAC-SHA256 of msg. It does not allocate.
func (s *Signer) Sum(msg []byte) [sha256.Size]byte {
	st := s.get()
	st.hash.Write(msg)
	return s.put(st)
}

func (s *Signer) get() *state {
	st := s.pool.Get().(*state)
	st.hash.Reset()
	st.buf = st.buf[:0]
	return st
}

// put is the sum of what was written; the state is the pool's again.
func (s *Signer) put(st *state) [sha256.Size]byte {
	st.hash.Sum(st.sum[:0])
	sum := st.sum
	s.pool.Put(st)
	return sum
}

// Sum is the HMAC-SHA256 of msg under key, for single use; a Signer is cheaper for more.
func Sum(key, msg []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, key)
	h.Write(msg)
	return [sha256.Size]byte(h.Sum(nil))
}

// equal compares in constant time.
func equal(a, b []byte) bool { return hmac.Equal(a, b) }

// Mask turns keys and hashes of arguments into what may be shown: a bare hash of a small argument is guessed in minutes.
type Mask struct{ signer *Signer }

// NewMask makes the mask of a store's random secret.
func NewMask(secret []byte) *Mask { return &Mask{NewSigner(secret)} }

// Shown is the key as it is shown: 64 hex digits.
func (m *Mask) Shown(key [32]byte) string { return m.hex(key, 32) }

// Short is the beginning of Shown, for headers: 16 hex digits.
func (m *Mask) Short(key [32]byte) string { return m.hex(key, 8) }

func (m *Mask) hex(key [32]byte, n int) string {
	st := m.signer.get()
	st.buf = append(st.buf, key[:]...)
	st.hash.Write(st.buf)
	sum := m.signer.put(st)
	return hex.EncodeToString(sum[:n])
}
