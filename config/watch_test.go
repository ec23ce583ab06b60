package config

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// watch tells of each change on a channel.
func watch(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	changes := make(chan struct{}, 100)
	if err := Watch(t.Context(), path, func() { changes <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	return changes
}

func expect(t *testing.T, changes <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(20 * time.Second):
		t.Fatal("not noticed:", what)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	path := write(t, "1")
	changes := watch(t, path)

	put(t, path, "2")
	expect(t, changes, "written in place")

	put(t, path+".new", "3")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, "renamed over")

	if err := os.Rename(path, path+"~"); err != nil {
		t.Fatal(err)
	}
	put(t, path, "4")
	expect(t, changes, "moved away and written anew")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put(t, path, "5")
	expect(t, changes, "removed and written anew")

	put(t, path, "5") // the same again is no change
	put(t, filepath.Join(filepath.Dir(path), "other"), "x")
	put(t, path, "6")
	expect(t, changes, "written after it was touched")
	if len(changes) > 0 {
		t.Error("more changes than there were")
	}
}

// TestWatchConfigMap swaps the symlink as the kubelet does.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	version := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, name, "config.yaml"), text)
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "1")
	path := filepath.Join(dir, "config.yaml")
	if err := os.Symlink("..data/config.yaml", path); err != nil {
		t.Fatal(err)
	}
	changes := watch(t, path)
	for _, v := range []string{"2", "3"} {
		version(".."+v, v)
		expect(t, changes, "version "+v)
	}
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	version("..4", "4")
	expect(t, changes, "version 4")
}

// TestWatchBehindALink: the file is edited where the link points.
func TestWatchBehindALink(t *testing.T) {
	target := write(t, "1")
	path := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	changes := watch(t, path)
	put(t, target, "2")
	expect(t, changes, "written behind the link")
}

func TestWatchNothing(t *testing.T) {
	if err := Watch(context.Background(), filepath.Join(t.TempDir(), "absent", "x.yaml"), func() {}); err == nil {
		t.Error("a directory that is not there is watched")
	}
}
