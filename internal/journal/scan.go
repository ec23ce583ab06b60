package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const readAhead = 256 << 10

// frames reads frames one after the other. What it returns is valid until its next step.
type frames struct {
	s     *segment
	limit int64 // nothing behind it is looked at
	buf   []byte
	at    int64 // where buf stands
}

// view returns n bytes from off on; fewer at the limit or the end of the file.
func (r *frames) view(off, n int64) ([]byte, error) {
	n = max(min(n, r.limit-off), 0)
	if off >= r.at && off+n <= r.at+int64(len(r.buf)) {
		return r.buf[off-r.at : off-r.at+n], nil
	}
	want := max(min(max(n, readAhead), r.limit-off), 0)
	if int64(cap(r.buf)) < want {
		r.buf = make([]byte, want)
	}
	got, err := r.s.ReadAt(r.buf[:want], off)
	r.buf, r.at = r.buf[:got], off
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s at %d: %w", r.s.path, off, err)
	}
	return r.buf[:min(n, int64(got))], nil
}

// read returns the frame at off; errNoFrame when there is none.
func (r *frames) read(off int64) (frame, error) { return r.parse(off, true) }

// parse reads the frame at off; it need not say that it stands there unless placed.
func (r *frames) parse(off int64, placed bool) (frame, error) {
	p, err := r.view(off, headerSize)
	if err != nil {
		return frame{}, err
	}
	h, err := getHeader(p)
	if err != nil {
		return frame{}, err
	}
	if int64(h.length) > r.limit-off-headerSize {
		return frame{}, errNoFrame
	}
	if p, err = r.view(off, headerSize+int64(h.length)); err != nil {
		return frame{}, err
	}
	if placed {
		h.offset = uint32(off)
	}
	return parseFrame(p, r.s.number, h.offset, r.s.seed)
}

// later looks behind from for a frame that acknowledges an offset beyond it. It counts wherever it stands, so that
// bytes that are missing show too. A copy of a frame inside a body does not count: the write that may be torn here
// can only hold copies of frames before it.
func (r *frames) later(from int64) (at int64, found bool, err error) {
	for off := from + 1; off < r.limit; {
		p, err := r.view(off, readAhead)
		if err != nil {
			return 0, false, err
		}
		i := bytes.Index(p, frameMagic)
		switch {
		case i < 0 && len(p) < len(frameMagic):
			return 0, false, nil
		case i < 0:
			off += int64(len(p) - len(frameMagic) + 1)
			continue
		}
		off += int64(i)
		f, err := r.parse(off, false)
		if err == nil && int64(f.acked) > from {
			return off, true, nil
		}
		if err != nil && !errors.Is(err, errNoFrame) {
			return 0, false, err
		}
		off++
	}
	return 0, false, nil
}

// zeros reports whether nothing but zeros stands from off on.
func (r *frames) zeros(off int64) (bool, error) {
	for off < r.limit {
		p, err := r.view(off, readAhead)
		if err != nil {
			return false, err
		}
		if len(p) == 0 {
			break
		}
		if len(bytes.TrimLeft(p, "\x00")) > 0 {
			return false, nil
		}
		off += int64(len(p))
	}
	return true, nil
}

// corruptAt is the error for damage that no lost power explains.
func corruptAt(s *segment, off int64, what string, args ...any) error {
	return fmt.Errorf("%w: %s at offset %d: %s; keep a copy of the directory, then restore it from a backup, "+
		"or move it away to start with an empty journal (what ran before is then forgotten)",
		ErrCorrupt, s.path, off, fmt.Sprintf(what, args...))
}
