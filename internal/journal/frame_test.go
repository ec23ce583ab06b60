package journal

import (
	"bytes"
	"hash/crc32"
	"testing"
	"time"
)

// FuzzFrame: what is read as a frame is what would be written for it, byte for byte.
func FuzzFrame(f *testing.F) {
	j := &Journal{}
	j.opt.Now = time.Now
	for _, flags := range []uint32{0, flagSeal, flagClosed} {
		for _, entries := range [][]Entry{nil, entriesOf([]string{"a", "b"}, false), {{Kind: 200}, {Kind: 32, Body: []byte{}}}} {
			b := newBatch(nil)
			for i := range entries {
				b.add(uint64(7+3*i), &entries[i])
			}
			b.digests()
			p := j.encode(&segment{number: 3}, b, &frame{header: header{offset: 64, acked: 64, flags: flags}, seal: seal{segment: 2, end: 99}})
			f.Add(p)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := getHeader(p)
		if err != nil || int(h.length) > len(p)-headerSize {
			return
		}
		p = p[:headerSize+int(h.length)]
		le.PutUint32(p[headerSize-4:], checksumOf(p)) // a fuzzer guesses no checksums
		got, err := parseFrame(p, h.segment, h.offset, 0)
		if err != nil {
			return
		}
		if again := encodeAgain(&got, p); !bytes.Equal(again, p) {
			t.Fatalf("read  %x\nwrote %x", p, again)
		}
	})
}

// checksumOf computes what belongs into p, which may be no frame at all.
func checksumOf(p []byte) uint32 {
	crc := crc32.Update(0, castagnoli, p[:headerSize-4])
	h, _ := getHeader(p)
	f := frame{header: h, entries: p[headerSize:]}
	if h.flags&flagSeal != 0 {
		if len(f.entries) < sealSize {
			return 0
		}
		crc = crc32.Update(crc, castagnoli, f.entries[:sealSize])
		f.entries = f.entries[sealSize:]
	}
	crc, _ = f.check(crc)
	return crc
}

func encodeAgain(f *frame, p []byte) []byte {
	out := make([]byte, headerSize)
	putHeader(out, &f.header)
	if f.flags&flagSeal != 0 {
		out = append(out, make([]byte, sealSize)...)
		putSeal(out[headerSize:], &f.seal)
	}
	f.each(func(e *rawEntry) bool {
		w := Entry{Kind: e.kind, Fact: e.fact}
		if e.hasBody {
			w.Body, w.BodyUntil = e.body, time.Unix(0, e.until)
		}
		var body int
		if out, body = appendEntry(out, e.seq, &w); e.hasBody {
			copy(out[body-digestSize:], e.digest)
		}
		return true
	})
	le.PutUint32(out[headerSize-4:], le.Uint32(p[headerSize-4:]))
	return out
}

// TestFrameInBody: an agent that puts the bytes of a frame into a body makes no fact, and no damage, of them.
func TestFrameInBody(t *testing.T) {
	fs := newFaultFS()
	j, err := Open(Options{Dir: "d", FS: fs, Segment: 8192}, func(Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	add(t, j, entriesOf([]string{"a"}, false)...)
	fs.mu.Lock()
	copied := bytes.TrimRight(fs.names[segmentName(1)].cache, "\x00")
	copied = append(bytes.Clone(copied[preambleSize:]), 0)
	fs.mu.Unlock()
	add(t, j, Entry{Kind: 32, Fact: []byte("b"), Body: copied, BodyUntil: farOff})
	fs.mu.Lock()
	fs.names[segmentName(1)].cache[len(copied)+preambleSize+headerSize] ^= 1 // the frame with that body is torn
	fs.mu.Unlock()
	fs.mu.Lock()
	dead := fs.killed()
	fs.mu.Unlock()
	var facts []string
	k, err := Open(Options{Dir: "d", FS: dead, Segment: 8192}, func(e Stored) error { facts = append(facts, string(e.Fact)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(facts) != 1 || facts[0] != "a" {
		t.Fatalf("facts %q", facts)
	}
	shut(t, k)
	shut(t, j)
}
