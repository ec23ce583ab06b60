package store

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// index finds ended calls by key: where in the journal the call stands and until when it counts. It lives outside the
// Go heap, in 24 bytes a slot and at most 32 bytes a key, so that millions of keys cost the collector nothing.
//
// It keeps 64 bits of a hash of the key whose seed only this process knows: nobody can make two keys meet. What is
// found is verified against the full key in the journal nevertheless, while the body is there. It has no lock of its own.
type index struct {
	seed   maphash.Seed
	shards [indexShards]shard
	count  int
	hand   int // shard that sweep goes on with
	at     int // and the slot
}

const (
	indexShards = 256
	slotSize    = 24
	pageSize    = 4096
	growAt      = 9 // a shard grows by an eighth when it is fuller than nine tenths
)

// place is what the index says of a key.
type place struct {
	at        journal.Location // zero: the body has gone
	expires   time.Time        // to the millisecond, rounded up
	tombstone bool
}

// shard is an open-addressing table: a slot is the first free one behind where its hash belongs.
//
//	0  7  the low 56 bits of the hash, big endian
//	7  5  tombstone (1 bit) and milliseconds since indexEpoch (39 bits); 0: the slot is free
//	12 12 segment, offset, length
type shard struct {
	mem   []byte // a whole number of pages
	slots int
	count int
}

var indexEpoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

const expiryMask = 1<<39 - 1

func newIndex() *index { return &index{seed: maphash.MakeSeed()} }

func (x *index) hash(k dedup.Key) (*shard, uint64) {
	h := maphash.Bytes(x.seed, k[:])
	return &x.shards[h>>56], h & (1<<56 - 1)
}

// get finds a key.
func (x *index) get(k dedup.Key) (place, bool) {
	s, tag := x.hash(k)
	if i := s.find(tag); i >= 0 {
		return s.place(i), true
	}
	return place{}, false
}

// put sets what is known of a key, and looks at a few other slots for what has expired.
func (x *index) put(k dedup.Key, p place, now time.Time) {
	s, tag := x.hash(k)
	i := s.find(tag)
	if i < 0 {
		s.makeRoom()
		i = s.free(tag)
		s.count++
		x.count++
	}
	s.set(i, tag, &p)
	x.sweep(now, 4)
}

// remove forgets a key.
func (x *index) remove(k dedup.Key) {
	s, tag := x.hash(k)
	if i := s.find(tag); i >= 0 {
		s.remove(i)
		x.count--
	}
}

// sweep looks at the next n slots and drops those that have expired.
func (x *index) sweep(now time.Time, n int) {
	limit := uint64(max(now.UnixMilli()-indexEpoch, 0))
	for ; n > 0; n-- {
		s := &x.shards[x.hand]
		if x.at >= s.slots {
			x.hand, x.at = (x.hand+1)%indexShards, 0
			continue
		}
		if e := s.expiry(x.at) & expiryMask; e != 0 && e <= limit {
			s.remove(x.at) // what moves here is looked at next
			x.count--
			continue
		}
		x.at++
	}
}

// sweepAll drops everything that has expired and gives memory back.
func (x *index) sweepAll(now time.Time) {
	x.hand, x.at = 0, 0
	for i := range x.shards {
		s := &x.shards[i]
		x.hand, x.at = i, 0
		for x.at < s.slots && x.hand == i {
			x.sweep(now, s.slots-x.at)
		}
		if s.count*2 < s.slots && len(s.mem) > pageSize {
			s.resize(s.count + s.count/4)
		}
	}
}

// size is the memory that the index takes, in bytes.
func (x *index) size() (n int) {
	for i := range x.shards {
		n += len(x.shards[i].mem)
	}
	return n
}

func (x *index) close() {
	for i := range x.shards {
		freePages(x.shards[i].mem)
		x.shards[i] = shard{}
	}
	x.count = 0
}

func (s *shard) slot(i int) []byte { return s.mem[i*slotSize : (i+1)*slotSize] }

// tag is what a slot keeps of its key, in the upper bytes of one load.
func (s *shard) tag(i int) uint64 { return binary.BigEndian.Uint64(s.mem[i*slotSize:]) >> 8 }

func (s *shard) expiry(i int) uint64 {
	return binary.BigEndian.Uint64(s.mem[i*slotSize+4:]) & (1<<40 - 1)
}

// home is where a hash belongs: hashes keep their order, so that growing moves little.
func (s *shard) home(tag uint64) int {
	hi, _ := bits.Mul64(tag<<8, uint64(s.slots))
	return int(hi)
}

func (s *shard) find(tag uint64) int {
	if s.slots == 0 {
		return -1
	}
	for i := s.home(tag); s.expiry(i) != 0; i = s.next(i) {
		if s.tag(i) == tag {
			return i
		}
	}
	return -1
}

func (s *shard) free(tag uint64) int {
	i := s.home(tag)
	for s.expiry(i) != 0 {
		i = s.next(i)
	}
	return i
}

func (s *shard) next(i int) int {
	if i++; i == s.slots {
		return 0
	}
	return i
}

func (s *shard) set(i int, tag uint64, p *place) {
	ms := uint64(min(max(p.expires.Add(time.Millisecond-1).UnixMilli()-indexEpoch, 1), expiryMask))
	if p.tombstone {
		ms |= 1 << 39
	}
	b := s.slot(i)
	binary.BigEndian.PutUint64(b[4:], ms) // its upper three bytes are the tag's
	binary.BigEndian.PutUint64(b, tag<<8|ms>>32)
	binary.LittleEndian.PutUint32(b[12:], p.at.Segment)
	binary.LittleEndian.PutUint32(b[16:], p.at.Offset)
	binary.LittleEndian.PutUint32(b[20:], p.at.Length)
}

func (s *shard) place(i int) place {
	b, e := s.slot(i), s.expiry(i)
	return place{
		at: journal.Location{
			Segment: binary.LittleEndian.Uint32(b[12:]), Offset: binary.LittleEndian.Uint32(b[16:]), Length: binary.LittleEndian.Uint32(b[20:]),
		},
		expires:   time.UnixMilli(int64(e&expiryMask) + indexEpoch).UTC(),
		tombstone: e>>39 != 0,
	}
}

// remove empties a slot and moves back what only stood behind it because it was taken.
func (s *shard) remove(i int) {
	s.count--
	for j := s.next(i); s.expiry(j) != 0; j = s.next(j) {
		if home := s.home(s.tag(j)); (j-home+s.slots)%s.slots >= (j-i+s.slots)%s.slots {
			copy(s.slot(i), s.slot(j))
			i = j
		}
	}
	clear(s.slot(i))
}

func (s *shard) makeRoom() {
	if (s.count+1)*10 > s.slots*growAt {
		s.resize(s.slots + s.slots/8 + 1)
	}
}

// resize gives the shard at least so many slots, in whole pages.
func (s *shard) resize(slots int) {
	bytes := (slots*slotSize + pageSize - 1) / pageSize * pageSize
	bytes = max(bytes, pageSize)
	next := shard{mem: allocPages(bytes), slots: bytes / slotSize, count: s.count}
	for i := range s.slots {
		if s.expiry(i) != 0 {
			copy(next.slot(next.free(s.tag(i))), s.slot(i))
		}
	}
	freePages(s.mem)
	*s = next
}
