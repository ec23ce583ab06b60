package proxy

import (
	"context"
	"errors"
	"strconv"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// replyStream passes an answer on as it comes. The stream is run to its end whatever becomes of the agent, because the
// call's outcome hangs on it; an answer that is not whole never ends as if it were.
func (c *conn) replyStream(ctx context.Context, r *govern.Reply, last bool) (goesOn bool) {
	w := &streamWriter{c: c, announced: r.Stream.Length(), mute: c.head.method == "HEAD" || !mayHaveBody(r.Status)}
	w.chunked = w.announced < 0 && !w.mute && !c.head.http10
	untilClose := w.announced < 0 && !w.mute && !w.chunked
	last = last || untilClose
	length := max(w.announced, noLength)
	if !mayHaveBody(r.Status) {
		length = noLength
	}
	whole := false
	defer func() {
		if !whole {
			c.cut(untilClose)
		}
		if r.Delivered != nil {
			r.Delivered(whole && !w.left)
		}
	}()
	c.out = c.appendHead(c.out[:0], r, length, w.chunked, last)
	_ = c.send(c.out)
	if r.Stream.WriteTo(ctx, w) == nil {
		whole = w.end() == nil
	}
	c.shrink()
	return whole && !last
}

// cut ends the connection in the middle of an answer. Where nothing but the connection's end marks the answer's, it
// takes a reset to tell the two apart.
func (c *conn) cut(untilClose bool) {
	if untilClose {
		c.abort()
		return
	}
	c.gate.phase = refused
	_ = c.end()
}

// streamWriter frames the pieces of a streamed answer. Once the agent has gone every Write fails.
type streamWriter struct {
	c         *conn
	chunked   bool
	mute      bool  // an answer to HEAD, or one without a body
	announced int64 // length, or -1
	written   int64
	left      bool // the agent had closed its side before the answer's end was written
}

var errLength = errors.New("a streamed answer is not as long as it was announced")

// Write implements govern.Flusher; each piece leaves at once.
func (w *streamWriter) Write(p []byte) (int, error) {
	if w.c.failed != nil {
		return 0, w.c.failed
	}
	w.written += int64(len(p))
	switch {
	case len(p) == 0 || w.mute:
		return len(p), nil
	case w.chunked:
		return len(p), w.sendChunk(p)
	case w.announced >= 0 && w.written > w.announced:
		w.c.failed = errLength
		return 0, errLength
	case w.written == w.announced:
		w.left = w.c.gone()
	}
	return len(p), w.c.send(p)
}

func (w *streamWriter) sendChunk(p []byte) error {
	b := strconv.AppendInt(w.c.out[:0], int64(len(p)), 16)
	b = append(b, "\r\n"...)
	b = append(b, p...)
	w.c.out = append(b, "\r\n"...)
	return w.c.send(w.c.out)
}

// Flush implements govern.Flusher.
func (w *streamWriter) Flush() error { return w.c.failed }

// end completes a whole answer.
func (w *streamWriter) end() error {
	switch {
	case w.c.failed != nil:
		return w.c.failed
	case w.mute:
		return nil
	case w.chunked:
		w.left = w.c.gone()
		return w.c.send([]byte("0\r\n\r\n"))
	case w.announced >= 0 && w.written != w.announced:
		return errLength
	}
	return nil
}
