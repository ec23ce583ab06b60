package proxy

import (
	"bytes"
	"io"
	"time"
)

// phase is where in a request the gate is.
type phase uint8

const (
	atHead  phase = iota // waiting for or reading a head
	inBody               // of known length
	inChunk              // between the bytes of a chunk
	inSize               // of a chunk
	atEnd                // of a request that is being served
	refused              // nothing more is read
)

// gate is the state of reading one connection: which bytes of its buffer were judged and what must come next.
type gate struct {
	phase   phase
	clear   int   // bytes at buf[r:] that were judged and may be handed on
	left    int64 // of the body or the chunk, CRLF included, that did not come yet
	body    int64 // bytes of the request's body so far
	limit   int64 // most bytes of the request's body
	unasked bool  // some of the body is still to come, and nobody has asked whether it may
	taken   bool  // fasthttp has handed the request to the handler
}

// read hands on judged bytes, judging more when there are none. It never returns bytes of two requests at once.
func (g *gate) read(c *conn, p []byte) (int, error) {
	for g.clear == 0 {
		switch g.phase {
		case atEnd:
			if !g.taken {
				return 0, malformed("The request was understood in two ways.")
			}
			*g = gate{}
		case atHead:
			if err := g.readHead(c); err != nil {
				return 0, err
			}
		case inBody:
			if c.r == c.w {
				return g.readBody(c, p)
			}
			g.pass(c)
		case inSize, inChunk:
			if err := g.readChunked(c); err != nil {
				return 0, err
			}
		case refused:
			return 0, io.EOF
		}
	}
	n := copy(p, c.buf[c.r:c.r+g.clear])
	c.r += n
	g.clear -= n
	return n, nil
}

// readHead waits for a whole head and judges it. EOF before its first byte is the connection's natural end.
func (g *gate) readHead(c *conn) error {
	c.tidy()
	c.answered = false
	n, err := c.awaitHead()
	if err != nil {
		return err
	}
	if n > c.s.headerBytes {
		return headTooLarge("The request's head is too large.")
	}
	if f := c.head.judge(string(c.buf[c.r:c.r+n]), c.scheme, &c.memo); f != nil {
		return f
	}
	g.limit = c.s.bodyLimit(c)
	if c.head.length > g.limit {
		return tooLarge(g.limit)
	}
	g.unasked = c.head.chunked || int64(c.w-c.r-n) < c.head.length
	if c.head.hostRaw == "" && !c.head.http10 { // a CONNECT: fasthttp reads none without Host
		c.head.hostRaw = c.head.target
		n += c.insert(n-len("\r\n"), "Host: "+c.head.target+"\r\n")
	}
	g.clear = n
	switch {
	case c.head.chunked:
		g.phase = inSize
	case c.head.length > 0:
		g.phase, g.left, g.body = inBody, c.head.length, c.head.length
		g.pass(c)
	default:
		g.phase = atEnd
	}
	return nil
}

// pass clears what the buffer holds of a body of known length behind what is clear already.
func (g *gate) pass(c *conn) {
	n := min(g.left, int64(c.w-c.r-g.clear))
	g.clear += int(n)
	if g.left -= n; g.left == 0 {
		g.phase = atEnd
	}
}

// readBody reads a body of known length past the buffer.
func (g *gate) readBody(c *conn, p []byte) (int, error) {
	c.setReadBy(time.Now().Add(bodyTimeout))
	n, err := c.Conn.Read(p[:min(int64(len(p)), g.left)])
	if g.left -= int64(n); g.left == 0 {
		g.phase = atEnd
	}
	if n > 0 {
		return n, nil
	}
	return 0, cut(err)
}

// cut says that a request ended within its body.
func cut(err error) error {
	if timedOut(err) {
		return malformed("The request's body did not come in time.")
	}
	return malformed("The connection ended within the request's body.")
}

// awaitHead reads until the buffer holds a head and returns its length. The lines are looked at as they come, so that
// nothing waits for the end of what can be none. One empty line before a request is dropped, as RFC 9112, section 2.2,
// asks; fasthttp never sees it.
func (c *conn) awaitHead() (int, error) {
	scanned, start, lines, dropped := 0, 0, -1, false
	for first := true; ; first = false {
		for {
			end := bytes.IndexByte(c.buf[c.r+scanned:c.w], '\n')
			if end < 0 {
				break
			}
			end += scanned
			line := c.buf[c.r+start : c.r+end]
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return 0, malformed("A line of the request's head ends in a bare LF.")
			}
			scanned, start = end+1, end+1
			switch {
			case len(line) == 1 && lines >= 0:
				return start, nil
			case len(line) == 1 && dropped:
				return 0, malformed("There are empty lines before the request.")
			case len(line) == 1:
				c.r += start
				scanned, start, dropped = 0, 0, true
				continue
			case len(line) > maxLine+1:
				return 0, headTooLarge("A line of the request's head is too long.")
			}
			if lines++; lines > maxFields {
				return 0, headTooLarge("The request has too many header fields.")
			}
		}
		scanned = c.w - c.r
		if f := c.judgePart(c.buf[c.r+start:c.w], lines < 0); f != nil {
			return 0, f
		}
		if scanned >= c.s.headerBytes {
			return 0, headTooLarge("The request's head is too large.")
		}
		if err := c.more(first && scanned == 0 && !dropped, scanned); err != nil {
			return 0, err
		}
	}
}

// insert puts s into the buffer, at bytes behind what is to be handed on next, and returns its length.
func (c *conn) insert(at int, s string) int {
	rest := c.buf[c.r:c.w]
	changed := make([]byte, 0, max(len(c.buf), len(rest)+len(s)))
	changed = append(changed, rest[:at]...)
	changed = append(changed, s...)
	changed = append(changed, rest[at:]...)
	c.r, c.w, c.buf = 0, len(changed), changed[:cap(changed)]
	return len(s)
}

// judgePart looks at a line that has not ended yet.
func (c *conn) judgePart(line []byte, first bool) *fault {
	switch {
	case len(line) > maxLine+1:
		return headTooLarge("A line of the request's head is too long.")
	case first && len(line) > 0 && line[0] != '\r' && (line[0] < 'A' || line[0] > 'Z'):
		return malformed("This is no HTTP request.")
	}
	return nil
}

// more reads more of a head. idle says that nothing of it has come.
func (c *conn) more(idle bool, scanned int) error {
	now := time.Now()
	by := now.Add(idleTimeout)
	if !idle {
		if c.began.IsZero() {
			c.began = now
		}
		by = c.began.Add(headTimeout)
	} else {
		c.began = time.Time{}
	}
	err := c.fill(c.s.headerBytes+len("\r\n"), by)
	switch {
	case err == nil:
		return nil
	case scanned == 0: // not even one byte of a request, or only an empty line
		return io.EOF
	case timedOut(err):
		return malformed("The request's head did not come in time.")
	}
	return malformed("The connection ended within the request's head.")
}

func headTooLarge(detail string) *fault { return &fault{"headers_too_large", detail} }
