package proxy

import (
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Limits of a request's head beside limits.header_bytes, which bounds the whole. RFC 9110 asks for lines of at least
// 8,000 octets; a hundred fields is what common servers stop at.
const (
	maxLine   = 8000
	maxFields = 100
	maxMethod = 32
)

// A fault is why the gate refuses a request: the refusal's code and, for people, what is wrong and where. It never
// quotes a value, which may be a secret.
type fault struct{ code, detail string }

func (f *fault) Error() string { return f.detail }

func malformed(detail string) *fault { return &fault{"bad_request", detail} }

// form is which of the four request targets of RFC 9112, section 3.2, a request has.
type form uint8

const (
	origin    form = iota // /path: for the listener itself
	absolute              // http://host/path: to be forwarded
	authority             // host:port, CONNECT only
)

// head is a request's head as the gate judged it. All strings are parts of text, which is a copy: nothing aliases the
// connection's buffer.
type head struct {
	text    string // from the method to the empty line
	method  string
	target  string // as it stood
	form    form
	http10  bool
	fields  []field
	dest    tool.Target // where the target says; for origin-form only path and query
	host    string      // the Host field's authority, port filled in; "" when there was none
	hostRaw string      // as it stood

	seen      uint32 // bit set of the kinds that stood in it
	length    int64  // of the body; 0 without one
	chunked   bool
	close     bool // the connection ends after this request
	websocket bool
	named     []string // further fields that Connection names
}

// field is one header field in its original spelling, with what the gate knows of its name.
type field struct {
	name, value string
	kind        kind
}

func (h *head) has(k kind) bool { return h.seen&(1<<k) != 0 }

// hasBody says whether the request announced a body. On GET and HEAD a length of zero announces none.
func (h *head) hasBody() bool {
	if h.length == 0 && (h.method == "GET" || h.method == "HEAD") {
		return h.chunked
	}
	return h.chunked || h.has(contentLength)
}

// judge reads the head in text, which ends with its empty line and whose lines all end in CRLF. It came over a
// connection of this scheme.
func (h *head) judge(text, scheme string, m *memo) *fault {
	*h = head{text: text, fields: h.fields[:0], named: h.named[:0]}
	line, rest := cutLine(text)
	if f := h.readRequestLine(line); f != nil {
		return f
	}
	for line, rest = cutLine(rest); line != ""; line, rest = cutLine(rest) {
		if f := h.readField(line); f != nil {
			return f
		}
	}
	if f := h.judgeFraming(); f != nil {
		return f
	}
	if f := h.judgeNamed(); f != nil {
		return f
	}
	return h.judgeTarget(scheme, m)
}

func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	return s[:i-1], s[i+1:]
}

// readRequestLine takes METHOD SP target SP HTTP/1.x and nothing else.
func (h *head) readRequestLine(line string) *fault {
	method, rest, ok1 := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 {
		return malformed("The request line is not METHOD target HTTP/1.1 with single spaces.")
	}
	if !isMethod(method) {
		return malformed("The method is not a word in upper case.")
	}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.http10, h.close = true, true
	default:
		return malformed("The version is not HTTP/1.1 or HTTP/1.0.")
	}
	if target == "" {
		return malformed("The request target is empty.")
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return malformed("The request target holds a character outside plain ASCII, a control character or a fragment; escape it as %XX.")
		}
	}
	h.method, h.target = method, target
	return nil
}

func isMethod(s string) bool {
	if s == "" || len(s) > maxMethod || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && s[i] != '-' {
			return false
		}
	}
	return true
}

// readField takes one field line: name, colon, value, without folding.
func (h *head) readField(line string) *fault {
	if line[0] == ' ' || line[0] == '\t' {
		return malformed("A header line begins with a space (obsolete folding).")
	}
	colon := strings.IndexByte(line, ':')
	if colon <= 0 || !isToken(line[:colon]) {
		return malformed("A header name is empty or holds a space or another character that names cannot hold.")
	}
	f := field{name: line[:colon]}
	raw := line[colon+1:]
	for i := range len(raw) {
		if c := raw[i]; c < ' ' && c != '\t' || c == 0x7f {
			return malformed("The value of header " + f.name + " holds a control character.")
		}
	}
	f.value = strings.Trim(raw, " \t")
	var under bool
	if f.kind, under = classify(f.name); under && f.kind.strict() {
		return malformed("The header name " + f.name + " is another one's when _ is read as -.")
	}
	if f.kind.single() && h.has(f.kind) && (f.kind != ours || h.twice(f.name)) {
		return malformed("The header " + f.name + " stands there twice.")
	}
	h.seen |= 1 << f.kind
	h.fields = append(h.fields, f)
	return h.readMeaning(f, raw)
}

// twice says whether a field of this name stands in the head already.
func (h *head) twice(name string) bool {
	for i := range h.fields {
		if strings.EqualFold(h.fields[i].name, name) {
			return true
		}
	}
	return false
}

// readMeaning reads the fields that frame and route.
func (h *head) readMeaning(f field, raw string) *fault {
	switch f.kind {
	case contentLength:
		return h.readLength(f.value, raw)
	case transferEncoding:
		if f.value != "chunked" || !plainOWS(raw) {
			return malformed("Transfer-Encoding is not exactly chunked.")
		}
		h.chunked = true
	case trailer:
		return malformed("Trailers are not accepted.")
	case hostName:
		if !plainOWS(raw) || f.value == "" {
			return malformed("The Host header is empty or padded.")
		}
		h.hostRaw = f.value
	case connection:
		h.readConnection(f.value)
	case upgrade:
		for word := range strings.SplitSeq(f.value, ",") {
			h.websocket = h.websocket || strings.EqualFold(strings.Trim(word, " \t"), "websocket")
		}
	case expect:
		if !h.http10 && !strings.EqualFold(f.value, "100-continue") {
			return &fault{"expectation_failed", "Only the expectation 100-continue is met."}
		}
	}
	return nil
}

// readLength takes a Content-Length of plain digits; a leading zero is octal to some.
func (h *head) readLength(value, raw string) *fault {
	if value == "" || len(value) > 15 || !plainOWS(raw) || value[0] == '0' && value != "0" {
		return malformed("Content-Length is not a plain number.")
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return malformed("Content-Length is not a plain number.")
		}
		h.length = h.length*10 + int64(value[i]-'0')
	}
	return nil
}

// plainOWS says that a value is padded with nothing but spaces before it. The grammar allows more; parsers that trim
// other bytes, or none, do not agree on what framing fields so padded mean.
func plainOWS(raw string) bool {
	s := strings.TrimLeft(raw, " ")
	return s != "" && s[0] != '\t' && s[len(s)-1] != ' ' && s[len(s)-1] != '\t'
}

func (h *head) readConnection(value string) {
	for word := range strings.SplitSeq(value, ",") {
		word = strings.Trim(word, " \t")
		switch {
		case word == "" || strings.EqualFold(word, "keep-alive"):
		case strings.EqualFold(word, "close"):
			h.close = true
		default:
			h.named = append(h.named, word)
		}
	}
}

// judgeFraming refuses a body that two parsers could end at different bytes.
func (h *head) judgeFraming() *fault {
	switch {
	case !h.chunked:
		return nil
	case h.has(contentLength):
		return malformed("Content-Length and Transfer-Encoding exclude each other.")
	case h.http10:
		return malformed("HTTP/1.0 knows no Transfer-Encoding.")
	}
	return nil
}

// judgeNamed refuses a Connection header that would make a proxy drop a field that matters.
func (h *head) judgeNamed() *fault {
	for _, name := range h.named {
		switch k, _ := classify(name); k {
		case plain, hop, upgrade, proxyAuth, proxyOther, forwarding, override:
		default:
			return malformed("Connection names the header " + classNames[k] + ", which is not the connection's.")
		}
	}
	return nil
}

// dropped says whether a field is not passed on: it is the connection's, ours, or says where the request came from.
func (h *head) dropped(f *field) bool {
	switch f.kind {
	case plain:
		for _, n := range h.named {
			if strings.EqualFold(n, f.name) {
				return true
			}
		}
		return false
	case contentType, authorization, idempotencyKey:
		return false
	}
	return true
}
