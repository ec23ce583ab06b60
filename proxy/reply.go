package proxy

import (
	"context"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// joined is the largest body that is copied behind its head to leave in one write.
const joined = 16 << 10

// reply writes an answer and says whether the connection may be used again. last asks for its end.
func (c *conn) reply(ctx context.Context, r *govern.Reply, last bool) (goesOn bool) {
	last = last || c.head.close || r.Close || c.gate.phase == refused
	c.answered = true
	if r.Stream != nil {
		return c.replyStream(ctx, r, last)
	}
	left := r.Delivered != nil && c.gone() // it may only have closed its writing half, so it is answered all the same
	mute := c.head.method == "HEAD" || !mayHaveBody(r.Status)
	length := int64(len(r.Body))
	if !mayHaveBody(r.Status) || mute && length == 0 {
		length = noLength
	}
	c.out = c.appendHead(c.out[:0], r, length, false, last)
	whole := c.sendBody(r.Body, mute) == nil
	c.shrink()
	if r.Delivered != nil {
		r.Delivered(whole && !left)
	}
	return whole && !last
}

// sendBody sends the head in c.out and the body behind it.
func (c *conn) sendBody(body []byte, without bool) error {
	switch {
	case without || len(body) == 0:
		return c.send(c.out)
	case len(body) <= joined:
		c.out = append(c.out, body...)
		return c.send(c.out)
	}
	if err := c.send(c.out); err != nil {
		return err
	}
	return c.send(body)
}

// shrink keeps one large answer's buffer from staying with an idle connection.
func (c *conn) shrink() {
	if cap(c.out) > 2*joined {
		c.out = nil
	}
}

// noLength says that an answer announces no length.
const noLength = -1

// mayHaveBody is RFC 9110, section 6.4.1.
func mayHaveBody(status int) bool { return status != 204 && status != 304 }

// appendHead appends the answer's status line and header section: the reply's fields in their order, then the framing.
func (c *conn) appendHead(b []byte, r *govern.Reply, length int64, chunked, last bool) []byte {
	status := r.Status
	if status < 200 || status > 999 {
		status = fasthttp.StatusBadGateway // a tool's 1xx ends nothing
	}
	b = appendStatusLine(b, status, c.reason(status, r))
	b = appendFields(b, r.Header)
	switch {
	case chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case length != noLength:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	}
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// reason is the reason phrase. Of a refused CONNECT clients show nothing else, so there it says why.
func (c *conn) reason(status int, r *govern.Reply) string {
	phrase := fasthttp.StatusMessage(status)
	if c.head.form == authority && r.Refusal != nil {
		phrase += " (" + r.Refusal.Code + ")"
	}
	return phrase
}

func appendStatusLine(b []byte, status int, reason string) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reason...)
	return append(b, "\r\n"...)
}

// appendFields appends header fields but those that frame, which are the wire's own, and those that would not stay one
// line each, whoever made them.
func appendFields(b []byte, fields []tool.Header) []byte {
	for i := range fields {
		f := &fields[i]
		if !isToken(f.Name) || !isLine(f.Value) {
			continue
		}
		switch k, _ := classify(f.Name); k {
		case contentLength, transferEncoding, connection, hop, trailer, upgrade:
			continue
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return b
}

func isLine(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
