package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// EntryKind is what an entry is.
type EntryKind string

const (
	PolicyEntry EntryKind = "policy"
	ToolEntry   EntryKind = "tool"
	KeyEntry    EntryKind = "key" // an operator's key, without the key itself
)

// told says whether somebody waits to hear of a change of such an entry.
func (k EntryKind) told() bool { return k == PolicyEntry || k == ToolEntry || k == KeyEntry }

// Entry is a policy, a tool or an operator's key, as the file and the api may change it at run time.
type Entry struct {
	Kind      EntryKind
	Name      string
	Value     []byte // JSON
	ChangedAt time.Time
	Source    string  // "file" or "api"
	Revision  uint64  // grows with each change of the entry
	Replaces  *uint64 // Put: the revision that it may replace, 0 for none; nil: whatever stands
	Must      bool    // Put: it holds also while the disk takes nothing, and is written first (the embedded store only)
}

var (
	// ErrNoEntry says that there is nothing of that name to delete.
	ErrNoEntry = errors.New("no such entry")
	// ErrMoved says that another revision of an entry stands than the one to be replaced.
	ErrMoved = errors.New("the entry was changed meanwhile")
	// ErrUncertain says that a change may stand although it failed, or some of it does.
	ErrUncertain = errors.New("some of it may have changed")
)

type entryID struct {
	kind EntryKind
	name string
}

// versions are what the file and the api last said of an entry. The newer word holds.
type versions struct{ file, api version }

type version struct {
	known  bool // it has said something
	gone   bool // and that there is none
	at     time.Time
	digest dedup.Key // of the file's value: the value itself may hold secrets, which stand in the file only
	value  []byte    // of the file only after LoadFile
}

// entry is what holds; false when there is none, or when it is the file's and the file is not loaded yet.
func (v *versions) entry(id entryID) (Entry, bool) {
	w, source := &v.file, "file"
	if v.api.known && (!v.file.known || v.api.at.After(v.file.at)) {
		w, source = &v.api, "api"
	}
	if !w.known || w.gone || w.value == nil {
		return Entry{}, false
	}
	return Entry{Kind: id.kind, Name: id.name, Value: w.value, ChangedAt: w.at, Source: source, Revision: uint64(w.at.UnixNano())}, true
}

// empty says that nothing need be remembered: nobody names the entry any more.
func (v *versions) empty() bool {
	return (!v.file.known || v.file.gone) && (!v.api.known || v.api.gone)
}

// Entries are the policies and tools that hold, by kind and name.
func (e *Embedded) Entries() []Entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []Entry
	for id, v := range e.entries {
		if entry, ok := v.entry(id); ok {
			list = append(list, entry)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return list
}

// OnEntries calls f after each change of an entry.
func (e *Embedded) OnEntries(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watchers.onEntries = append(e.watchers.onEntries, f)
}

// LoadFile says what the configuration file holds now: all of it. An entry counts as changed when it differs from the
// one last loaded; what is no longer in the file goes, unless the api changed it later. The values are used at once and
// are not written: of them only digests are durable. Those are taken also while the disk takes nothing, and written
// first: the file holds from the start, and is there to be read again.
func (e *Embedded) LoadFile(ctx context.Context, entries []Entry) error {
	return e.change(ctx, true, func(now time.Time) []edit {
		var edits []edit
		seen := map[entryID]bool{}
		for _, entry := range entries {
			id := entryID{entry.Kind, entry.Name}
			seen[id] = true
			if v := e.version(id); v.file.known && !v.file.gone && v.file.digest == e.digest(entry.Value) {
				v.file.value = bytes.Clone(entry.Value)
				e.entries[id] = &v
				continue
			}
			v := e.version(id)
			v.file = version{known: true, at: now, digest: e.digest(entry.Value), value: bytes.Clone(entry.Value)}
			edits = append(edits, edit{id, v, "file", "changed"})
		}
		for id, v := range e.entries {
			if v.file.known && !v.file.gone && !seen[id] {
				next := *v
				next.file = version{known: true, gone: true, at: now}
				edits = append(edits, edit{id, next, "file", "deleted"})
			}
		}
		return edits
	})
}

// Put sets an entry for the api. It holds once it is durable. ErrMoved when it is not there to replace what stands.
func (e *Embedded) Put(ctx context.Context, entry Entry, who string) error {
	moved := false
	err := e.change(ctx, entry.Must, func(now time.Time) []edit {
		id := entryID{entry.Kind, entry.Name}
		v := e.version(id)
		stands, _ := v.entry(id)
		if moved = entry.Replaces != nil && *entry.Replaces != stands.Revision; moved {
			return nil
		}
		v.api = version{known: true, at: after(now, v.file.at), value: bytes.Clone(entry.Value)}
		return []edit{{id, v, who, "changed"}}
	})
	if err == nil && moved {
		err = fmt.Errorf("%w: %s %s", ErrMoved, entry.Kind, entry.Name)
	}
	return err
}

// Delete removes an entry for the api, also one of the file, until the file changes it. ErrNoEntry when there is none.
func (e *Embedded) Delete(ctx context.Context, kind EntryKind, name, who string) error {
	found := false
	err := e.change(ctx, false, func(now time.Time) []edit {
		id := entryID{kind, name}
		v := e.version(id)
		if _, found = v.entry(id); !found {
			return nil
		}
		v.api = version{known: true, gone: true, at: after(now, v.file.at)}
		return []edit{{id, v, who, "deleted"}}
	})
	if err == nil && !found {
		return fmt.Errorf("%w: %s %s", ErrNoEntry, kind, name)
	}
	return err
}

// after is now, but later than t: of two changes within the clock's grain the later one wins.
func after(now, t time.Time) time.Time {
	if !now.After(t) {
		return t.Add(1)
	}
	return now
}

// version is what is known of an entry, to be changed.
func (e *Embedded) version(id entryID) versions {
	if v := e.entries[id]; v != nil {
		return *v
	}
	return versions{}
}

func (e *Embedded) digest(value []byte) dedup.Key {
	return sha256.Sum256(append(e.secret[:len(e.secret):len(e.secret)], value...))
}

// edit is one changed entry.
type edit struct {
	id   entryID
	next versions
	who  string
	what string
}

// change makes edits durable in one step and then has them hold. What must holds also if the disk takes nothing now: it is
// written before whatever is decided by it.
func (e *Embedded) change(ctx context.Context, must bool, decide func(time.Time) []edit) error {
	e.editing.Lock()
	defer e.editing.Unlock()
	e.mu.Lock()
	now := e.now()
	edits := decide(now)
	commit, err := e.appendEdits(edits, must, now)
	e.mu.Unlock()
	if err == nil && commit != nil {
		err = commit.Wait(ctx)
	}
	if must && errors.Is(err, journal.ErrDeferred) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%w: policies and tools are as they were: %w", dedup.ErrUnavailable, err)
	}
	e.mu.Lock()
	for _, d := range edits {
		e.put(d.id, d.next)
	}
	told := slices.Clone(e.watchers.onEntries)
	e.mu.Unlock()
	if len(edits) > 0 {
		for _, f := range told {
			f()
		}
	}
	return nil
}

func (e *Embedded) appendEdits(edits []edit, must bool, now time.Time) (*journal.Commit, error) {
	if len(edits) == 0 {
		return nil, nil
	}
	var entries []journal.Entry
	for _, d := range edits {
		change := audit.Change{Time: now, Who: d.who, What: string(d.id.kind) + "_" + d.what, Entity: d.id.name}
		entries = append(entries,
			journal.Entry{Kind: kindEntry, Fact: d.next.append(nil, d.id), Must: must},
			journal.Entry{Kind: audit.KindChange, Fact: change.Append(nil), Must: must})
	}
	return e.j.Append(entries...)
}

func (e *Embedded) put(id entryID, v versions) {
	if v.empty() {
		delete(e.entries, id)
		return
	}
	e.entries[id] = &v
}

func (e *Embedded) foldEntry(st *journal.Stored) error {
	id, v, err := parseVersions(st.Fact)
	if err == nil {
		e.put(id, v)
	}
	return err
}
