package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// inlineBody is the largest body that is written together with its head. A larger one is written beside the reading of
// the answer, so that a tool that answers before it has read everything is heard and nobody waits for the other.
const inlineBody = 32 << 10

// exchange is one request and its answer on one connection. It is used by one goroutine at a time.
type exchange struct {
	reply govern.Answer
	link  *link // nil once given back
	pool  *pool
	gap   time.Duration // without a byte
	until time.Time     // of the whole body, when set
	head  bool          // the request was a HEAD

	writing chan error // nil, or gets the end of writing a large body
	wrote   error      // what kept the request from being written whole

	framed framed
	left   int64 // of the body, or of the chunk at hand
	inside bool  // a chunk has begun: its CRLF is still to come
	reuse  bool  // the connection may serve again
	ended  error // what Read says from now on; nil while there is more

	stop    func() bool // nil when ctx never ends
	stopped atomic.Bool // ctx has ended; why is set
	why     error
}

var errForward = errors.New("the server spoke or hung up before it was asked")

// begin makes the end of ctx the end of the exchange.
func (x *exchange) begin(ctx context.Context, c *link) {
	x.link = c
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, func() {
			x.why = ctx.Err()
			x.stopped.Store(true)
			_ = c.under.SetDeadline(time.Unix(1, 0))
		})
	}
}

// again begins anew with another connection, after one that took nothing.
func (x *exchange) again(ctx context.Context, c *link) {
	x.ended, x.stop = nil, nil
	x.begin(ctx, c)
}

// write writes the request and says how far it got. The phase is FirstByte from before the first Write; only a plain
// TCP connection can tell that it took nothing.
func (x *exchange) write(a *govern.Attempt) (govern.Phase, error) {
	c := x.link
	c.out = appendRequest(c.out[:0], a)
	large := len(a.Body) > inlineBody
	if !large {
		c.out = append(c.out, a.Body...)
	}
	phase := govern.FirstByte
	n, err := c.Write(c.out)
	switch {
	case err != nil && n == 0 && c.tls == nil && c.raw != nil:
		return govern.Dialled, x.lost(govern.ErrUnreachable, "nothing could be written", err)
	case err != nil:
		x.wrote = err // an answer may have come before
	case large:
		x.writing = make(chan error, 1)
		go func() {
			_, err := c.Write(a.Body)
			x.writing <- err
		}()
	default:
		phase = govern.Flushed
	}
	return phase, nil
}

// answer reads the answer's head, past any interim ones.
func (x *exchange) answer(phase govern.Phase) (*govern.Answer, govern.Phase, error) {
	for interim := 0; ; interim++ {
		text, err := x.readHead(&phase)
		if err != nil {
			return nil, phase, x.cut("no answer came", err)
		}
		h, err := parseAnswer(text)
		switch {
		case err == nil && h.status == 101:
			err = errors.New("a switch of protocols that nobody asked for")
		case err == nil && h.status < 200 && interim == maxInterim:
			err = errors.New("too many interim answers")
		case err == nil && h.status < 200:
			continue
		}
		if err != nil {
			return nil, phase, x.cut("the answer is not valid", err)
		}
		if x.accept(&h); x.ended == io.EOF {
			phase = govern.Complete
		}
		return &x.reply, phase, nil
	}
}

// readHead returns the next head with its empty line.
func (x *exchange) readHead(phase *govern.Phase) (string, error) {
	c := x.link
	for seen := 0; ; {
		waiting := c.buf[c.r:c.w]
		if i := bytes.Index(waiting[max(seen-3, 0):], []byte("\r\n\r\n")); i >= 0 {
			i += max(seen-3, 0) + 4
			c.r += i
			return string(waiting[:i]), nil
		}
		if seen = len(waiting); seen >= maxAnswerHead {
			return "", errors.New("its header is larger than 64 KiB")
		}
		if err := c.fill(maxAnswerHead); err != nil {
			return "", noEOF(err)
		}
		*phase = govern.FirstByteRead
	}
}

// accept takes the head as this exchange's answer.
func (x *exchange) accept(h *answerHead) {
	x.reuse = !h.closes
	if h.patience > 0 {
		x.link.patience = h.patience
	}
	x.reply = govern.Answer{Status: h.status, Header: h.header, Length: h.length, Body: x, Deadline: x.bound}
	switch {
	case x.head || h.status == 204 || h.status == 304:
		x.reply.Length = 0
	case h.chunked:
		x.framed = byChunks
	case h.length < 0:
		x.framed = byClose
	default:
		x.left = h.length
	}
	x.reply.Events = h.events && x.reply.Length != 0 || x.framed != byLength
	if x.framed == byLength && x.left == 0 {
		_ = x.finish(true)
	}
}

// bound is the answer's Deadline.
func (x *exchange) bound(t time.Time) { x.until = t }

// arm sets how long the next read of the body may take.
func (x *exchange) arm() error {
	until := x.until
	if until.IsZero() {
		until = time.Now().Add(x.gap)
	}
	if err := x.link.SetReadDeadline(until); err != nil {
		return err
	}
	// Looked at after the deadline was set: an end of ctx from here on sets it once more.
	if x.stopped.Load() {
		return x.why
	}
	return nil
}

func (x *exchange) fill(limit int) error {
	if err := x.arm(); err != nil {
		return err
	}
	return x.link.fill(limit)
}

// finish ends an exchange whose answer was whole. It returns what Read says then: io.EOF.
func (x *exchange) finish(reusable bool) error {
	x.end(reusable && x.reuse, io.EOF)
	return io.EOF
}

// cut ends an exchange whose answer is not whole, and says why.
func (x *exchange) cut(what string, err error) error {
	if x.wrote != nil && !x.stopped.Load() {
		what, err = "the request could not be sent whole", x.wrote
	}
	err = x.lost(govern.ErrBroken, what, err)
	x.end(false, err)
	return err
}

// lost is err in words, as the kind of error that it means for the call.
func (x *exchange) lost(kind error, what string, err error) error {
	to := x.link.to.authority
	switch {
	case x.stopped.Load():
		return fail(kind, "%s: %s: %w", to, what, x.why)
	case errors.Is(err, os.ErrDeadlineExceeded) && kind == govern.ErrBroken:
		return fail(kind, "%w", fail(context.DeadlineExceeded, "%s: %s within %s", to, what, x.gap))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fail(kind, "%s: %s: the connection was closed", to, what)
	}
	return fail(kind, "%s: %s: %s", to, what, words(err))
}

// end gives the connection back, or up. Read says said from now on.
func (x *exchange) end(reusable bool, said error) {
	c := x.link
	if c == nil {
		return
	}
	x.link, x.ended = nil, said
	if x.stop != nil && !x.stop() {
		reusable = false // the deadline of an ended ctx may still be on its way to the connection
	}
	if x.writing != nil {
		select {
		case err := <-x.writing:
			reusable = reusable && err == nil
		default:
			reusable = false
			c.close()
			<-x.writing
		}
	}
	if !reusable || x.wrote != nil || c.raw == nil || c.r != c.w {
		c.close()
		return
	}
	c.rest()
	x.pool.put(c, time.Now())
}
