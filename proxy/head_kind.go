package proxy

import "strings"

// kind is what the gate knows of a header name.
type kind uint8

const (
	plain kind = iota
	contentLength
	transferEncoding
	hostName
	connection
	hop // keep-alive, te and their kin
	trailer
	upgrade
	expect
	contentType
	authorization
	proxyAuth // Proxy-Authorization
	proxyOther
	idempotencyKey
	ours       // X-OnceOnly-*
	forwarding // Forwarded, Via, X-Forwarded-*
	override   // of the method
)

// classNames say which field a Connection header must not name.
var classNames = [...]string{
	contentLength: "Content-Length", transferEncoding: "Transfer-Encoding", hostName: "Host", connection: "Connection",
	trailer: "Trailer", expect: "Expect", contentType: "Content-Type", authorization: "Authorization",
	idempotencyKey: "Idempotency-Key", ours: "X-OnceOnly-…",
}

// strict names may not be written with _ for -: some servers read both as the same field.
func (k kind) strict() bool {
	switch k {
	case plain, forwarding, override:
		return false
	}
	return true
}

// single fields may stand in a head once.
func (k kind) single() bool {
	switch k {
	case contentLength, transferEncoding, hostName, expect, contentType, authorization, proxyAuth, idempotencyKey, ours:
		return true
	}
	return false
}

// longest is the length of the longest name that classify knows as a whole.
const longest = len("x-http-method-override")

// classify says what a name is with case ignored and _ read as -, and whether it was written with _.
func classify(name string) (k kind, underscored bool) {
	var b [longest + 1]byte
	n := min(len(name), len(b))
	for i := range n {
		c := name[i]
		if c == '_' {
			underscored, c = true, '-'
		}
		b[i] = lower[c]
	}
	if len(name) > len(b) {
		underscored = underscored || strings.IndexByte(name, '_') >= 0
	}
	return kindOfName(b[:n]), underscored
}

// kindOfName takes the first bytes of a name in lower case; a name longer than longest is known by its prefix only.
func kindOfName(b []byte) kind {
	switch string(b) {
	case "host":
		return hostName
	case "content-length":
		return contentLength
	case "transfer-encoding":
		return transferEncoding
	case "connection":
		return connection
	case "keep-alive", "te", "http2-settings":
		return hop
	case "trailer":
		return trailer
	case "upgrade":
		return upgrade
	case "expect":
		return expect
	case "content-type":
		return contentType
	case "authorization":
		return authorization
	case "proxy-authorization":
		return proxyAuth
	case "idempotency-key":
		return idempotencyKey
	case "forwarded", "via":
		return forwarding
	case "x-http-method-override", "x-http-method", "x-method-override":
		return override
	}
	switch {
	case hasPrefix(b, "x-onceonly-"):
		return ours
	case hasPrefix(b, "proxy-"):
		return proxyOther
	case hasPrefix(b, "x-forwarded-"):
		return forwarding
	}
	return plain
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// lower maps ASCII letters to lower case; token marks the bytes of RFC 9110, section 5.6.2.
var lower, token = func() (l [256]byte, t [256]bool) {
	for i := range 256 {
		c := byte(i)
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		l[i] = c
		t[i] = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i < 0x80 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
	}
	return l, t
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !token[s[i]] {
			return false
		}
	}
	return s != ""
}
