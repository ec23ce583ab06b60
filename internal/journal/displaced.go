package journal

import "bytes"

// Displaced looks behind the last frame for whole ones that stand where they were not written. A crash tears what was
// being written and moves nothing: something before them was taken out or put in. It fails with ErrCorrupt.
func (r *Reader) Displaced() error {
	x := r.spans[len(r.spans)-1]
	f := frames{s: x.s, limit: x.s.allocated.Load()}
	for off := int64(x.end); off < f.limit; {
		p, err := f.view(off, readAhead)
		if err != nil {
			return err
		}
		i := bytes.Index(p, frameMagic)
		if i < 0 {
			off += int64(max(1, len(p)-len(frameMagic)+1))
			continue
		}
		off += int64(i)
		moved, err := f.moved(off)
		if err != nil {
			return err
		}
		if moved {
			return corruptAt(x.s, int64(x.end), "the frame at %d was not written there: something before it was taken out or put in", off)
		}
		off++
	}
	return nil
}

// moved reports whether a frame that holds stands at off and says that it was written elsewhere.
func (r *frames) moved(off int64) (bool, error) {
	p, err := r.view(off, headerSize)
	if err != nil {
		return false, err
	}
	h, err := getHeader(p)
	if err != nil || int64(h.offset) == off || int64(h.length) > r.limit-off-headerSize {
		return false, nil
	}
	if p, err = r.view(off, headerSize+int64(h.length)); err != nil {
		return false, err
	}
	_, err = parseFrame(p, r.s.number, h.offset, r.s.seed)
	return err == nil, nil
}
