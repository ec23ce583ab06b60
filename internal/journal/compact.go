package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
)

// A compact segment is a sealed one without bodies that have been given up. It keeps every other byte, and every
// offset: a table behind the bytes says where in the file each run of them stands, and what is missing reads as zeros.
// So seals, checksums, chain and Locations of bodies that are still there hold as before.
//
//	kept runs
//	table   offset in the segment 4, offset in the file 4, for each run, ascending
//	footer  magic 8, runs 4, end of the segment 4, bodies gone that could go at 8 (Unix, ns), CRC 4 of table and footer
//
// The CRC is seeded with the preamble's, so that a body at the end of a plain segment cannot pass for a footer.
const (
	footerSize = 28
	runSize    = 8
)

var footerMagic = []byte("oologcut")

// run is a stretch of kept bytes. It reaches to the next run's place in the file.
type run struct{ at, in uint32 }

// compact reads a compact segment as if nothing were missing.
type compact struct {
	File
	runs   int
	table  int64  // where the table stands in the file, and the last run ends
	end    uint32 // of the segment
	before int64
}

// openCompact returns f itself when it is no compact segment.
func openCompact(f File, size int64, seed uint32) (File, error) {
	var foot [footerSize]byte
	if size < preambleSize+footerSize {
		return f, nil
	}
	if _, err := f.ReadAt(foot[:], size-footerSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(foot[:8]) != string(footerMagic) {
		return f, nil
	}
	c := &compact{File: f, runs: int(le.Uint32(foot[8:])), end: le.Uint32(foot[12:]), before: int64(le.Uint64(foot[16:]))}
	c.table = size - footerSize - int64(c.runs)*runSize
	if c.table < preambleSize {
		return f, nil
	}
	p := make([]byte, c.runs*runSize)
	if _, err := f.ReadAt(p, c.table); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if footerSum(seed, p, foot[:]) != le.Uint32(foot[24:]) {
		return f, nil // its frames will say that it is damaged
	}
	return c, nil
}

func footerSum(seed uint32, table, foot []byte) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, table), castagnoli, foot[:24])
}

func (c *compact) Size() (int64, error) { return int64(c.end), nil }

// ReadAt looks its runs up in the file, so that a compact segment takes no memory.
func (c *compact) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= int64(c.end) {
		return 0, io.EOF
	}
	if over := off + int64(len(p)) - int64(c.end); over > 0 {
		p, err = p[:int64(len(p))-over], io.EOF
	}
	clear(p)
	first := sort.Search(c.runs, func(i int) bool {
		r, e := c.runsFrom(i, 1)
		if e != nil {
			err = e
		}
		return e != nil || int64(r[0].at) > off
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if e := c.fill(p, off, max(first-1, 0)); e != nil {
		return 0, e
	}
	return len(p), err
}

// fill copies what the runs from i on have of the range.
func (c *compact) fill(p []byte, off int64, i int) error {
	const chunk = 512
	for ; i < c.runs; i += chunk {
		runs, err := c.runsFrom(i, chunk+1)
		if err != nil {
			return err
		}
		for k, r := range runs[:min(chunk, len(runs))] {
			if int64(r.at) >= off+int64(len(p)) {
				return nil
			}
			in, end := int64(r.in), c.table
			if k+1 < len(runs) {
				end = int64(runs[k+1].in)
			}
			from, to := int64(r.at), int64(r.at)+end-in
			if skip := off - from; skip > 0 {
				from, in = off, in+skip
			}
			to = min(to, off+int64(len(p)))
			if from >= to {
				continue
			}
			if _, err := c.File.ReadAt(p[from-off:to-off], in); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
	}
	return nil
}

func (c *compact) runsFrom(i, n int) ([]run, error) {
	n = min(n, c.runs-i)
	p := make([]byte, n*runSize)
	if _, err := c.File.ReadAt(p, c.table+int64(i)*runSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	runs := make([]run, n)
	for k := range runs {
		runs[k] = run{le.Uint32(p[k*runSize:]), le.Uint32(p[k*runSize+4:])}
	}
	return runs, nil
}

// compactor writes the compact form of a segment.
type compactor struct {
	f   File
	buf []byte
	at  int64 // written to f so far
	to  int64 // in the segment: what was last kept ends here
	tab []byte
}

// keep copies bytes that stand at off in the segment.
func (c *compactor) keep(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if off != c.to || len(c.tab) == 0 {
		c.tab = le.AppendUint32(c.tab, uint32(off))
		c.tab = le.AppendUint32(c.tab, uint32(c.at+int64(len(c.buf))))
	}
	c.to = off + int64(len(p))
	c.buf = append(c.buf, p...)
	if len(c.buf) < readAhead {
		return nil
	}
	return c.flush()
}

func (c *compactor) flush() error {
	_, err := c.f.WriteAt(c.buf, c.at)
	c.at += int64(len(c.buf))
	c.buf = c.buf[:0]
	return err
}

func (c *compactor) finish(seed, end uint32, before int64) error {
	foot := make([]byte, 0, footerSize)
	foot = append(foot, footerMagic...)
	foot = le.AppendUint32(foot, uint32(len(c.tab)/runSize))
	foot = le.AppendUint32(foot, end)
	foot = le.AppendUint64(foot, uint64(before))
	foot = le.AppendUint32(foot, footerSum(seed, c.tab, foot))
	c.buf = append(append(c.buf, c.tab...), foot...)
	if err := c.flush(); err != nil {
		return err
	}
	return c.f.Sync()
}

// copyWithout writes s up to end to f, without the bodies that could go at before. It reports the file's size.
func copyWithout(f File, s *segment, end uint32, before int64) (int64, error) {
	c := compactor{f: f}
	p := make([]byte, preambleSize)
	if _, err := s.ReadAt(p, 0); err != nil {
		return 0, err
	}
	if err := c.keep(p, 0); err != nil {
		return 0, err
	}
	r := frames{s: s, limit: int64(end)}
	for off := int64(preambleSize); off < r.limit; {
		f, err := r.read(off)
		if err != nil {
			return 0, damaged(s, off, err)
		}
		next := int64(f.end())
		p, err := r.view(off, next-off)
		if err != nil {
			return 0, err
		}
		if err := c.frame(&f, p, before); err != nil {
			return 0, err
		}
		off = next
	}
	if err := c.finish(s.seed, end, before); err != nil {
		return 0, fmt.Errorf("write %s without expired bodies: %w", s.path, err)
	}
	return c.at, nil
}

// frame keeps p, the bytes of f, but for its expired bodies.
func (c *compactor) frame(f *frame, p []byte, before int64) (err error) {
	from, base := 0, int64(f.offset)
	f.each(func(e *rawEntry) bool {
		if !e.hasBody || e.until > before {
			return true
		}
		at := int(f.at-f.offset) + e.bodyAt
		err = c.keep(p[from:at], base+int64(from))
		from = at + len(e.body)
		return err == nil
	})
	if err != nil {
		return err
	}
	return c.keep(p[from:], base+int64(from))
}
