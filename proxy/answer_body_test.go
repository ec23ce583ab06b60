package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// Each row is a tool that behaves badly in its own way.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name   string
		script func(c *rawConn)
		check  func(t *testing.T, s sent)
	}{
		{"whole", serving(okAnswer), func(t *testing.T, s sent) {
			s.wantWhole(t, 200, "ok")
			if s.answer.Length != 2 || s.answer.Events || s.phase != govern.FirstByteRead {
				t.Errorf("length %d, events %v, phase %d", s.answer.Length, s.answer.Events, s.phase)
			}
		}},
		{"empty", serving("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), func(t *testing.T, s sent) {
			if s.wantWhole(t, 200, ""); s.phase != govern.Complete {
				t.Errorf("phase %d, want Complete", s.phase)
			}
		}},
		{"large, byte by byte head", func(c *rawConn) {
			c.request()
			for _, b := range []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(long))) {
				c.say(string(b))
			}
			c.say(long)
		}, func(t *testing.T, s sent) { s.wantWhole(t, 200, long) }},
		{"chunked", serving("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n02 ;x=\"y\"\r\nde\r\n0\r\nX-Trailer: dropped\r\n\r\n"), func(t *testing.T, s sent) {
			s.wantWhole(t, 200, "abcde")
			if s.answer.Length != -1 || !s.answer.Events || len(s.answer.Header) != 0 {
				t.Errorf("length %d, events %v, header %v", s.answer.Length, s.answer.Events, s.answer.Header)
			}
		}},
		{"large chunk", serving(fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long)), func(t *testing.T, s sent) { s.wantWhole(t, 200, long) }},
		{"until close", func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\n\r\nall of it") }, func(t *testing.T, s sent) {
			s.wantWhole(t, 200, "all of it")
			if s.answer.Length != -1 || !s.answer.Events {
				t.Errorf("length %d, events %v", s.answer.Length, s.answer.Events)
			}
		}},
		{"HTTP/1.0", func(c *rawConn) { c.request(); c.say("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok") }, func(t *testing.T, s sent) { s.wantWhole(t, 200, "ok") }},
		{"events with a length", serving("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\n\r\nok"), func(t *testing.T, s sent) {
			if s.wantWhole(t, 200, "ok"); !s.answer.Events {
				t.Error("not taken for events")
			}
		}},
		{"204 with a length", serving("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), func(t *testing.T, s sent) { s.wantWhole(t, 204, "") }},
		{"304 with a length", serving("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), func(t *testing.T, s sent) { s.wantWhole(t, 304, "") }},
		{"interim answers", serving("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + okAnswer), func(t *testing.T, s sent) {
			if s.wantWhole(t, 200, "ok"); len(s.answer.Header) != 0 {
				t.Errorf("hints were taken for headers: %v", s.answer.Header)
			}
		}},
		{"final 100", func(c *rawConn) { c.request(); c.say("HTTP/1.1 100 Continue\r\n\r\n") }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "no answer came: the connection was closed")
		}},
		{"endless interim answers", func(c *rawConn) { c.request(); c.say(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100)); c.gone() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "too many interim answers")
		}},
		{"switch of protocols", serving("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "switch of protocols")
		}},
		{"hangs up", func(c *rawConn) { c.request() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.Flushed, govern.ErrBroken, "no answer came: the connection was closed")
		}},
		{"resets", func(c *rawConn) { c.request(); c.reset() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.Flushed, govern.ErrBroken, "connection reset by peer")
		}},
		{"hangs", func(c *rawConn) { c.request(); c.gone() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.Flushed, govern.ErrBroken, "no answer came within")
			if !errors.Is(s.err, context.DeadlineExceeded) {
				t.Errorf("%v is no context.DeadlineExceeded", s.err)
			}
		}},
		{"hangs within the head", func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\nCont"); c.gone() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "no answer came within")
		}},
		{"half a head", func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\nCont") }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "the connection was closed")
		}},
		{"huge head", func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\nX: " + long + "\r\n\r\n"); c.gone() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "larger than 64 KiB")
		}},
		{"large head that fits", serving("HTTP/1.1 200 OK\r\nX: " + long[:60_000] + "\r\nContent-Length: 2\r\n\r\nok"), func(t *testing.T, s sent) { s.wantWhole(t, 200, "ok") }},
		{"two framings", serving("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "the answer is not valid")
		}},
		{"no HTTP", func(c *rawConn) { c.request(); c.say("220 mail.test ESMTP\r\n\r\n"); c.gone() }, func(t *testing.T, s sent) {
			s.wantError(t, govern.FirstByteRead, govern.ErrBroken, "no HTTP/1.1 status line")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newRawTool(t, c.script)
			u := newUpstream(t, loopback)
			a := attemptTo(x.addr)
			if strings.HasPrefix(c.name, "hangs") {
				a.Timeout = 50 * time.Millisecond
			}
			c.check(t, send(t, u, a))
			if n := len(x.requests()); n != 1 {
				t.Errorf("the tool ran %d times", n)
			}
		})
	}
}

// A body that does not end as its head said is an error of Read, never io.EOF.
func TestCutBodies(t *testing.T) {
	chunks := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, text := range map[string]string{
		"half":                   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"no last chunk":          chunks + "3\r\nabc\r\n",
		"within a chunk":         chunks + "5\r\nabc",
		"after a size":           chunks + "5\r\n",
		"no empty line":          chunks + "3\r\nabc\r\n0\r\n",
		"within the trailers":    chunks + "0\r\nX: y\r\n",
		"size that is none":      chunks + "x\r\n\r\n",
		"empty size":             chunks + "\r\n",
		"signed size":            chunks + "+3\r\nabc\r\n0\r\n\r\n",
		"prefixed size":          chunks + "0x3\r\nabc\r\n0\r\n\r\n",
		"huge size":              chunks + "ffffffffffffffff\r\nabc",
		"space before the size":  chunks + " 3\r\nabc\r\n0\r\n\r\n",
		"bare LF after a size":   chunks + "3\nabc\r\n0\r\n\r\n",
		"chunk longer than said": chunks + "3\r\nabcd\r\n0\r\n\r\n",
		"bare LF after a chunk":  chunks + "3\r\nabc\n0\r\n\r\n",
		"CR in an extension":     chunks + "3;a\rb\r\nabc\r\n0\r\n\r\n",
		"endless extension":      chunks + "3;" + strings.Repeat("a", 5000) + "\r\nabc\r\n0\r\n\r\n",
		"malformed trailer":      chunks + "0\r\nnonsense\r\n\r\n",
		"endless trailers":       chunks + "0\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			x := newRawTool(t, func(c *rawConn) { c.request(); c.say(text) })
			u := newUpstream(t, loopback)
			s := send(t, u, attemptTo(x.addr))
			if s.err != nil {
				t.Fatalf("no answer: %v", s.err)
			}
			if s.cut == nil || errors.Is(s.cut, io.EOF) || !errors.Is(s.cut, govern.ErrBroken) {
				t.Errorf("read %q, then %v; want an error that is ErrBroken", s.body, s.cut)
			}
			if _, again := s.answer.Body.Read(make([]byte, 1)); again == nil || again == io.EOF {
				t.Errorf("a further read says %v", again)
			}
		})
	}
}

func TestCutByReset(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", ""} {
		read := make(chan struct{})
		x := newRawTool(t, func(c *rawConn) {
			c.request()
			c.say("HTTP/1.1 200 OK\r\n" + framing + "\r\n4\r\nhalf\r\n")
			<-read
			c.reset()
		})
		u := newUpstream(t, loopback)
		answer, _, err := u.Send(t.Context(), attemptTo(x.addr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAtLeast(answer.Body, make([]byte, 4), 4); err != nil {
			t.Fatal(err)
		}
		close(read)
		if _, err := io.ReadAll(answer.Body); !errors.Is(err, govern.ErrBroken) {
			t.Errorf("%q: a reset reads as %v", framing, err)
		}
	}
}

func TestHeadHasNoBody(t *testing.T) {
	x := newRawTool(t, serving("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"))
	u := newUpstream(t, loopback)
	for range 3 {
		a := attemptTo(x.addr)
		a.Method, a.Body, a.HasBody = "HEAD", nil, false
		s := send(t, u, a)
		if s.wantWhole(t, 200, ""); s.answer.Length != 0 || s.phase != govern.Complete {
			t.Errorf("length %d, phase %d", s.answer.Length, s.phase)
		}
	}
	if x.connections() != 1 {
		t.Errorf("%d connections, want 1", x.connections())
	}
}

// A stream may last longer than the timeout, but no gap in it may; with a Deadline the whole may not.
func TestBodyTimeouts(t *testing.T) {
	const gap = 150 * time.Millisecond
	drip := func(n int) func(c *rawConn) {
		return func(c *rawConn) {
			c.request()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range n {
				timer := time.NewTimer(gap / 3)
				<-timer.C
				if _, err := io.WriteString(c.Conn, "1\r\nx\r\n"); err != nil {
					return
				}
			}
			c.say("0\r\n\r\n")
		}
	}
	u := newUpstream(t, loopback)
	ask := func(t *testing.T, script func(c *rawConn)) *govern.Answer {
		a := attemptTo(newRawTool(t, script).addr)
		a.Timeout = gap
		answer, _, err := u.Send(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	t.Run("gaps", func(t *testing.T) {
		if body, err := io.ReadAll(ask(t, drip(9)).Body); err != nil || len(body) != 9 {
			t.Errorf("read %q, %v", body, err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		answer := ask(t, func(c *rawConn) { c.request(); c.say("HTTP/1.1 200 OK\r\n\r\nx"); c.gone() })
		if body, err := io.ReadAll(answer.Body); !errors.Is(err, context.DeadlineExceeded) || string(body) != "x" {
			t.Errorf("read %q, %v", body, err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		answer := ask(t, drip(1000))
		answer.Deadline(time.Now().Add(gap))
		if body, err := io.ReadAll(answer.Body); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read %d bytes, %v", len(body), err)
		}
	})
}

// A piece of a stream is given as soon as its data is here, not when the next one is.
func TestStreamIsNotHeldBack(t *testing.T) {
	got := make(chan struct{})
	x := newRawTool(t, func(c *rawConn) {
		c.request()
		c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst") // its CRLF comes with the next one
		<-got
		c.say("\r\n6\r\nsecond\r\n0\r\n\r\n")
	})
	answer, _, err := newUpstream(t, loopback).Send(t.Context(), attemptTo(x.addr))
	if err != nil {
		t.Fatal(err)
	}
	var piece [16]byte
	n, err := answer.Body.Read(piece[:])
	if err != nil || string(piece[:n]) != "first" {
		t.Fatalf("read %q, %v", piece[:n], err)
	}
	close(got)
	if rest, err := io.ReadAll(answer.Body); err != nil || string(rest) != "second" {
		t.Errorf("then %q, %v", rest, err)
	}
}
