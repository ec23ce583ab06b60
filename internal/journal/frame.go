package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"math"
	"time"
)

// A frame is one commit: a header, in the first frame of a segment a seal, then the entries. All integers are
// little-endian.
//
//	header  magic 8, segment 4, offset 4, acknowledged 4, length 4, first sequence 8, entries 4, flags 4,
//	        time 8 (Unix, ns), chain 32, CRC 4
//	seal    segment 4, end 4, last sequence 8, last time 8, chain 32: of the segment before
//	entry   kind 1, flags 1, fact's length 4, sequence 8 [body's length 4, until 8 (Unix, ns)] fact [SHA-256 of body 32, body]
//
// Offset is where the frame itself stands; acknowledged is the offset below which everything was durable when it was
// written, which is the same unless durability is process. The CRC-32C covers everything but bodies, which have their
// digests, and is seeded with the segment's preamble, which is random: bytes that were left by another segment, or that
// an agent put into a body, are no frame. The chain is SHA-256 over the chain before, first sequence, count, time and
// the entries without their bodies; a frame without entries leaves it as it is, and where a frame stands does not
// enter, so that recovery can write it again elsewhere.
const (
	headerSize = 84
	sealSize   = 56
	frameRoom  = headerSize + sealSize // left free in front of a batch
	entrySize  = 14
	bodyExtra  = 12
	digestSize = sha256.Size
)

const (
	flagSeal     = 1 << iota // first frame of a segment
	flagClosed               // written by Close
	flagUnsynced             // durability is process
	knownFlags   = flagSeal | flagClosed | flagUnsynced
)

const entryHasBody = 1

var (
	frameMagic = []byte("\xc7oolog\x1a\n")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

type header struct {
	segment, offset, acked uint32
	length                 uint32 // of what follows the header
	first                  uint64 // sequence number of the first entry; of the next one when there is none
	count, flags           uint32
	time                   int64
	chain                  [32]byte // after this frame
}

// seal says where the segment before ends and what it ended with. The zero seal begins a journal.
type seal struct {
	segment, end uint32
	last         uint64 // sequence number
	time         int64
	chain        [32]byte
}

type frame struct {
	header
	seal    seal
	entries []byte // as they stand on disk
	at      uint32 // offset of entries in the segment
}

func (f *frame) end() uint32 { return f.offset + headerSize + f.length }

// rawEntry is one entry inside a frame. Its slices are the frame's.
type rawEntry struct {
	kind    Kind
	seq     uint64
	fact    []byte
	hasBody bool
	until   int64
	digest  []byte
	body    []byte
	bodyAt  int // offset of body in frame.entries
}

var errNoFrame = errors.New("no frame")

func putHeader(p []byte, h *header) {
	copy(p, frameMagic)
	le.PutUint32(p[8:], h.segment)
	le.PutUint32(p[12:], h.offset)
	le.PutUint32(p[16:], h.acked)
	le.PutUint32(p[20:], h.length)
	le.PutUint64(p[24:], h.first)
	le.PutUint32(p[32:], h.count)
	le.PutUint32(p[36:], h.flags)
	le.PutUint64(p[40:], uint64(h.time))
	copy(p[48:80], h.chain[:])
}

func getHeader(p []byte) (h header, err error) {
	if len(p) < headerSize || !bytes.Equal(p[:8], frameMagic) {
		return h, errNoFrame
	}
	h = header{
		segment: le.Uint32(p[8:]), offset: le.Uint32(p[12:]), acked: le.Uint32(p[16:]), length: le.Uint32(p[20:]),
		first: le.Uint64(p[24:]), count: le.Uint32(p[32:]), flags: le.Uint32(p[36:]), time: int64(le.Uint64(p[40:])),
	}
	copy(h.chain[:], p[48:80])
	return h, nil
}

func putSeal(p []byte, s *seal) {
	le.PutUint32(p, s.segment)
	le.PutUint32(p[4:], s.end)
	le.PutUint64(p[8:], s.last)
	le.PutUint64(p[16:], uint64(s.time))
	copy(p[24:56], s.chain[:])
}

func getSeal(p []byte) (s seal) {
	s = seal{segment: le.Uint32(p), end: le.Uint32(p[4:]), last: le.Uint64(p[8:]), time: int64(le.Uint64(p[16:]))}
	copy(s.chain[:], p[24:56])
	return s
}

// appendEntry encodes an entry; room is left for the digest of its body, which starts at the offset returned.
func appendEntry(p []byte, seq uint64, e *Entry) (out []byte, body int) {
	flags := byte(0)
	if e.Body != nil {
		flags = entryHasBody
	}
	p = append(p, byte(e.Kind), flags)
	p = le.AppendUint32(p, uint32(len(e.Fact)))
	p = le.AppendUint64(p, seq)
	if e.Body == nil {
		return append(p, e.Fact...), 0
	}
	p = le.AppendUint32(p, uint32(len(e.Body)))
	p = le.AppendUint64(p, uint64(untilOf(e.BodyUntil)))
	p = append(p, e.Fact...)
	p = append(p, make([]byte, digestSize)...)
	return append(p, e.Body...), len(p)
}

// untilOf is the time in Unix nanoseconds; without one, or past the year 2262, a body is kept for as long as there is room.
func untilOf(t time.Time) int64 {
	switch {
	case t.IsZero(), t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	}
	return t.UnixNano()
}

// nextEntry splits the first entry off p. at is the offset of p in the frame's entries.
func nextEntry(p []byte, at int) (e rawEntry, n int, err error) {
	if len(p) < entrySize || p[1] > entryHasBody {
		return e, 0, errNoFrame
	}
	e.kind, e.hasBody, e.seq = Kind(p[0]), p[1] == entryHasBody, le.Uint64(p[6:])
	fact, n := uint64(le.Uint32(p[2:])), entrySize
	need, body := uint64(n)+fact, uint64(0)
	if e.hasBody {
		if len(p) < entrySize+bodyExtra {
			return e, 0, errNoFrame
		}
		body, e.until = uint64(le.Uint32(p[14:])), int64(le.Uint64(p[18:]))
		n += bodyExtra
		need += bodyExtra + digestSize + body
	}
	if e.kind == 0 || need > uint64(len(p)) {
		return e, 0, errNoFrame
	}
	e.fact = p[n : n+int(fact) : n+int(fact)]
	n += int(fact)
	if e.hasBody {
		e.digest, e.body, e.bodyAt = p[n:n+digestSize], p[n+digestSize:need], at+n+digestSize
	}
	return e, int(need), nil
}

// each calls yield with every entry of a frame that was parsed.
func (f *frame) each(yield func(*rawEntry) bool) {
	for at := 0; at < len(f.entries); {
		e, n, err := nextEntry(f.entries[at:], at)
		if err != nil || !yield(&e) {
			return
		}
		at += n
	}
}

// parseFrame reads the frame at the start of p, which stands at offset in the segment with that number and seed.
// It checks all but bodies and chain. What it returns shares p.
func parseFrame(p []byte, number, offset, seed uint32) (f frame, err error) {
	h, err := getHeader(p)
	if err != nil {
		return f, err
	}
	rest := p[headerSize:]
	if h.segment != number || h.offset != offset || h.acked > h.offset || h.flags&^knownFlags != 0 ||
		uint64(h.length) > uint64(len(rest)) {
		return f, errNoFrame
	}
	f = frame{header: h, entries: rest[:h.length], at: offset + headerSize}
	crc := crc32.Update(seed, castagnoli, p[:headerSize-4])
	if h.flags&flagSeal != 0 {
		if len(f.entries) < sealSize {
			return f, errNoFrame
		}
		crc = crc32.Update(crc, castagnoli, f.entries[:sealSize])
		f.seal, f.entries, f.at = getSeal(f.entries), f.entries[sealSize:], f.at+sealSize
	}
	crc, err = f.check(crc)
	if err != nil || crc != le.Uint32(p[headerSize-4:]) {
		return f, errNoFrame
	}
	return f, nil
}

// check walks the entries and goes on with the CRC over all but bodies.
func (f *frame) check(crc uint32) (uint32, error) {
	last, count := uint64(0), uint32(0)
	for at := 0; at < len(f.entries); count++ {
		e, n, err := nextEntry(f.entries[at:], at)
		if err != nil {
			return 0, err
		}
		if count == 0 && e.seq != f.first || count > 0 && e.seq <= last {
			return 0, errNoFrame
		}
		crc = crc32.Update(crc, castagnoli, f.entries[at:at+n-len(e.body)])
		last, at = e.seq, at+n
	}
	if count != f.count {
		return 0, errNoFrame
	}
	return crc, nil
}

// lastSeq is the sequence number of the newest entry, or of the one before the frame when it is empty.
func (f *frame) lastSeq() uint64 {
	last := f.first - 1
	f.each(func(e *rawEntry) bool { last = e.seq; return true })
	return last
}

// bodiesHold reports whether every body is what its digest says, but for those that could go by gone (Unix, ns).
func (f *frame) bodiesHold(gone int64) bool {
	ok := true
	f.each(func(e *rawEntry) bool {
		ok = !e.hasBody || e.until <= gone || holds(e.body, e.digest)
		return ok
	})
	return ok
}

func holds(body, digest []byte) bool {
	sum := sha256.Sum256(body)
	return bytes.Equal(sum[:], digest)
}

// chaining computes chain values without allocating.
type chaining struct {
	h   hash.Hash
	buf [52]byte
}

// begin starts the chain value of a frame; pieces of the entries without their bodies are then written to c.h.
func (c *chaining) begin(before *[32]byte, first uint64, count uint32, time int64) {
	if c.h == nil {
		c.h = sha256.New()
	}
	c.h.Reset()
	copy(c.buf[:32], before[:])
	le.PutUint64(c.buf[32:], first)
	le.PutUint32(c.buf[40:], count)
	le.PutUint64(c.buf[44:], uint64(time))
	c.h.Write(c.buf[:])
}

// after is the chain value after f, computed anew from its entries.
func (c *chaining) after(before [32]byte, f *frame) (out [32]byte) {
	if f.count == 0 {
		return before
	}
	c.begin(&before, f.first, f.count, f.time)
	for at := 0; at < len(f.entries); {
		e, n, err := nextEntry(f.entries[at:], at)
		if err != nil {
			break // parseFrame has seen them all
		}
		c.h.Write(f.entries[at : at+n-len(e.body)])
		at += n
	}
	c.h.Sum(out[:0])
	return out
}
