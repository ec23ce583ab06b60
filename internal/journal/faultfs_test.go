package journal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

const sector = 512

// faultFS keeps apart what the page cache shows and what the disk has, as files and as names.
type faultFS struct {
	mu       sync.Mutex
	names    map[string]*inode // as processes see them
	durable  map[string]*inode // as the disk has them
	pending  []rename          // names that no SyncDir has made durable yet
	locked   bool
	capacity int64                       // of all files; 0: endless
	readOnly bool                        // every change fails with EROFS
	anyway   bool                        // a sync that fails has written everything nevertheless
	before   func(op, name string)       // sees every change before it happens, with mu held
	fail     func(op, name string) error // fails a change
}

type inode struct {
	cache   []byte
	disk    []byte
	pending []write // what no Sync has made durable yet
}

// write is a change of an inode. With data nil it sets the length.
type write struct {
	at   int64
	data []byte
}

type rename struct {
	name string
	to   *inode // nil: the name goes
}

func newFaultFS() *faultFS {
	return &faultFS{names: map[string]*inode{}, durable: map[string]*inode{}}
}

// change runs a change unless it is made to fail.
func (d *faultFS) change(op, name string, do func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Base(name)
	if d.before != nil {
		d.before(op, name)
	}
	if d.readOnly {
		return syscall.EROFS
	}
	if d.fail != nil {
		if err := d.fail(op, name); err != nil {
			return err
		}
	}
	return do()
}

func (d *faultFS) MkdirAll(string) error { return nil }

func (d *faultFS) Create(name string) (f File, err error) {
	err = d.change("create", name, func() error {
		if d.names[filepath.Base(name)] != nil {
			return fs.ErrExist
		}
		n := &inode{}
		d.name(filepath.Base(name), n)
		f = &faultFile{d, n, filepath.Base(name)}
		return nil
	})
	return f, err
}

func (d *faultFS) name(name string, to *inode) {
	if to == nil {
		delete(d.names, name)
	} else {
		d.names[name] = to
	}
	d.pending = append(d.pending, rename{name, to})
}

func (d *faultFS) Open(name string, write bool) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[filepath.Base(name)]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return &faultFile{d, n, filepath.Base(name)}, nil
}

func (d *faultFS) Rename(from, to string) error {
	return d.change("rename", to, func() error {
		n := d.names[filepath.Base(from)]
		if n == nil {
			return fs.ErrNotExist
		}
		d.name(filepath.Base(to), n) // one step on real disks too: never neither
		d.name(filepath.Base(from), nil)
		return nil
	})
}

func (d *faultFS) Remove(name string) error {
	return d.change("remove", name, func() error {
		if d.names[filepath.Base(name)] == nil {
			return fs.ErrNotExist
		}
		d.name(filepath.Base(name), nil)
		return nil
	})
}

func (d *faultFS) ReadDir(string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d *faultFS) SyncDir(dir string) error {
	return d.change("syncdir", dir, func() error {
		d.durable, d.pending = maps.Clone(d.names), nil
		return nil
	})
}

func (d *faultFS) used() (n int64) {
	for _, f := range d.names {
		n += int64(len(f.cache))
	}
	return n
}

func (d *faultFS) Free(string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.capacity == 0 {
		return 1 << 40, nil
	}
	return max(d.capacity-d.used(), 0), nil
}

func (d *faultFS) Lock(string) (func(), string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked {
		return nil, "the test", syscall.EWOULDBLOCK
	}
	d.locked = true
	return func() { d.mu.Lock(); d.locked = false; d.mu.Unlock() }, "", nil
}

func (d *faultFS) Locked(string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.locked
}

type faultFile struct {
	d    *faultFS
	n    *inode
	name string
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.n.cache)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.cache[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *faultFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.d.change("write", f.name, func() error {
		return f.write(write{off, slices.Clone(p)}, off+int64(len(p)))
	})
	return len(p), err
}

func (f *faultFile) write(w write, end int64) error {
	if grow := end - int64(len(f.n.cache)); grow > 0 && f.d.capacity > 0 && f.d.used()+grow > f.d.capacity {
		return syscall.ENOSPC
	}
	f.n.cache = w.apply(f.n.cache)
	f.n.pending = append(f.n.pending, w)
	return nil
}

func (w write) apply(p []byte) []byte {
	if w.data == nil {
		if int64(len(p)) > w.at {
			return slices.Clone(p[:w.at])
		}
		return append(slices.Clone(p), make([]byte, w.at-int64(len(p)))...)
	}
	if end := w.at + int64(len(w.data)); end > int64(len(p)) {
		p = append(slices.Clone(p), make([]byte, end-int64(len(p)))...)
	}
	copy(p[w.at:], w.data)
	return p
}

// errLost is a failed sync as Linux has it: the dirty pages are marked clean, and later syncs succeed.
var errLost = syscall.EIO

func (f *faultFile) Sync() error {
	err := f.d.change("sync", f.name, func() error {
		for _, w := range f.n.pending {
			f.n.disk = w.apply(f.n.disk)
		}
		f.n.pending = nil
		return nil
	})
	if errors.Is(err, errLost) {
		f.d.mu.Lock()
		if f.d.anyway {
			for _, w := range f.n.pending {
				f.n.disk = w.apply(f.n.disk)
			}
		}
		f.n.pending = nil
		f.d.mu.Unlock()
	}
	return err
}

func (f *faultFile) Allocate(size int64) error {
	return f.d.change("allocate", f.name, func() error {
		if size <= int64(len(f.n.cache)) {
			return nil
		}
		return f.write(write{at: size}, size)
	})
}

func (f *faultFile) Truncate(size int64) error {
	return f.d.change("truncate", f.name, func() error { return f.write(write{at: size}, size) })
}

func (f *faultFile) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return int64(len(f.n.cache)), nil
}

func (f *faultFile) Close() error { return nil }

// clone copies everything. Call it with mu held, or before anybody else has d.
func (d *faultFS) clone() *faultFS {
	c := newFaultFS()
	c.capacity, c.anyway = d.capacity, d.anyway
	inodes := map[*inode]*inode{nil: nil}
	twin := func(n *inode) *inode {
		if t, ok := inodes[n]; ok {
			return t
		}
		t := &inode{cache: slices.Clone(n.cache), disk: slices.Clone(n.disk), pending: slices.Clone(n.pending)}
		inodes[n] = t
		return t
	}
	for name, n := range d.names {
		c.names[name] = twin(n)
	}
	for name, n := range d.durable {
		c.durable[name] = twin(n)
	}
	for _, r := range d.pending {
		c.pending = append(c.pending, rename{r.name, twin(r.to)})
	}
	return c
}

// killed is what the next process finds when this one is killed: everything that was written.
func (d *faultFS) killed() *faultFS { return d.clone() }

// loss says what a loss of power does to a write that no sync covers: it returns the data that reaches the disk, with
// nil for nothing. last is the newest write of its file.
type loss func(w write, last bool, disk []byte) []byte

// powerLost is what the next boot finds: what was synced, and of the rest what lose lets through. keepNames is how
// many of the pending names reach the disk.
func (d *faultFS) powerLost(keepNames int, lose loss) *faultFS {
	c := d.clone()
	for _, r := range c.pending[:min(keepNames, len(c.pending))] {
		if r.to == nil {
			delete(c.durable, r.name)
		} else {
			c.durable[r.name] = r.to
		}
	}
	done := map[*inode]bool{}
	for _, n := range c.durable {
		if done[n] {
			continue
		}
		done[n] = true
		for i, w := range n.pending {
			if w.data == nil {
				if lose(w, false, nil) != nil {
					n.disk = w.apply(n.disk)
				}
				continue
			}
			if data := lose(w, i == len(n.pending)-1, n.disk); data != nil {
				n.disk = write{w.at, data}.apply(n.disk)
			}
		}
		n.cache, n.pending = slices.Clone(n.disk), nil
	}
	c.names, c.pending = maps.Clone(c.durable), nil
	return c
}

func all(w write, _ bool, _ []byte) []byte {
	if w.data == nil {
		return []byte{}
	}
	return w.data
}

func none(write, bool, []byte) []byte { return nil }

// sectorwise tears every unsynced write: each sector is old, new, zero or garbage, as pick says.
func sectorwise(pick func() int, garbage []byte) loss {
	return func(w write, _ bool, disk []byte) []byte {
		if w.data == nil {
			if pick()%2 == 0 {
				return nil
			}
			return []byte{}
		}
		out := slices.Clone(w.data)
		for at := int64(0); at < int64(len(out)); {
			next := min((w.at+at)/sector*sector+sector-w.at, int64(len(out)))
			part := out[at:next]
			switch pick() {
			case 0: // as it was
				clear(part)
				if w.at+at < int64(len(disk)) {
					copy(part, disk[w.at+at:])
				}
			case 1:
				clear(part)
			case 2:
				for i := range part {
					part[i] = garbage[(int(w.at+at)+i)%len(garbage)]
				}
			}
			at = next
		}
		return out
	}
}

func randomly(r *rand.Rand, garbage []byte) loss {
	return sectorwise(func() int { return r.IntN(5) }, garbage)
}

// prefix lets all of every older write through and n bytes of the last one.
func prefix(n int) loss {
	return func(w write, last bool, disk []byte) []byte {
		if !last || w.data == nil {
			return all(w, last, disk)
		}
		if n == 0 {
			return nil
		}
		return w.data[:min(n, len(w.data))]
	}
}
