package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must have been left alone before it is read: editors and kubelets change it in steps.
const settle = 100 * time.Millisecond

// Watch calls changed, from one goroutine, after the content of the file at path has changed, until ctx ends. It watches
// directories, so it survives what replaces the file: editors that rename, and the swapped symlinks of a ConfigMap. Call
// it before the first Load, and no change is missed. Files that ${file:…} names are not watched.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("%s is not watched for changes: %w", path, err)
	}
	f := &watched{path: path, w: w}
	if err := f.follow(); err != nil {
		w.Close()
		return fmt.Errorf("%s is not watched for changes: %w", path, err)
	}
	f.digest = f.read()
	go f.run(ctx, changed)
	return nil
}

// watched is one file under watch; after Watch it belongs to run.
type watched struct {
	path   string
	w      *fsnotify.Watcher
	digest []byte // of the content last seen
}

// follow watches the directory of the file and, where it is a link, that of the file behind it.
func (f *watched) follow() error {
	err := f.w.Add(filepath.Dir(f.path))
	if target, linkErr := filepath.EvalSymlinks(f.path); linkErr == nil {
		_ = f.w.Add(filepath.Dir(target)) // the link's own directory is enough to see it replaced
	}
	return err
}

// read is the digest of what the file holds now; nil while it is not there.
func (f *watched) read() []byte {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(data)
	return sum[:]
}

func (f *watched) run(ctx context.Context, changed func()) {
	defer f.w.Close()
	quiet := time.NewTimer(settle)
	for {
		select {
		case <-ctx.Done():
			quiet.Stop()
			return
		case _, ok := <-f.w.Events:
			if !ok {
				return
			}
			quiet.Reset(settle)
		case _, ok := <-f.w.Errors: // events were lost; look
			if !ok {
				return
			}
			quiet.Reset(settle)
		case <-quiet.C:
			_ = f.follow()
			if digest := f.read(); digest != nil && !bytes.Equal(digest, f.digest) {
				f.digest = digest
				changed()
			}
		}
	}
}
