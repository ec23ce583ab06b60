package proxy

import (
	"strconv"
	"time"
)

// maxSizeDigits bounds a chunk's size line; eight digits are 4 GiB.
const maxSizeDigits = 8

// readChunked clears what the buffer holds of a chunked body, reading more when that is nothing.
func (g *gate) readChunked(c *conn) error {
	for {
		progress, err := g.step(c)
		if err != nil || g.phase == atEnd || g.clear > 0 && !progress {
			return err
		}
		if progress {
			continue
		}
		if err := c.fill(len(c.buf), time.Now().Add(bodyTimeout)); err != nil {
			return cut(err)
		}
	}
}

// step clears the next piece: a size line with its chunk's first bytes to come, or bytes of a chunk.
func (g *gate) step(c *conn) (progress bool, err error) {
	b := c.buf[c.r+g.clear : c.w]
	if g.phase == inChunk {
		return g.stepChunk(b)
	}
	size, n, f := parseSize(b)
	if f != nil || n == 0 {
		return false, asError(f)
	}
	if size == 0 {
		return g.stepEnd(b, n)
	}
	if g.body += size; g.body > g.limit {
		return false, tooLarge(g.limit)
	}
	if f := c.hold(g.body); f != nil {
		return false, f
	}
	g.clear += n
	g.phase, g.left = inChunk, size+2
	return true, nil
}

// stepChunk clears bytes of a chunk; its last two are CRLF.
func (g *gate) stepChunk(b []byte) (bool, error) {
	n := int(min(int64(len(b)), g.left))
	for i := n - 1; i >= 0 && g.left-int64(i) <= 2; i-- {
		if b[i] != "\n\r"[g.left-int64(i)-1] {
			return false, malformed("A chunk does not end in CRLF where its size says.")
		}
	}
	g.clear += n
	if g.left -= int64(n); g.left == 0 {
		g.phase = inSize
	}
	return n > 0, nil
}

// stepEnd clears the last chunk once the empty line behind it is there.
func (g *gate) stepEnd(b []byte, n int) (bool, error) {
	for i := n; i < min(len(b), n+2); i++ {
		if b[i] != "\r\n"[i-n] {
			return false, malformed("There is something behind the last chunk; trailers are not accepted.")
		}
	}
	if len(b) < n+2 {
		return false, nil
	}
	g.clear += n + 2
	g.phase = atEnd
	return true, nil
}

// parseSize reads a chunk's size line: hex digits and CRLF, nothing else. n is the line's length, 0 while it is not
// all there.
func parseSize(b []byte) (size int64, n int, f *fault) {
	for i, c := range b {
		v := hexValue(c)
		switch {
		case v >= 0 && i < maxSizeDigits:
			size = size<<4 | int64(v)
			continue
		case c != '\r' || i == 0:
			return 0, 0, malformed("A chunk's size is not a plain hexadecimal number; extensions are not accepted.")
		case i+1 == len(b):
			return 0, 0, nil
		case b[i+1] != '\n':
			return 0, 0, malformed("A chunk's size line does not end in CRLF.")
		}
		return size, i + 2, nil
	}
	return 0, 0, nil
}

// asError keeps a nil fault a nil error.
func asError(f *fault) error {
	if f == nil {
		return nil
	}
	return f
}

func tooLarge(limit int64) *fault {
	return &fault{"request_too_large", "The request's body is larger than " + strconv.FormatInt(limit, 10) + " bytes."}
}
