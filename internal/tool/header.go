package tool

import "strings"

// isToken is RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(s[i])) {
			return false
		}
	}
	return s != ""
}

// isReserved names the headers that frame or describe a request and those that the sidecar writes itself: no
// configuration may set them. With _ read as -, as some servers do.
func isReserved(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch name {
	case "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect",
		"accept-encoding", "x-request-id", "traceparent", "http2-settings":
		return true
	}
	return strings.HasPrefix(name, "x-onceonly-") || strings.HasPrefix(name, "proxy-")
}

// neverKept names the answer headers, in lower case, that belong to one answer and one caller.
func neverKept(name string) bool {
	switch name {
	case "set-cookie", "set-cookie2", "date", "www-authenticate", "proxy-authenticate", "authentication-info", "age",
		"retry-after", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
		"idempotent-replayed":
		return true
	}
	return strings.HasPrefix(name, "x-onceonly-") || strings.HasPrefix(name, "ratelimit") || strings.HasPrefix(name, "x-ratelimit")
}

// isPointer is RFC 6901: "" or /-separated members in which ~ is followed by 0 or 1.
func isPointer(s string) bool {
	if s != "" && s[0] != '/' {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}
