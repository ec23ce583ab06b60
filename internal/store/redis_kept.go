package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// keptView is what was last known of what is shared, in a file beside this sidecar's journal. A sidecar that starts while
// the server is away goes by it: an agent that was stopped stays stopped, also where the server never heard of it.
type keptView struct {
	path string

	mu   sync.Mutex
	last string // what the file holds; guarded by mu
}

// keptShared is that file.
type keptShared struct {
	Version int               `json:"v"`
	Prefix  *string           `json:"prefix,omitempty"` // of the namespace that this is of; nil: written before it was kept
	DB      int               `json:"db,omitempty"`
	Off     map[string]string `json:"off"`     // by agent, as the server has them
	On      map[string]uint64 `json:"on"`      // the revisions at which agents were let go
	Entries map[string]string `json:"entries"` // by field, as the server has them
}

func newKeptView(dir string) *keptView { return &keptView{path: filepath.Join(dir, "shared.json")} }

func (k *keptView) read() (kept keptShared, err error) {
	text, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err == nil && kept.Version != 1 {
		err = fmt.Errorf("version %d", kept.Version)
	}
	if err != nil {
		return kept, fmt.Errorf("%s: %w; it holds what was last known of kill switch, policies and tools in Redis: restore it, or remove it once `agent ls` shows what you expect", k.path, err)
	}
	return kept, nil
}

// write replaces the file, unless it holds that already.
func (k *keptView) write(kept keptShared) error {
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if string(text) == k.last {
		return nil
	}
	if err := whole.Replace(k.path, text); err != nil {
		return err
	}
	k.last = string(text)
	return nil
}

// keep writes what is known now.
func (s *shared) keep() {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.mu.Lock()
	kept := keptShared{Version: 1, Prefix: &s.c.cfg.Prefix, DB: s.c.cfg.DB, Off: map[string]string{}, On: maps.Clone(s.on), Entries: map[string]string{}}
	var err error
	for agent, t := range s.off {
		value, bad := json.Marshal(switchRecord{t.Reason, t.Who, t.Since})
		kept.Off[agent] = strconv.FormatUint(t.revision, 10) + " " + string(value)
		err = errors.Join(err, bad)
	}
	for id, e := range s.entries.known {
		kept.Entries[id.field()] = e.raw
	}
	s.mu.Unlock()
	if err = errors.Join(err, s.kept.write(kept)); err != nil {
		s.opt.Log.Error("the last known kill switch, policies and tools are not kept; a start while Redis is away would not know them", "error", err.Error())
	}
}

// ofHere says why what was kept must not be given to this namespace: it is another one's, and so is the journal beside it.
func (k *keptShared) ofHere(dir string, cfg RedisConfig) error {
	if k.Prefix == nil || *k.Prefix == cfg.Prefix && k.DB == cfg.DB {
		return nil
	}
	return fmt.Errorf("%s holds the journal of a sidecar with store.redis.prefix %q and db %d, and the configuration says %q and %d: calls, switches and policies of there would be taken for those of here; set them back, or give this sidecar another store.embedded.dir", dir, *k.Prefix, k.DB, cfg.Prefix, cfg.DB)
}

// recall takes in what was kept of the switch, and of operators' keys: one that was revoked stays so where the server was set
// back meanwhile. What the server says later holds where it is newer.
func (s *shared) recall() error {
	kept, err := s.kept.read()
	if err == nil {
		err = kept.ofHere(s.opt.Dir, s.c.cfg)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for agent, revision := range kept.On {
		s.on[agent] = revision
	}
	for agent, value := range kept.Off {
		t := parseThrown(agent, value)
		t.owed = true
		s.off[agent] = t
	}
	for field, raw := range kept.Entries {
		if id := parseField(field); id.kind == KeyEntry {
			s.adopt(id, raw)
		}
	}
	s.showSwitches()
	return nil
}

// recallEntries goes by the policies and tools that were kept, because the server cannot be asked.
func (s *shared) recallEntries() error {
	kept, err := s.kept.read()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for field, raw := range kept.Entries {
		s.adopt(parseField(field), raw)
	}
	return nil
}
