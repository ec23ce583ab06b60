package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// kept is the last snapshot on disk. The file's time says when the control plane last confirmed it.
type kept struct {
	BaseURL  string    `json:"base_url"`
	Snapshot *Snapshot `json:"snapshot"`
}

const snapshotFile = "snapshot.json"

// readKept reads the snapshot that was kept of the control plane at base; nil when there is none.
func readKept(dir, base string) (*Snapshot, time.Time, error) {
	name := filepath.Join(dir, snapshotFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	var k kept
	if json.Unmarshal(text, &k) != nil || k.Snapshot == nil {
		return nil, time.Time{}, fmt.Errorf("%s is damaged; remove it, and policies hold again once the control plane has been read", name)
	}
	if k.BaseURL != base {
		return nil, time.Time{}, nil
	}
	at := info.ModTime()
	if now := time.Now(); at.After(now) {
		at = now
	}
	return k.Snapshot, at, nil
}

func writeKept(dir, base string, s *Snapshot) error {
	text, err := json.Marshal(kept{base, s})
	if err != nil {
		return err
	}
	return whole.Replace(filepath.Join(dir, snapshotFile), text)
}

// confirmKept notes that the kept snapshot is current at t.
func confirmKept(dir string, t time.Time) error {
	return os.Chtimes(filepath.Join(dir, snapshotFile), t, t)
}
