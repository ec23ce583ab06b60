package dedup

import (
	"crypto/sha256"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// form says how a body is compared.
type form string

const (
	formNone      form = "none"      // no bytes, whatever the media type; not the same as {}
	formJSON      form = "json"      // media type in lower case without parameters, canonical text
	formMultipart form = "multipart" // parameters but the boundary, parts
	formBytes     form = "bytes"     // Content-Type as it stands, the bytes
)

// arguments is the hash of the canonical arguments: of what the body says, in its own form.
func (w *writer) arguments(c *tool.Call, ignore []string) (Key, error) {
	start := len(w.buf)
	w.string(kindArguments)
	f, media := bodyForm(c)
	switch f {
	case formNone:
		w.string(string(formNone))
	case formJSON:
		w.string(string(formJSON))
		w.string(media)
		if err := w.json(c, ignore); err != nil {
			return Key{}, err
		}
	case formMultipart:
		if m, ok := readMultipart(media, c.Body); ok {
			w.multipart(&m)
			break
		}
		w.rawBody(media, c.Body)
	default:
		w.rawBody(media, c.Body)
	}
	return w.sum(start), nil
}

// bodyForm says how a call's body is compared, and its media type as that form wants it.
func bodyForm(c *tool.Call) (form, string) {
	if len(c.Body) == 0 {
		return formNone, ""
	}
	contentType := mediaType(c.Header)
	essence, _, _ := strings.Cut(contentType, ";")
	essence = strings.ToLower(trimSpace(essence))
	switch {
	case isJSON(essence):
		return formJSON, essence
	case essence == "multipart/form-data":
		return formMultipart, contentType
	}
	return formBytes, contentType
}

// mediaType is the value of Content-Type. The gate refuses two of them; here two are simply no media type that means
// anything.
func mediaType(headers []tool.Header) string {
	var value string
	var n int
	for i := range headers {
		if strings.EqualFold(headers[i].Name, "Content-Type") {
			if n++; n > 1 {
				value += ", "
			}
			value += trimSpace(headers[i].Value)
		}
	}
	return value
}

// isJSON says whether a media type in lower case is JSON: application/json, or a type with the suffix +json.
func isJSON(essence string) bool {
	if essence == "application/json" {
		return true
	}
	top, sub, ok := strings.Cut(essence, "/")
	return ok && strings.HasSuffix(sub, "+json") && isToken(top) && isToken(sub)
}

// isToken says whether s is a token of RFC 9110.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// json writes the canonical form of the body as one element.
func (w *writer) json(c *tool.Call, ignore []string) error {
	s := scanners.Get().(*scanner)
	defer s.release()
	s.ignore(c, ignore)
	start := w.open()
	s.out, w.buf = w.buf, s.out // the scanner writes into the list
	err := s.scan(c.Body)
	s.out, w.buf = w.buf, s.out
	w.shut(start)
	return err
}

// ignore takes the pointers that a call leaves out: those of the tool's rule, those that came with the call, and the
// place where the sidecar writes its own key over whatever the agent put there.
func (s *scanner) ignore(c *tool.Call, rule []string) {
	s.pointers = append(append(s.pointers, rule...), c.Ignore...)
	if p := c.Tool.UpstreamKey.JSON; p != "" {
		s.pointers = append(s.pointers, p)
	}
}

// rawBody writes a body that counts byte for byte: as its SHA-256, so that a large one is not copied.
func (w *writer) rawBody(contentType string, body []byte) {
	w.string(string(formBytes))
	w.string(contentType)
	sum := sha256.Sum256(body)
	w.bytes(sum[:])
}

// IsJSON says whether the call's body is compared as JSON. Derive then refuses it unless it is strictly JSON, so that
// others may read it too.
func IsJSON(c *tool.Call) bool {
	f, _ := bodyForm(c)
	return f == formJSON
}
