package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// KeyFile is the name of the file beside the journal that holds the key by which heads are signed.
const KeyFile = "audit.key"

const keyPrefix = "oo-audit-key:v1:"

// Key signs heads.
type Key struct{ private ed25519.PrivateKey }

// Public is the half that proves a head; it may be shown.
func (k *Key) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Sign makes a head of a journal's state.
func (k *Key) Sign(journal string, seq uint64, chain [32]byte) *Head {
	h := &Head{Journal: journal, Seq: seq, Chain: chain}
	copy(h.Signature[:], ed25519.Sign(k.private, []byte(h.claim())))
	return h
}

// Check says whether the head was signed with this key.
func (k *Key) Check(h *Head) error {
	if !ed25519.Verify(k.Public(), []byte(h.claim()), h.Signature[:]) {
		return ErrHeadForeign
	}
	return nil
}

// LoadKey reads the key beside the journal in dir. Its absence is an error that wraps fs.ErrNotExist.
func LoadKey(dir string) (*Key, error) {
	path := filepath.Join(dir, KeyFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(data), "\n"), keyPrefix)
	seed, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is no audit key; put the one back under which heads were printed, or remove it and the next start makes another", path)
	}
	return &Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// MakeKey loads the key beside the journal in dir, or makes it, once, with mode 0600.
func MakeKey(dir string) (*Key, error) {
	k, err := LoadKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // does not fail
	text := keyPrefix + base64.StdEncoding.EncodeToString(seed) + "\n"
	if err := whole.Create(filepath.Join(dir, KeyFile), []byte(text)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return LoadKey(dir) // that of another process, if it was faster
}
