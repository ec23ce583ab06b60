package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/audit"
)

// Entries stand in one hash by "kind name", as "revision nonce json". The higher revision holds; what a file said first
// has revision 1, so that whatever somebody changed holds against it. A deleted entry stays as the word that it is gone.

// sharedEntries are the entries as this process knows them. They have no lock of their own.
type sharedEntries struct {
	revision string                  // of all, as the server last said; "" for none
	known    map[entryID]sharedEntry // what the server said, or took
	file     map[entryID]Entry       // what this sidecar's file says; nil values never
	owed     map[entryID]bool        // of known: the server has lost them
}

func newSharedEntries() sharedEntries {
	return sharedEntries{known: map[entryID]sharedEntry{}, file: map[entryID]Entry{}, owed: map[entryID]bool{}}
}

// sharedEntry is an entry as the server has it.
type sharedEntry struct {
	revision uint64
	nonce    string
	raw      string // all of it
	entryRecord
}

type entryRecord struct {
	Version int             `json:"v"`
	Gone    bool            `json:"gone,omitempty"`
	Source  string          `json:"source"`
	Who     string          `json:"who,omitempty"`
	At      time.Time       `json:"at"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// Changing an entry. ARGV: field, what (seed: only where there is none; assert: only over an older one; put), revision
// (assert: of the entry; put: the one to replace, or -), nonce, json, channel, server time in µs after which a put is too late.
// The answer: 1 and the entry that stands
// when it is this one, else 0 and the one that stands or nothing.
var entryScript = newScript("entry", `#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stands = redis.call('HGET', KEYS[1], ARGV[1])
local was, nonce = 0, ''
if stands then
  local r, n = string.match(stands, '^(%d+) (%x+) ')
  was, nonce = tonumber(r or '0'), n or ''
end
if nonce == ARGV[4] then return {1, stands} end
local revision
if ARGV[2] == 'seed' then
  if stands then return {0, stands} end
  revision = 1
elseif ARGV[2] == 'assert' then
  revision = tonumber(ARGV[3])
  if stands and was >= revision then return {0, stands} end
else
  if now > tonumber(ARGV[7]) then return 'late' end
  if ARGV[3] ~= '-' and tonumber(ARGV[3]) ~= was then
    local gone = stands and string.find(stands, '"gone":true', 1, true)
    if not (ARGV[3] == '0' and gone) then return {0, stands or ''} end
  end
  revision = math.max(now, was + 1)
end
local next = string.format('%.0f', revision) .. ' ' .. ARGV[4] .. ' ' .. ARGV[5]
redis.call('HSET', KEYS[1], ARGV[1], next)
local all = redis.pcall('GET', KEYS[2])
all = type(all) == 'string' and tonumber(all) or 0
if not (all > 0 and all < 2^53) then all = 0 end -- no revision of ours: another one than what stands is all that it takes
redis.call('SET', KEYS[2], string.format('%.0f', math.max(now, all + 1)))
redis.call('PUBLISH', ARGV[6], 'entries')
return {1, next}`)

func (id entryID) field() string { return string(id.kind) + " " + id.name }

func parseField(field string) entryID {
	kind, name, _ := strings.Cut(field, " ")
	return entryID{EntryKind(kind), name}
}

func parseSharedEntry(raw string) (sharedEntry, error) {
	e := sharedEntry{raw: raw}
	parts := strings.SplitN(raw, " ", 3)
	if len(parts) < 3 {
		return e, fmt.Errorf("an entry of %d words", len(parts))
	}
	var err error
	if e.revision, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return e, err
	}
	e.nonce = parts[1]
	if err = json.Unmarshal([]byte(parts[2]), &e.entryRecord); err == nil && e.Version != 1 {
		err = fmt.Errorf("an entry of version %d", e.Version)
	}
	return e, err
}

func (e *sharedEntry) entry(id entryID) Entry {
	return Entry{Kind: id.kind, Name: id.name, Value: bytes.Clone(e.Value), ChangedAt: e.At, Source: e.Source, Revision: e.revision}
}

// Entries are the policies and tools that hold, by kind and name: those that are shared, and this sidecar's file's where
// nobody shared one of the name. One that cannot be read has no value that parses, so that nothing can be made of all.
func (s *shared) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Entry
	for id, e := range s.entries.known {
		if !e.Gone {
			list = append(list, e.entry(id))
		}
	}
	for id, e := range s.entries.file {
		if _, shared := s.entries.known[id]; !shared {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return list
}

// OnEntries calls f after each change of a policy or a tool.
func (s *shared) OnEntries(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told.onEntries = append(s.told.onEntries, f)
}

// LoadFile says what the configuration file holds now: all of it. Its entries hold where there is no shared one of the
// name, and are shared then. Values must hold no secret. While the server is away they hold here.
func (s *shared) LoadFile(ctx context.Context, entries []Entry) error {
	s.mu.Lock()
	clear(s.entries.file)
	for _, e := range entries {
		e.Value, e.Source, e.ChangedAt = bytes.Clone(e.Value), "file", s.now()
		s.entries.file[entryID{e.Kind, e.Name}] = e
	}
	s.mu.Unlock()
	s.assertEntries(ctx)
	return nil
}

// Put sets an entry for the api of any sidecar. It holds once the server has it. ErrMoved when it is not there to
// replace what stands.
func (s *shared) Put(ctx context.Context, entry Entry, who string) error {
	id := entryID{entry.Kind, entry.Name}
	replaces := "-"
	if entry.Replaces != nil {
		replaces = strconv.FormatUint(*entry.Replaces, 10)
	}
	return s.putEntry(ctx, id, replaces, entryRecord{Version: 1, Source: cmp.Or(entry.Source, "api"), Who: who, At: s.now().UTC(), Value: entry.Value}, "changed")
}

// Delete removes an entry for the api of any sidecar, also one of a file. ErrNoEntry when there is none.
func (s *shared) Delete(ctx context.Context, kind EntryKind, name, who string) error {
	id := entryID{kind, name}
	s.mu.Lock()
	known, ok := s.entries.known[id]
	_, filed := s.entries.file[id]
	s.mu.Unlock()
	if ok && known.Gone || !ok && !filed {
		return fmt.Errorf("%w: %s %s", ErrNoEntry, kind, name)
	}
	return s.putEntry(ctx, id, "-", entryRecord{Version: 1, Gone: true, Source: "api", Who: who, At: s.now().UTC()}, "deleted")
}

func (s *shared) putEntry(ctx context.Context, id entryID, replaces string, r entryRecord, what string) error {
	took, stands, err := s.sendEntry(ctx, id, "put", replaces, nonceText(), r)
	if err != nil {
		return away(fmt.Errorf("the %s %s: %w", id.kind, id.name, uncertain(err)))
	}
	if !took {
		s.hint()
		return fmt.Errorf("%w: %s %s", ErrMoved, id.kind, id.name)
	}
	s.record(&audit.Change{Time: r.At, Who: r.Who, What: string(id.kind) + "_" + what, Entity: id.name})
	s.mu.Lock()
	s.adopt(id, stands)
	s.mu.Unlock()
	s.keep()
	s.tellEntries(!id.kind.told())
	return nil
}

// sendEntry asks the server to change an entry, and returns whether it did and what stands.
func (s *shared) sendEntry(ctx context.Context, id entryID, what, revision, nonce string, r entryRecord) (took bool, stands string, err error) {
	value, err := json.Marshal(r)
	if err != nil {
		return false, "", err
	}
	reply, err := s.inTime(ctx, func(till int64) (any, error) {
		return s.ask(ctx, entryScript, []string{s.c.key("entries"), s.c.key("entries-revision")}, id.field(), what, revision, nonce, value, s.hints(), till)
	})
	if err != nil {
		return false, "", err
	}
	parts, ok := reply.([]any)
	if !ok || len(parts) != 2 {
		return false, "", fmt.Errorf("the entry script answered %T", reply)
	}
	return text(parts[0]) == "1", text(parts[1]), nil
}

// adopt has an entry hold unless a newer one does, and says whether something changed. Call it with mu held.
func (s *shared) adopt(id entryID, raw string) (changed bool) {
	known, ok := s.entries.known[id]
	if ok && known.raw == raw {
		delete(s.entries.owed, id)
		return false
	}
	e, err := parseSharedEntry(raw)
	if err != nil {
		s.opt.Log.Error("an entry in the store cannot be read: it was written by a newer oo-sidecar or is damaged", "kind", string(id.kind), "name", id.name, "error", err.Error())
		if ok {
			return false
		}
		e.Source = "api"
	}
	if ok && e.revision < known.revision {
		s.entries.owed[id] = true
		s.events.Load().Refused()
		return false
	}
	s.entries.known[id] = e
	delete(s.entries.owed, id)
	return true
}

// takeEntries takes in the server's entries. What this process knows in a newer revision, or alone, goes on holding:
// the server has lost it.
func (s *shared) takeEntries(revision string, all map[string]string) {
	s.mu.Lock()
	changed := false
	for field, raw := range all {
		id := parseField(field)
		moved := s.adopt(id, raw)
		changed = changed || moved && id.kind.told()
	}
	for id := range s.entries.known {
		if _, has := all[id.field()]; !has {
			s.entries.owed[id] = true
		}
	}
	s.entries.revision = revision
	s.mu.Unlock()
	s.tellEntries(!changed)
}

// assertEntries gives the server the entries that it has lost, and those of the file where it has none.
func (s *shared) assertEntries(ctx context.Context) {
	type debt struct {
		id             entryID
		what, revision string
		nonce          string
		entryRecord
	}
	var debts []debt
	s.mu.Lock()
	for id := range s.entries.owed {
		e := s.entries.known[id]
		debts = append(debts, debt{id, "assert", strconv.FormatUint(e.revision, 10), e.nonce, e.entryRecord})
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.entries.file), func(a, b entryID) int { return cmp.Compare(a.field(), b.field()) }) {
		e := s.entries.file[id]
		if _, shared := s.entries.known[id]; !shared {
			debts = append(debts, debt{id, "seed", "", nonceText(), entryRecord{Version: 1, Source: "file", At: e.ChangedAt.UTC(), Value: e.Value}})
		}
	}
	s.mu.Unlock()
	changed := false
	for _, d := range debts {
		_, stands, err := s.sendEntry(ctx, d.id, d.what, d.revision, d.nonce, d.entryRecord)
		if err != nil {
			break // the next look tries again
		}
		s.mu.Lock()
		was := s.entries.known[d.id].raw
		if s.adopt(d.id, stands) {
			same := d.what == "seed" && string(s.entries.known[d.id].Value) == string(d.Value)
			changed = changed || !same && was != stands
		}
		s.mu.Unlock()
	}
	s.tellEntries(!changed)
}

func (s *shared) tellEntries(nothing bool) {
	if nothing {
		return
	}
	s.mu.Lock()
	told := slices.Clone(s.told.onEntries)
	s.mu.Unlock()
	for _, f := range told {
		f()
	}
}
