package main

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/config"
	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/control"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// plane is what this sidecar publishes for those whose control plane it is. Nothing is published before the first of
// them asks.
type plane struct {
	mu    sync.Mutex // held while a version is made
	now   atomic.Pointer[publication]
	dirty atomic.Bool // something may have changed since now was made
}

type publication struct {
	api.Published
	digest string
	over   chan struct{} // closed with the next one
}

// publishedEntry keeps the number and digest of the last version, so that numbers grow over restarts.
const publishedEntry store.EntryKind = "published"

type publishedVersion struct {
	Version uint64 `json:"version"`
	Digest  string `json:"digest"`
}

// changed notes that what is published may have changed, and publishes it if anybody ever asked.
func (s *sidecar) changed() {
	s.plane.dirty.Store(true)
	if s.plane.now.Load() == nil {
		return
	}
	go func() {
		if _, err := s.published(); err != nil {
			s.log.Error("a change is not published to the sidecars yet", "error", err.Error())
		}
	}()
}

// published is the version that holds now.
func (s *sidecar) published() (*api.Published, error) {
	p := &s.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now.Load()
	if now != nil && !p.dirty.Swap(false) {
		return &now.Published, nil
	}
	p.dirty.Store(false)
	next, err := s.publication(now)
	if err != nil {
		p.dirty.Store(true)
		return nil, err
	}
	if next != now {
		p.now.Store(next)
		if now != nil {
			close(now.over)
		}
	}
	return &next.Published, nil
}

// publication makes the next version; now itself when nothing has changed.
func (s *sidecar) publication(now *publication) (*publication, error) {
	content := map[string]any{}
	var err error
	if content["tools"], content["policies"], err = s.publishedEntries(); err != nil {
		return nil, err
	}
	off := []control.Switch{}
	for _, sw := range s.store.Switches() {
		if sw.Disabled {
			off = append(off, control.Switch{Agent: sw.Agent, Reason: sw.Reason, At: sw.Since})
		}
	}
	content["agents"] = off
	digest := digest(content)
	if now != nil && now.digest == digest {
		return now, nil
	}
	version, err := s.nextVersion(digest)
	if err != nil {
		return nil, err
	}
	content["version"], content["changed_at"] = version, time.UnixMicro(int64(version)).UTC().Format(time.RFC3339Nano)
	next := &publication{digest: digest, over: make(chan struct{})}
	next.Version, next.Next = version, next.over
	next.Body, err = json.Marshal(content)
	return next, err
}

// nextVersion numbers what has this digest, durably: the microseconds of now, but more than the last number. A store that
// was lost begins with a larger one all the same.
func (s *sidecar) nextVersion(digest string) (uint64, error) {
	var last publishedVersion
	for _, e := range s.store.Entries() {
		if e.Kind == publishedEntry {
			_ = json.Unmarshal(e.Value, &last)
		}
	}
	if last.Digest == digest {
		return last.Version, nil
	}
	next := publishedVersion{Version: max(last.Version+1, uint64(time.Now().UnixMicro())), Digest: digest}
	value, err := json.Marshal(next)
	if err != nil {
		return 0, err
	}
	return next.Version, s.store.Put(s.ctx, store.Entry{Kind: publishedEntry, Name: "snapshot", Value: value}, "sidecar")
}

// publishedEntries are the tools and policies that hold, without secrets, in the words of the configuration file.
func (s *sidecar) publishedEntries() (tools []control.Tool, policies []map[string]any, err error) {
	fromFile := map[string]tool.Config{}
	for _, t := range s.cfg.Load().Tools {
		fromFile[entryName(t.Name, t.Scope)] = t
	}
	tools, policies = []control.Tool{}, []map[string]any{}
	previous := map[string][]tool.Definition{}
	for _, t := range s.governor.Snapshot().Registry.Tools() {
		previous[entryName(t.Name, t.Scope)] = t.Previous
	}
	for _, p := range s.governor.Snapshot().Policies.All() {
		policies = append(policies, policySpec(p.Config()))
	}
	for _, e := range s.store.Entries() {
		if e.Kind != store.ToolEntry {
			continue
		}
		c, holds, err := s.toolOfEntry(e, fromFile)
		if err != nil {
			return nil, nil, err
		}
		if !holds {
			continue
		}
		t := control.Tool{}
		if c.Auth != nil {
			if t.Signed = c.Auth.Scheme; t.Signed == "" {
				t.Signed = "onceonly"
			}
		}
		t.Headers = slices.Sorted(maps.Keys(c.Headers))
		if t.Spec, err = config.ToolSpec(c); err != nil {
			return nil, nil, err
		}
		t.Previous = previous[e.Name]
		tools = append(tools, t)
	}
	return tools, policies, nil
}
