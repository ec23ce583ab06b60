package proxy

import (
	"cmp"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

const (
	maxAnswerHead = 64 << 10
	maxInterim    = 16 // 1xx answers before the real one
)

// answerHead is the head of a tool's answer, parsed.
type answerHead struct {
	status   int
	header   []tool.Header // what goes on to the agent
	length   int64         // -1: none given
	chunked  bool
	closes   bool          // the connection ends with this answer
	patience time.Duration // of Keep-Alive: timeout=; 0: not said
	events   bool          // text/event-stream
}

// parseAnswer reads an answer's head, from its first byte to the empty line that ends it. It is strict: CRLF line ends
// only, no folding, no space before a colon, no control characters, one framing and no doubt about it. It is tolerant
// of what real servers do: a status line without reason or the space before it, an HTTP/1.0 answer, the same
// Content-Length twice. The strings of the result alias text.
func parseAnswer(text string) (h answerHead, err error) {
	h.length = -1
	line, rest, ok := nextLine(text)
	if h.closes, h.status, err = statusLine(line); err != nil || !ok {
		return h, cmp.Or(err, errLine)
	}
	h.header = make([]tool.Header, 0, strings.Count(rest, "\n"))
	var named []string // by Connection headers
	for {
		if line, rest, ok = nextLine(rest); ok && line == "" {
			break
		}
		name, value, colon := strings.Cut(line, ":")
		if value = strings.Trim(value, " \t"); !ok || !colon || !isToken(name) || !isFieldValue(value) {
			return h, errLine
		}
		k, _ := classify(name)
		if k == connection {
			named = append(named, value)
		}
		if err := h.take(k, name, value); err != nil {
			return h, err
		}
	}
	if h.chunked && (h.length >= 0 || text[7] == '0') {
		return h, errors.New("a Transfer-Encoding beside a Content-Length or in HTTP/1.0")
	}
	h.follow(named)
	return h, nil
}

var errLine = errors.New("a malformed header line")

// nextLine cuts at CRLF; any other line end is not ok.
func nextLine(s string) (line, rest string, ok bool) {
	i := strings.IndexByte(s, '\n')
	if i < 1 || s[i-1] != '\r' {
		return "", "", false
	}
	return s[:i-1], s[i+1:], true
}

func statusLine(line string) (old bool, status int, err error) {
	if !strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.0 ") || len(line) < 12 || len(line) > 12 && line[12] != ' ' {
		return false, 0, errors.New("a first line that is no HTTP/1.1 status line")
	}
	digits := line[9:12]
	status, err = strconv.Atoi(digits)
	if err != nil || status < 100 || !isFieldValue(line) {
		return false, 0, errors.New("a malformed status line")
	}
	return line[7] == '0', status, nil
}

// take understands one header and keeps it if the agent may see it.
func (h *answerHead) take(k kind, name, value string) error {
	switch k {
	case contentLength:
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || h.length >= 0 && h.length != int64(n) {
			return errors.New("a Content-Length that is not one number")
		}
		h.length = int64(n)
	case transferEncoding:
		if h.chunked || !strings.EqualFold(value, "chunked") {
			return errors.New("a Transfer-Encoding other than chunked")
		}
		h.chunked = true
	case hop:
		if len(name) == len("keep-alive") {
			h.patience = patienceOf(value)
		}
	case connection, hostName, trailer, upgrade, expect, proxyAuth, proxyOther, ours:
	default:
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "idempotent-replayed") || strings.EqualFold(name, "alt-svc") {
			return nil // the first is ours to say, the second would lead the agent around us
		}
		if k == contentType {
			h.events = len(value) >= 17 && strings.EqualFold(value[:17], "text/event-stream")
		}
		h.header = append(h.header, tool.Header{Name: name, Value: value})
	}
	return nil
}

// follow does what the Connection headers say: end with this answer, and drop the headers that they name.
func (h *answerHead) follow(named []string) {
	for _, list := range named {
		for option := range strings.SplitSeq(list, ",") {
			option = strings.Trim(option, " \t")
			switch {
			case strings.EqualFold(option, "close"):
				h.closes = true
			case option != "" && !strings.EqualFold(option, "keep-alive"):
				kept := h.header[:0]
				for _, f := range h.header {
					if !strings.EqualFold(f.Name, option) {
						kept = append(kept, f)
					}
				}
				h.header = kept
			}
		}
	}
}

// patienceOf is how long the server keeps an idle connection by `timeout=5, max=100`, less a second for the way.
func patienceOf(value string) time.Duration {
	for part := range strings.SplitSeq(value, ",") {
		name, seconds, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		if n, err := strconv.Atoi(seconds); err == nil && strings.EqualFold(name, "timeout") && n < 1<<20 {
			return max(time.Duration(n-1)*time.Second, time.Nanosecond)
		}
	}
	return 0
}
