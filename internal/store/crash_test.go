package store_test

import (
	"os"
	"path/filepath"
	"testing"
)

// copyOf is what another process would find if the one that has dir died now: what was acknowledged is in its files.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		p, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if os.IsNotExist(err) {
			continue // a spare segment that has just been taken
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, n.Name()), p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}
