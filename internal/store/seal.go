package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// Seal keeps the secrets of tools that were set through the api: AES-256-GCM under a key that does not stand in the
// journal. Its methods may be called from any goroutine.
type Seal struct{ aead cipher.AEAD }

// ErrUnsealed says that a secret was sealed under another key, or for another tool, or is damaged.
var ErrUnsealed = errors.New("the secret cannot be unsealed with this key; set it again")

// NewSeal makes the seal of a configured key, store.seal_key; without one, that of the file seal.key in dir, which is
// made once with mode 0600.
func NewSeal(configured, dir string) (*Seal, error) {
	key := sha256.Sum256([]byte("oo-sidecar seal v1\x00" + configured))
	if configured == "" {
		var err error
		if key, err = sealFile(filepath.Join(dir, "seal.key")); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Seal{aead}, err
}

func sealFile(path string) (key [32]byte, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, _ = rand.Read(key[:])
		return key, whole.Replace(path, key[:])
	}
	if err == nil && len(data) != len(key) {
		err = fmt.Errorf("%s holds no key of %d bytes; restore it, or remove it and set the secrets of the tools again", path, len(key))
	}
	copy(key[:], data)
	return key, err
}

// Seal returns secret as text that only Open with the same entry can read: what is sealed for one tool is of no use in
// another's entry.
func (s *Seal) Seal(entry string, secret []byte) string {
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce)
	return base64.StdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, secret, []byte(entry)))
}

// Open is the secret, or ErrUnsealed.
func (s *Seal) Open(entry, sealed string) ([]byte, error) {
	data, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(data) < s.aead.NonceSize() {
		return nil, ErrUnsealed
	}
	nonce, text := data[:s.aead.NonceSize()], data[s.aead.NonceSize():]
	secret, err := s.aead.Open(nil, nonce, text, []byte(entry))
	if err != nil {
		return nil, ErrUnsealed
	}
	return secret, nil
}
