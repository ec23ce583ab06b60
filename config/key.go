package config

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// keyFile is the operator key that is made when the configuration has none.
const keyFile = "operator.key"

// OperatorKey is the key by which commands call the api listener: the first one with role operator in the
// configuration, else the one that serve made beside the store. where says in words which it is.
func OperatorKey(c *Config) (key, where string, err error) {
	for _, k := range c.API.Keys {
		if k.Role == "operator" {
			return k.Key, "api key " + k.Name, nil
		}
	}
	path := filepath.Join(c.Store.Embedded.Dir, keyFile)
	key, err = readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("there is no operator key yet: %s does not exist; start the sidecar once with: oo-sidecar serve", path)
	}
	return key, path, err
}

// EnsureOperatorKey makes the operator key beside the store in dir, readable to its owner only, unless it is there
// already. It returns the key and its path. Of several that do so at once one wins and all get its key.
func EnsureOperatorKey(dir string) (key, path string, err error) {
	path = filepath.Join(dir, keyFile)
	_ = os.Chmod(path, 0o600) // a volume with fsGroup comes back group-readable; where it fails, readKey judges
	key, err = readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, path, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", path, err
	}
	if err := whole.Create(path, []byte("oo_operator_"+rand.Text()+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", path, fmt.Errorf("the operator key cannot be written: %w", err)
	}
	key, err = readKey(path)
	return key, path, err
}

// readKey reads a key file that not everybody can read.
func readKey(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("%s can be read by everybody (mode %#o); run chmod 600 on it, or remove it to have a new one made", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if len(key) < minSecret {
		return "", fmt.Errorf("%s holds no key; remove it to have a new one made", path)
	}
	return key, nil
}
