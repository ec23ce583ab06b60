package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// Stats says how large the store is.
type Stats struct {
	Keys       int // of ended calls; some may have expired
	Running    int
	Unknown    int
	IndexBytes int
	CacheBytes int
	Journal    journal.Status
}

// Stats counts.
func (e *Embedded) Stats() Stats {
	st := Stats{CacheBytes: e.cache.size(), Journal: e.j.Status()}
	e.mu.Lock()
	defer e.mu.Unlock()
	st.Keys, st.Running, st.Unknown, st.IndexBytes = e.index.count, int(e.running.Load()), e.unknown, e.index.size()
	return st
}

// Usage is what the agent has used of its limits, and how often the tool of that name was called.
func (e *Embedded) Usage(tenant, agent, name string) Usage {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, s := e.now(), e.spent.of(tenant, agent)
	u := Usage{HourCalls: s.hour(now)}
	u.DaySpend, u.ToolCalls = s.today(now, name)
	return u
}

// Err says why the store takes no new claims; nil when it does.
func (e *Embedded) Err() error {
	if err := e.j.Status().Err; err != nil {
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.room(&dedup.Claim{Keys: make([]dedup.Identity, 1)}, false, e.now()); err != nil {
		return fmt.Errorf("%w: %w", dedup.ErrUnavailable, err)
	}
	return nil
}

// Guarantee says in words what the store promises.
func (e *Embedded) Guarantee() string {
	promise := "at most once per volume"
	if e.opt.Config.Lifetime == "pod" {
		promise = "at most once, until this pod is deleted"
	}
	if e.opt.Config.Durability == "process" {
		promise += "; a crash of the machine, unlike one of the process, may forget the last seconds (durability: process)"
	}
	return promise
}

func shownKeyPath(dir string) string { return filepath.Join(dir, "shown.key") }

// shownKey reads the store's secret, or makes it once.
func shownKey(name string) (key [32]byte, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = rand.Read(key[:])
		return key, whole.Replace(name, []byte(hex.EncodeToString(key[:])+"\n"))
	}
	if err != nil {
		return key, err
	}
	p, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(p) != len(key) {
		return key, fmt.Errorf("%s is damaged: it must be 64 hex digits; remove it and keys will be shown under new names", name)
	}
	copy(key[:], p)
	return key, nil
}
