package config

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestOperatorKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	c := load(t, head+"store: {embedded: {dir: "+dir+"}}\n")
	if _, _, err := OperatorKey(c); err == nil || !strings.Contains(err.Error(), "oo-sidecar serve") {
		t.Error(err)
	}
	key, path, err := EnsureOperatorKey(dir)
	if err != nil || len(key) < 32 {
		t.Fatal(len(key), err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if again, _, err := EnsureOperatorKey(dir); again != key || err != nil {
		t.Error("the key is made once", err)
	}
	if found, where, err := OperatorKey(c); found != key || where != path || err != nil {
		t.Error(where, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Error("left behind:", left)
	}

	c = load(t, head+"store: {embedded: {dir: "+dir+"}}\napi: {keys: [{name: a, role: agent, key: 0123456789abcdef}, {name: b, role: operator, key: 0123456789abcdeg}]}\n")
	if found, where, err := OperatorKey(c); found != "0123456789abcdeg" || where != "api key b" || err != nil {
		t.Error(where, err)
	}
}

func TestOperatorKeyIsOwnersOnly(t *testing.T) {
	dir := t.TempDir()
	key, path, err := EnsureOperatorKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := load(t, head+"store: {embedded: {dir: "+dir+"}}\n")
	os.Chmod(path, 0o604)
	if _, _, err := OperatorKey(c); err == nil || !strings.Contains(err.Error(), "chmod 600") || strings.Contains(err.Error(), key) {
		t.Error(err)
	}
	os.Chmod(path, 0o660) // what fsGroup makes of it
	if found, _, err := OperatorKey(c); found != key || err != nil {
		t.Error(err)
	}
	if found, _, err := EnsureOperatorKey(dir); found != key || err != nil {
		t.Error(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Error("not narrowed again:", info.Mode())
	}
	put(t, path, "short")
	if _, _, err := EnsureOperatorKey(dir); err == nil || !strings.Contains(err.Error(), "holds no key") || strings.Contains(err.Error(), "short") {
		t.Error(err)
	}
}

// TestOperatorKeyOnce: of several sidecars that start at once all have the same key.
func TestOperatorKeyOnce(t *testing.T) {
	dir := t.TempDir()
	keys := make([]string, 32)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], _, err = EnsureOperatorKey(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, k := range keys {
		if k == "" || k != keys[0] {
			t.Fatal("several keys were made")
		}
	}
}
