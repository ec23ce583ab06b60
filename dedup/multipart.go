package dedup

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
)

// multipartBody is a multipart/form-data body of which every byte is accounted for: it is its parts, a boundary that
// stands nowhere in them, and nothing else. Encoders draw a new boundary for each attempt, so it does not count.
type multipartBody struct {
	params []namedValue // of the media type, without the boundary, by name
	parts  []bodyPart
}

// bodyPart is one part: what names it, and its content.
type bodyPart struct {
	name     string // the bytes between the quotes, escapes untouched
	filename string
	hasFile  bool
	kind     string       // its Content-Type
	rest     []namedValue // other parameters of its disposition and other headers, by name
	content  []byte
}

type namedValue struct{ name, value string }

// multipart writes the body as elements: form, parameters, and each part in its order.
func (w *writer) multipart(m *multipartBody) {
	w.string(string(formMultipart))
	w.namedValues(m.params)
	for i := range m.parts {
		p := &m.parts[i]
		start := w.open()
		w.string(p.name)
		if file := w.open(); p.hasFile {
			w.string(p.filename)
			w.shut(file)
		}
		w.string(p.kind)
		w.namedValues(p.rest)
		sum := sha256.Sum256(p.content)
		w.bytes(sum[:])
		w.shut(start)
	}
}

func (w *writer) namedValues(list []namedValue) {
	start := w.open()
	for _, v := range list {
		w.string(v.name)
		w.string(v.value)
	}
	w.shut(start)
}

// readMultipart takes the body apart. It is not ok when one byte of it is in doubt: then the bytes count as they are.
func readMultipart(contentType string, body []byte) (m multipartBody, ok bool) {
	_, rest, _ := strings.Cut(contentType, ";")
	boundary, ok := "", false
	if m.params, ok = readParams(";" + rest); !ok {
		return m, false
	}
	if boundary, m.params, ok = take(m.params, "boundary"); !ok || !isBoundary(boundary) {
		return m, false
	}
	delimiter := []byte("--" + boundary)
	rest2, ok := bytes.CutPrefix(body, delimiter)
	for ok {
		if end := string(rest2); end == "--" || end == "--\r\n" {
			return m, len(m.parts)+1 == bytes.Count(body, delimiter)
		}
		var p bodyPart
		if p, rest2, ok = readPart(rest2, delimiter); ok {
			m.parts = append(m.parts, p)
		}
	}
	return m, false
}

// readPart reads from the end of one delimiter to the end of the next.
func readPart(b, delimiter []byte) (p bodyPart, rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte("\r\n")); !ok {
		return p, nil, false
	}
	head, b, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok || !p.readHead(string(head)) {
		return p, nil, false
	}
	content, rest, ok := bytes.Cut(b, append([]byte("\r\n"), delimiter...))
	p.content = content
	return p, rest, ok
}

// readHead reads the part's headers. Names are compared in lower case; one that stands twice is in doubt.
func (p *bodyPart) readHead(head string) bool {
	var disposition string
	for _, line := range strings.Split(head, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return false
		}
		p.rest = append(p.rest, namedValue{strings.ToLower(name), trimSpace(value)})
	}
	if !sortUnique(p.rest) {
		return false
	}
	var ok bool
	if disposition, p.rest, ok = take(p.rest, "content-disposition"); !ok {
		return false
	}
	if p.kind, p.rest, ok = take(p.rest, "content-type"); ok && p.kind == "" {
		return false
	}
	return p.readDisposition(disposition)
}

// readDisposition reads form-data; name="…"; filename="…". Other parameters join the rest, behind a ; that no header's
// name has.
func (p *bodyPart) readDisposition(value string) bool {
	kind, rest, found := strings.Cut(value, ";")
	if !found || !strings.EqualFold(trimSpace(kind), "form-data") {
		return false
	}
	params, ok := readParams(";" + rest)
	if !ok {
		return false
	}
	if p.name, params, ok = take(params, "name"); !ok {
		return false
	}
	p.filename, params, p.hasFile = take(params, "filename")
	for _, v := range params {
		p.rest = append(p.rest, namedValue{";" + v.name, v.value})
	}
	return true
}

// readParams reads parameters, each behind a semicolon: token=token or token="text", where the text holds no quote and
// no backslash (programs differ in how they read those).
func readParams(s string) (params []namedValue, ok bool) {
	for s = trimSpace(s); s != ""; s = trimSpace(s) {
		if s[0] != ';' {
			return nil, false
		}
		name, rest, _ := strings.Cut(trimSpace(s[1:]), "=")
		if !isToken(name) {
			return nil, false
		}
		var value string
		if text, quoted := strings.CutPrefix(rest, `"`); quoted {
			value, s, ok = strings.Cut(text, `"`)
			ok = ok && !strings.ContainsAny(value, "\\\r\n\x00")
		} else {
			end := strings.IndexAny(rest, "; \t")
			if end < 0 {
				end = len(rest)
			}
			value, s = rest[:end], rest[end:]
			ok = isToken(value)
		}
		if !ok {
			return nil, false
		}
		params = append(params, namedValue{strings.ToLower(name), value})
	}
	return params, sortUnique(params)
}

func sortUnique(list []namedValue) bool {
	slices.SortFunc(list, func(a, b namedValue) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(list); i++ {
		if list[i].name == list[i-1].name {
			return false
		}
	}
	return true
}

// take removes the value of that name from the list.
func take(list []namedValue, name string) (value string, rest []namedValue, ok bool) {
	i := slices.IndexFunc(list, func(v namedValue) bool { return v.name == name })
	if i < 0 {
		return "", list, false
	}
	value = list[i].value
	return value, slices.Delete(list, i, i+1), true
}

// isBoundary says whether s is a boundary of RFC 2046: at most 70 characters of a small set.
func isBoundary(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !alphanumeric && strings.IndexByte("'()+_,-./:=? ", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= 70 && s[len(s)-1] != ' '
}
