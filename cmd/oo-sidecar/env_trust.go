package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/intercept"
	"github.com/oo-sidecar/oo-sidecar/internal/pod"
)

// findTrust finds the files by which clients of a sidecar with this configuration trust its CA, made when they are not
// there. What the environment named so far is not lost: where the sidecar's bundle lacks it, a bundle of this
// environment's own is written beside it. elsewhere says that the files are for another machine: only named.
func findTrust(cfg *config.Config, had func(string) (string, bool), elsewhere bool) (trust, error) {
	o := caOptions(cfg)
	dir := filepath.Dir(o.BundlePath())
	if elsewhere {
		return trust{Bundle: o.BundlePath(), Extra: o.CertificatePath(), Store: filepath.Join(dir, trustStoreFile)}, nil
	}
	if !o.Published() {
		if o.Memory {
			return trust{}, fmt.Errorf("%s is not there; with ca_key: memory a running sidecar writes it, so start serve first", o.CertificatePath())
		}
		if _, err := intercept.Open(o); err != nil {
			return trust{}, err
		}
	}
	bundle, err := merged(o.BundlePath(), "bundle", pod.CANames, had)
	if err != nil {
		return trust{}, err
	}
	extra, err := merged(o.CertificatePath(), "extra", []string{"NODE_EXTRA_CA_CERTS"}, had)
	if err != nil {
		return trust{}, err
	}
	store, err := trustStore(bundle)
	return trust{Bundle: bundle, Extra: extra, Store: store}, err
}

// merged is the file at path, or one beside it with all its certificates and those that the variables name. Its name
// follows from its contents: programs that were given it keep it, and the same environment gives the same file.
func merged(path, kind string, names []string, had func(string) (string, bool)) (string, error) {
	base, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	pool := certificates{seen: map[[sha256.Size]byte]bool{}}
	pool.add(base)
	pool.out.Reset()
	for _, name := range names {
		file, _ := had(name)
		if file == "" || file == path {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		pool.add(data)
	}
	if pool.out.Len() == 0 {
		return path, nil
	}
	data := append(bytes.Clone(base), pool.out.Bytes()...)
	return named(filepath.Dir(path), kind, ".pem", data)
}

// certificates collects each certificate once.
type certificates struct {
	seen map[[sha256.Size]byte]bool
	out  bytes.Buffer
	raw  [][]byte
}

func (c *certificates) add(data []byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		digest := sha256.Sum256(block.Bytes)
		if block.Type != "CERTIFICATE" || c.seen[digest] {
			continue
		}
		c.seen[digest] = true
		c.raw = append(c.raw, block.Bytes)
		_ = pem.Encode(&c.out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})
	}
}

// named writes data as a file whose name follows from it, in dir or, where that cannot be written, in the user's cache.
func named(dir, kind, suffix string, data []byte) (string, error) {
	digest := sha256.Sum256(data)
	name := kind + "-" + hex.EncodeToString(digest[:6]) + suffix
	path, err := place(dir, name, data)
	if err == nil {
		return path, nil
	}
	cache, other := os.UserCacheDir()
	if other != nil {
		return "", err
	}
	cache = filepath.Join(cache, "oo-sidecar")
	if other := os.MkdirAll(cache, 0o700); other != nil {
		return "", err
	}
	return place(cache, name, data)
}

// place puts a file where nobody sees half of it.
func place(dir, name string, data []byte) (string, error) {
	path := filepath.Join(dir, name)
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, data) {
		return path, nil
	}
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}
