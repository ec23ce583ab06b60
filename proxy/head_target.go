package proxy

import (
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// memo remembers the last authority that a connection asked for: clients that keep connections repeat it.
type memo struct{ scheme, raw, spelling string }

// authority is tool.ParseAuthority with a memory.
func (m *memo) authority(scheme, raw string) (string, error) {
	if m.raw == raw && m.scheme == scheme && raw != "" {
		return m.spelling, nil
	}
	spelling, err := tool.ParseAuthority(scheme, raw)
	if err == nil {
		*m = memo{scheme, strings.Clone(raw), strings.Clone(spelling)}
	}
	return spelling, err
}

// judgeTarget reads the request target and compares it with the Host field.
func (h *head) judgeTarget(scheme string, m *memo) *fault {
	switch {
	case h.method == "CONNECT":
		return h.judgeAuthority()
	case h.target[0] == '/':
		return h.judgeOrigin(scheme, m)
	}
	return h.judgeAbsolute(m)
}

// judgeOrigin reads /path?query, which is for the listener itself or, in a tunnel, for the tunnel's host.
func (h *head) judgeOrigin(scheme string, m *memo) *fault {
	h.form = origin
	if h.hostRaw == "" {
		if h.http10 {
			return h.readPath(h.target)
		}
		return malformed("There is no Host header.")
	}
	var err error
	if h.host, err = m.authority(scheme, h.hostRaw); err != nil {
		return malformed("The Host header " + err.Error() + ".")
	}
	return h.readPath(h.target)
}

// judgeAbsolute reads scheme://authority/path?query.
func (h *head) judgeAbsolute(m *memo) *fault {
	h.form = absolute
	scheme, rest, ok := strings.Cut(h.target, "://")
	switch {
	case ok && strings.EqualFold(scheme, "http"):
		scheme = "http"
	case ok && strings.EqualFold(scheme, "https"):
		scheme = "https"
	default:
		return malformed("The request target is neither a path nor an http or https URL.")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	raw := rest[:end]
	if strings.IndexByte(raw, '@') >= 0 {
		return malformed("The request target holds user information; send it as a header.")
	}
	spelling, err := m.authority(scheme, raw)
	if err != nil {
		return malformed("The request target " + err.Error() + ".")
	}
	h.dest.Scheme, h.dest.Authority = scheme, spelling
	if f := h.agree(scheme, raw); f != nil {
		return f
	}
	return h.readPath(rest[end:])
}

// judgeAuthority reads host:port of a CONNECT. Clients send it without a Host, or with one without the port.
func (h *head) judgeAuthority() *fault {
	h.form = authority
	if colon := strings.LastIndexByte(h.target, ':'); colon < 0 || strings.HasSuffix(h.target, "]") {
		return malformed("CONNECT needs host:port.")
	}
	spelling, err := tool.ParseAuthority("https", h.target)
	if err != nil {
		return malformed("The CONNECT target " + err.Error() + ".")
	}
	h.dest.Authority = spelling
	if h.chunked || h.length > 0 {
		return malformed("CONNECT has no body.")
	}
	if h.hostRaw == "" {
		return nil
	}
	host, err := tool.ParseAuthority("https", h.hostRaw)
	if err != nil {
		return malformed("The Host header " + err.Error() + ".")
	}
	if host != spelling && (hasPort(h.hostRaw) || bareHost(host) != bareHost(spelling)) {
		return malformed("The Host header differs from the CONNECT target.")
	}
	h.host = host
	return nil
}

func hasPort(raw string) bool {
	return strings.LastIndexByte(raw, ':') > strings.LastIndexByte(raw, ']')
}

// bareHost is an authority's host without the port.
func bareHost(authority string) string { return authority[:strings.LastIndexByte(authority, ':')] }

// agree compares the Host field with the authority of the absolute target, whose text is raw.
func (h *head) agree(scheme, raw string) *fault {
	switch {
	case h.hostRaw == raw:
	case h.hostRaw == "" && h.http10:
		return nil
	case h.hostRaw == "":
		return malformed("There is no Host header.")
	default:
		host, err := tool.ParseAuthority(scheme, h.hostRaw)
		if err != nil {
			return malformed("The Host header " + err.Error() + ".")
		}
		if host != h.dest.Authority {
			return malformed("The Host header differs from the request target's host.")
		}
	}
	h.host = h.dest.Authority
	return nil
}

// readPath takes path?query; an empty path is /.
func (h *head) readPath(s string) *fault {
	h.dest.Path, h.dest.Query, _ = strings.Cut(s, "?")
	if h.dest.Path == "" {
		h.dest.Path = "/"
	}
	for rest := h.dest.Path; ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return nil
		}
		if i+2 >= len(rest) || !isHex(rest[i+1]) || !isHex(rest[i+2]) {
			return malformed("The path holds a % that is no escape.")
		}
		rest = rest[i+3:]
	}
}

func isHex(c byte) bool { return hexValue(c) >= 0 }

// hexValue is the value of a hex digit, or -1.
func hexValue(c byte) int {
	switch c = lower[c]; {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
