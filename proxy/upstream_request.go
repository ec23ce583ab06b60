package proxy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
)

// appendRequest writes the head of the request that a asks for, byte by byte from its parts, which sendable has passed.
// The Host is the text that a signature over "authority as sent" covers.
func appendRequest(b []byte, a *govern.Attempt) []byte {
	b = append(b, a.Method...)
	b = append(b, ' ')
	b = append(b, a.Target.Path...)
	if a.Target.Query != "" {
		b = append(b, '?')
		b = append(b, a.Target.Query...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, a.Target.HostHeader()...)
	b = append(b, '\r', '\n')
	for i := range a.Header {
		b = append(b, a.Header[i].Name...)
		b = append(b, ':', ' ')
		b = append(b, a.Header[i].Value...)
		b = append(b, '\r', '\n')
	}
	if a.HasBody || len(a.Body) > 0 || expectsBody(a.Method) {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(a.Body)), 10)
		b = append(b, '\r', '\n')
	}
	return append(b, '\r', '\n')
}

// expectsBody says whether a request without a body should say so (RFC 9110 §8.6).
func expectsBody(method string) bool { return method == "POST" || method == "PUT" || method == "PATCH" }

// sendable refuses an attempt of which a byte could be read as something else than it is: whatever was judged before,
// this is the last place that sees the parts apart. Its errors quote no value.
func sendable(a *govern.Attempt) error {
	t := &a.Target
	switch {
	case !isToken(a.Method):
		return errors.New("cannot send: the method is no HTTP method")
	case t.Scheme != "http" && t.Scheme != "https":
		return fmt.Errorf("cannot send: the scheme %q is neither http nor https", t.Scheme)
	case t.Authority == "" || strings.ContainsFunc(t.Authority, func(r rune) bool { return !isAuthority(r) }):
		return fmt.Errorf("cannot send: the authority %q is not host:port", t.Authority)
	case !strings.HasPrefix(t.Path, "/") && (t.Path != "*" || a.Method != "OPTIONS"):
		return errors.New("cannot send: the path does not begin with a slash")
	case !isVisible(t.Path, "#?", '~'):
		return errors.New("cannot send: the path holds a character that must be escaped")
	case !isVisible(t.Query, "#", 0xff):
		return errors.New("cannot send: the query holds a character that must be escaped")
	}
	for i := range a.Header {
		h := &a.Header[i]
		switch {
		case !isToken(h.Name):
			return fmt.Errorf("cannot send: %q is no header name", h.Name)
		case framing(h.Name):
			return fmt.Errorf("cannot send: the header %s is the sidecar's to set", h.Name)
		case !isFieldValue(h.Value):
			return fmt.Errorf("cannot send: the value of the header %s holds a control character", h.Name)
		}
	}
	return nil
}

func isAuthority(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_:[]", r)
}

// isVisible says whether s has neither spaces, controls, characters of not, nor any byte above last.
func isVisible(s, not string, last byte) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c > last {
			return false
		}
	}
	return !strings.ContainsAny(s, not)
}

// isFieldValue says whether s may stand behind a header's name (RFC 9110 §5.5): no control characters but tab.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// framing says whether the header, also with _ read as -, says where a message ends or what becomes of its connection.
func framing(name string) bool {
	switch k, _ := classify(name); k {
	case contentLength, transferEncoding, hostName, connection, hop, trailer, upgrade, expect, proxyOther:
		return true
	}
	return false
}
