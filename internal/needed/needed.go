// Package needed finds what tests stand on outside the repository. What is missing skips the test, and fails it where
// CI=true: a test that nobody runs is none.
package needed

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Program is the path of a program; `make tools` installs those that the tests use.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name+" is not installed; make tools installs it")
	}
	return path
}

// Corpus is the path of a file or folder of other projects' test data: below $OO_CORPORA, or in shared/corpora beside
// the repository.
func Corpus(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("OO_CORPORA")
	if dir == "" {
		dir = filepath.Join(root(t), "..", "shared", "corpora")
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		Missing(t, "the test data "+name+" is missing; set OO_CORPORA to the folder of the corpora")
	}
	return path
}

// root is the folder of the module that the test is of.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
}

// Missing says why a test cannot run.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip("SKIPPED: " + why)
}
