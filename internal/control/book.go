package control

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/whole"
)

// held is a lease that this sidecar holds, or of which it still has to say how its call ended.
type held struct {
	Key     string        `json:"key"` // as it goes out
	ID      string        `json:"id"`
	Local   dedup.Key     `json:"local"` // under which the local store knows the call; zero: it has no key
	Print   string        `json:"print,omitempty"`
	Fence   uint64        `json:"fence"`
	Timeout time.Duration `json:"timeout"`
	TTL     time.Duration `json:"ttl"`
	Until   time.Time     `json:"until"` // when the lease ends, by this machine's clock
	Again   bool          `json:"again"` // an earlier attempt may have run
	Say     string        `json:"say,omitempty"`
	Outcome string        `json:"outcome,omitempty"`
	Hash    string        `json:"hash,omitempty"`
	Keep    time.Duration `json:"keep,omitempty"`
	GiveUp  time.Time     `json:"give_up,omitzero"` // when nobody asks for the word any more

	result json.RawMessage // with Say complete; not kept on disk
	next   time.Time       // when to act
	busy   bool            // somebody acts
	tries  int
}

// What is to be said of a lease. Empty: its call runs.
const (
	sayComplete = "complete" // it ran
	sayCancel   = "cancel"   // it did not, or the tool refused it: the key is free
	sayHold     = "extend"   // nobody knows: the key stays taken
	saidHold    = "held"     // that has been said; an operator resolves the call
)

// line is one entry of the book's file.
type line struct {
	Held *held  `json:"held,omitempty"`
	Gone string `json:"gone,omitempty"` // id of a lease that is settled
}

// book is what this sidecar holds, in memory and in a file that is appended to.
type book struct {
	name string

	mu      sync.Mutex
	byID    map[string]*held // guarded by mu
	byFence map[uint64]*held // guarded by mu
	byKey   map[string]*held // guarded by mu: of calls that have a key
	file    *os.File         // guarded by mu
	lines   int              // guarded by mu: in the file
	wrote   uint64           // guarded by mu: lines ever
	failed  error            // guarded by mu: of the last write or sync

	syncing sync.Mutex // held while the file is synced or made anew; taken before mu
	synced  uint64     // guarded by syncing: lines that are on disk
}

const (
	bookFile = "leases.jsonl"
	maxHeld  = 100_000
)

// openBook reads what was held when the last process ended.
func openBook(dir string) (*book, error) {
	b := &book{name: filepath.Join(dir, bookFile), byID: map[string]*held{}, byFence: map[uint64]*held{}, byKey: map[string]*held{}}
	f, err := os.Open(b.name)
	if err == nil {
		err = errors.Join(b.read(f), f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return b, b.rewrite()
}

// read takes in what a file says. Call it before anybody else knows b.
func (b *book) read(f io.Reader) error {
	for lines := bufio.NewReader(f); ; {
		text, err := lines.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF): // what a crash tore is as if it had not been said
			return nil
		case err != nil:
			return err
		}
		var l line
		if json.Unmarshal(text, &l) != nil {
			continue
		}
		if l.Held != nil {
			b.index(l.Held)
		} else if h := b.byID[l.Gone]; h != nil {
			b.forget(h)
		}
	}
}

// index takes h in, in place of what stood under its id. Call it with mu held.
func (b *book) index(h *held) {
	if old := b.byID[h.ID]; old != nil {
		b.forget(old)
	}
	b.byID[h.ID], b.byFence[h.Fence] = h, h
	if h.Local != (dedup.Key{}) {
		b.byKey[h.Key] = h
	}
}

// forget takes h out. Call it with mu held.
func (b *book) forget(h *held) {
	delete(b.byID, h.ID)
	if b.byFence[h.Fence] == h {
		delete(b.byFence, h.Fence)
	}
	if b.byKey[h.Key] == h {
		delete(b.byKey, h.Key)
	}
}

// rewrite makes the file anew, of what is held. Call it with syncing and mu held, or before anybody else knows b.
func (b *book) rewrite() error {
	var text []byte
	for _, h := range b.byID {
		row, err := json.Marshal(line{Held: h})
		if err != nil {
			return err
		}
		text = append(append(text, row...), '\n')
	}
	if err := whole.Replace(b.name, text); err != nil {
		return err
	}
	f, err := os.OpenFile(b.name, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if b.file != nil {
		_ = b.file.Close()
	}
	b.file, b.lines, b.synced, b.failed = f, len(b.byID), b.wrote, nil
	return nil
}

// append writes a line. Call it with mu held.
func (b *book) append(l line) error {
	row, err := json.Marshal(l)
	if err == nil {
		_, err = b.file.Write(append(row, '\n'))
	}
	b.lines, b.wrote, b.failed = b.lines+1, b.wrote+1, cmp.Or(err, b.failed)
	return err
}

// put takes h in and writes it. What a crash may take of it back, durable keeps.
func (b *book) put(h *held) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index(h)
	return b.append(line{Held: h})
}

// durable returns when what was written before it was called is on disk. Many callers share one sync.
func (b *book) durable() error {
	b.mu.Lock()
	mine := b.wrote
	b.mu.Unlock()
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock()
	file, wrote, err := b.file, b.wrote, b.failed
	b.mu.Unlock()
	if err != nil || b.synced >= mine {
		return err
	}
	if err = file.Sync(); err != nil { // what is on disk is not known any more: the file is made anew
		b.mu.Lock()
		b.failed = err
		b.mu.Unlock()
		return err
	}
	b.synced = wrote
	return nil
}

// rename puts h, which another lease of its key took the place of, under that one's id.
func (b *book) rename(h *held, id string, edit func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byID[h.ID] != h {
		return
	}
	delete(b.byID, h.ID)
	_ = b.append(line{Gone: h.ID})
	h.ID = id
	edit()
	b.byID[id] = h
	_ = b.append(line{Held: h})
}

// done forgets a lease that is settled.
func (b *book) done(h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byID[h.ID] != h {
		return
	}
	b.forget(h)
	_ = b.append(line{Gone: h.ID})
}

// change edits h and writes it, unless it is settled.
func (b *book) change(h *held, edit func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	edit()
	if b.byID[h.ID] == h {
		_ = b.append(line{Held: h})
	}
}

func (b *book) ofFence(fence uint64) *held {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byFence[fence]
}

// take finds the lease of a key that is to be given back or is held for an operator; mine if nobody acts on it. It is then
// busy.
func (b *book) take(key string) (h *held, say string, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h = b.byKey[key]
	if h == nil || h.Say == "" || h.Say == sayComplete {
		return nil, "", false
	}
	if mine = !h.busy; mine {
		h.busy = true
	}
	return h, h.Say, mine
}

// due are leases for which it is time to act; they are busy until acted or put.
func (b *book) due(now time.Time, most int) (list []*held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.byID {
		if len(list) == most {
			break
		}
		if !h.busy && !now.Before(h.next) {
			h.busy = true
			list = append(list, h)
		}
	}
	return list
}

// acted says when to act next.
func (b *book) acted(h *held, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h.busy, h.next = false, next
}

// tend syncs what was written, and shortens the file when most of it is settled.
func (b *book) tend() error {
	if done, err := b.shorten(); done {
		return err
	}
	return b.durable()
}

func (b *book) shorten() (done bool, err error) {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil && (b.lines <= 1000 || b.lines <= 4*len(b.byID)) {
		return false, nil
	}
	return true, b.rewrite()
}

// counts are how many leases are held for running calls, to be said of, and held for an operator.
func (b *book) counts() (running, owed, unknown int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.byID {
		switch h.Say {
		case "":
			running++
		case saidHold:
			unknown++
		default:
			owed++
		}
	}
	return running, owed, unknown
}

func (b *book) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.byID) >= maxHeld || b.failed != nil
}

func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.file.Sync(), b.file.Close())
}
