package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// A segment file is a preamble and frames. The preamble is durable before the first frame is written:
//
//	magic 8, segment 4, zero 4, journal's id 16, random 16, zero 12, CRC 4
//
// The CRC seeds those of the frames.
const preambleSize = 64

const (
	segmentSuffix = ".oolog"
	spareSuffix   = ".spare" // of a segment made ready in the background; it has no facts
)

var preambleMagic = []byte("oolog\x00\x01\n")

func segmentName(number uint32) string { return fmt.Sprintf("%08d%s", number, segmentSuffix) }

func spareName(number uint32) string { return fmt.Sprintf("%08d%s", number, spareSuffix) }

// segmentNumber is the inverse of segmentName; 0 when name is not one.
func segmentNumber(name string) uint32 {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 32)
	if err != nil || segmentName(uint32(n)) != name {
		return 0
	}
	return uint32(n)
}

type segment struct {
	number uint32
	path   string
	seed   uint32
	seal   seal // of its first frame

	rw sync.RWMutex // read: around each use of f; write: to close it
	f  File         // guarded by rw; nil when the segment has gone

	allocated atomic.Int64 // the file's length
	written   bool         // all blocks up to allocated have been written once; set before it becomes the spare
	shown     bool         // Open has shown bodies behind its end, because it could not write them again; set by Open only

	span // guarded by Journal.mu
}

// span is what a segment holds.
type span struct {
	end       uint32 // bytes that are facts
	count     int64  // entries
	first     uint64 // sequence numbers; 0 when there are none
	last      uint64
	firstTime int64
	lastTime  int64
	bodies    expiry
	stripped  int64 // bodies that could go at this time (Unix, ns) have gone
	freed     int64 // bytes of them
}

// note adds a frame that has become fact.
func (s *span) note(f *frame) {
	s.end = f.end()
	if f.count == 0 {
		return
	}
	if s.first == 0 {
		s.first, s.firstTime = f.first, f.time
	}
	s.count, s.lastTime = s.count+int64(f.count), f.time
	f.each(func(e *rawEntry) bool {
		s.last = e.seq
		if e.hasBody && e.until > s.stripped {
			s.bodies.add(e.until, int64(len(e.body)))
		}
		return true
	})
}

var errSegmentGone = errors.New("segment is no longer kept")

// ReadAt reads from the file for as long as the segment is kept.
func (s *segment) ReadAt(p []byte, off int64) (int, error) {
	s.rw.RLock()
	defer s.rw.RUnlock()
	if s.f == nil {
		return 0, errSegmentGone
	}
	return s.f.ReadAt(p, off)
}

func (s *segment) close() {
	s.rw.Lock()
	defer s.rw.Unlock()
	if s.f != nil {
		s.f.Close()
		s.f = nil
	}
}

func newPreamble(number uint32, id [16]byte) []byte {
	p := make([]byte, preambleSize)
	copy(p, preambleMagic)
	le.PutUint32(p[8:], number)
	copy(p[16:], id[:])
	rand.Read(p[32:48])
	le.PutUint32(p[60:], crc32.Checksum(p[:60], castagnoli))
	return p
}

// readPreamble returns the seed, or ok false when p is no preamble of that segment.
func readPreamble(p []byte, number uint32) (seed uint32, id [16]byte, ok bool) {
	if len(p) < preambleSize || string(p[:8]) != string(preambleMagic) || le.Uint32(p[8:]) != number {
		return 0, id, false
	}
	seed = le.Uint32(p[60:])
	copy(id[:], p[16:32])
	return seed, id, seed == crc32.Checksum(p[:60], castagnoli)
}

// createSegment makes a file with a durable preamble; its name is durable only after SyncDir.
func createSegment(fs FS, path string, number uint32, id [16]byte, allocate int64) (*segment, error) {
	f, err := fs.Create(path)
	if isExist(err) { // a leftover that holds no facts, or its number would be taken
		if err = fs.Remove(path); err == nil {
			f, err = fs.Create(path)
		}
	}
	if err != nil {
		return nil, err
	}
	s := &segment{number: number, path: path, f: f}
	if allocate > 0 && f.Allocate(allocate) == nil {
		s.allocated.Store(allocate)
	}
	p := newPreamble(number, id)
	s.seed, _, _ = readPreamble(p, number)
	_, err = f.WriteAt(p, 0)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		_ = fs.Remove(path)
		return nil, err
	}
	return s, nil
}

// fill writes zeros behind the preamble, over what is only allocated: the first write of a block makes a sync write
// metadata too, which costs several times the sync of a block that was written before. It ends early when quit is closed.
func (s *segment) fill(size int64, quit <-chan struct{}) error {
	zeros := make([]byte, fillPiece)
	for at := int64(preambleSize); at < size; at += fillPiece {
		select {
		case <-quit:
			return nil
		default:
		}
		if _, err := s.f.WriteAt(zeros[:min(fillPiece, size-at)], at); err != nil {
			return err
		}
		if err := s.f.Sync(); err != nil { // piece by piece, so that the live segment's syncs find no heap before them
			return err
		}
	}
	s.written = s.allocated.Load() >= size
	return nil
}

// openSegment opens a file that is there. ok is false when its preamble does not hold.
func openSegment(fs FS, dir string, number uint32, write bool) (s *segment, id [16]byte, ok bool, err error) {
	s = &segment{number: number, path: filepath.Join(dir, segmentName(number))}
	if s.f, err = fs.Open(s.path, write); err != nil {
		return nil, id, false, err
	}
	size, err := s.f.Size()
	if err != nil {
		s.f.Close()
		return nil, id, false, err
	}
	s.allocated.Store(size)
	p := make([]byte, preambleSize)
	n, err := s.f.ReadAt(p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		s.f.Close()
		return nil, id, false, err
	}
	s.seed, id, ok = readPreamble(p[:n], number)
	if !ok {
		return s, id, false, nil
	}
	file := s.f
	if s.f, err = openCompact(file, size, s.seed); err != nil {
		file.Close()
		return nil, id, false, err
	}
	if c, is := s.f.(*compact); is {
		s.allocated.Store(int64(c.end))
		s.stripped, s.freed = c.before, int64(c.end)-size
	}
	return s, id, true, nil
}
