package proxy

import (
	"bytes"
	"errors"
	"io"
)

const maxChunkLine = 1 << 10 // of a chunk's size with its extensions

// framed says how an answer's body ends.
type framed uint8

const (
	byLength framed = iota
	byChunks
	byClose
)

// Read implements io.Reader over the answer's body. io.EOF means that it was whole; any other error wraps
// govern.ErrBroken. It is not to be called beside Close.
func (x *exchange) Read(p []byte) (n int, err error) {
	if x.ended != nil || len(p) == 0 {
		return 0, x.ended
	}
	switch x.framed {
	case byLength:
		n, err = x.readLength(p)
	case byChunks:
		n, err = x.readChunk(p)
	case byClose:
		if n, err = x.readSome(p); err == io.EOF {
			return n, x.finish(false)
		}
	}
	if err != nil && err != io.EOF {
		err = x.cut("the answer was cut", err)
	}
	return n, err
}

// Close gives up what is left of the body, and the connection with it.
func (x *exchange) Close() error {
	if x.ended == nil {
		x.end(false, errors.New("the answer was closed before its end"))
	}
	return nil
}

func (x *exchange) readLength(p []byte) (int, error) {
	n, err := x.readSome(p[:min(int64(len(p)), x.left)])
	x.left -= int64(n)
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case x.left == 0:
		err = x.finish(true)
	}
	return n, err
}

// readChunk reads from the chunk at hand, or goes on to the next one. The CRLF behind a chunk's data is taken by the
// next call: some servers send it late, and the data must not wait for it.
func (x *exchange) readChunk(p []byte) (int, error) {
	if x.left == 0 {
		if last, err := x.nextChunk(); last && err == nil {
			return 0, x.finish(true)
		} else if err != nil {
			return 0, noEOF(err)
		}
	}
	n, err := x.readSome(p[:min(int64(len(p)), x.left)])
	x.left -= int64(n)
	return n, noEOF(err)
}

// nextChunk goes to the data of the next chunk; last says that there was none and the trailers have been read.
func (x *exchange) nextChunk() (last bool, err error) {
	if x.inside {
		if err := x.chunkEnd(); err != nil {
			return false, err
		}
	}
	if x.inside, err = true, x.chunkSize(); err != nil || x.left > 0 {
		return false, err
	}
	return true, x.trailers()
}

// chunkSize reads the line that says how long the next chunk is. Extensions are ignored, as RFC 9112 §7.1.1 wants.
func (x *exchange) chunkSize() error {
	line, err := x.readLine(maxChunkLine)
	if err != nil {
		return err
	}
	digits, _, _ := bytes.Cut(line, []byte(";"))
	digits = bytes.TrimRight(digits, " \t") // some servers pad the number
	if len(digits) == 0 || len(digits) > 15 {
		return errChunk
	}
	for _, d := range digits {
		v := hexValue(d)
		if v < 0 {
			return errChunk
		}
		x.left = x.left<<4 | int64(v)
	}
	return nil
}

var errChunk = errors.New("a malformed chunk")

// chunkEnd takes the CRLF behind a chunk's data.
func (x *exchange) chunkEnd() error {
	line, err := x.readLine(2)
	if err == nil && len(line) != 0 {
		err = errChunk
	}
	return err
}

// trailers are read and dropped: no one down the way has asked for them.
func (x *exchange) trailers() error {
	for total := 0; ; {
		line, err := x.readLine(maxAnswerHead - total)
		if err != nil || len(line) == 0 {
			return err
		}
		if name, _, ok := bytes.Cut(line, []byte(":")); !ok || !isToken(string(name)) {
			return errors.New("a malformed trailer")
		}
		total += len(line) + 2
	}
}

// readLine takes a line of at most limit bytes with its CRLF. It is valid until the next read.
func (x *exchange) readLine(limit int) ([]byte, error) {
	c := x.link
	for seen := 0; ; {
		waiting := c.buf[c.r:c.w]
		if i := bytes.IndexByte(waiting[seen:], '\n'); i >= 0 {
			i += seen
			if i == 0 || waiting[i-1] != '\r' || i >= limit || !isFieldValue(string(waiting[:i-1])) {
				return nil, errors.New("a malformed line between chunks")
			}
			c.r += i + 1
			return waiting[:i-1], nil
		}
		if seen = len(waiting); seen >= limit {
			return nil, errors.New("a line between chunks that is too long")
		}
		if err := x.fill(maxAnswerHead); err != nil {
			return nil, err
		}
	}
}

// readSome gives what is buffered, or reads once: into p itself where that saves a copy.
func (x *exchange) readSome(p []byte) (int, error) {
	c := x.link
	if c.r == c.w {
		if len(p) >= bufferSize {
			if err := x.arm(); err != nil {
				return 0, err
			}
			return c.read(p)
		}
		if err := x.fill(bufferSize); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// noEOF keeps an end in the middle from being taken for the end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
