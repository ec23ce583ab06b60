package dedup

import (
	"bytes"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// neverCounted are the headers that never make two calls different, unless a tool's dedup.headers names them: how the
// message is carried, who carries it, when, under which trace, and which software sent it. A * at either end stands
// for any text. The list is published: a change of it is a change of every key.
var neverCounted = []string{
	"accept-encoding", // the sidecar asks for identity
	"amz-sdk-*",
	"baggage",
	"connection",
	"content-length",
	"date",
	"expect",
	"forwarded",
	"host", // the authority is in the key
	"idempotency-key",
	"keep-alive",
	"proxy-*",
	"te",
	"trailer",
	"traceparent",
	"tracestate",
	"transfer-encoding",
	"upgrade",
	"user-agent",
	"via",
	"x-amz-date",
	"x-b3-*",
	"x-datadog-*",
	"x-forwarded-*",
	"x-onceonly-*",
	"x-stainless-*",
	"x-stripe-client-*",
	"*-trace*",
	"*correlation-id",
	"*request-id",
}

// weight says what a header is to a call's key, or why it is nothing.
type weight string

const (
	asItIs      weight = "its value"
	asDigest    weight = "SHA-256 of its value"
	asScope     weight = "the key id, region and service of its AWS signature"
	asMediaType weight = "with the arguments"
	listed      weight = "on the list of headers that never count"
	ignored     weight = "named by dedup.ignore_headers"
	unnamed     weight = "not named by dedup.headers"
	replaced    weight = "replaced by the sidecar before the tool sees it"
)

func (w weight) counts() bool { return w == asItIs || w == asDigest || w == asScope }

// weigh says how a header of the agent counts. Name is in lower case.
func weigh(t *tool.Tool, name []byte, value string) weight {
	switch {
	case isReplaced(t, name):
		return replaced
	case t.Dedup.Headers != nil:
		if !anyMatches(t.Dedup.Headers, name) {
			return unnamed
		}
	case string(name) == "content-type":
		return asMediaType
	case never.matches(name):
		return listed
	case anyMatches(t.Dedup.IgnoreHeaders, name):
		return ignored
	}
	return credentialWeight(name, value)
}

func credentialWeight(name []byte, value string) weight {
	switch string(name) {
	case "authorization":
		if _, ok := awsIdentity(value); ok {
			return asScope
		}
		return asDigest
	case "cookie":
		return asDigest
	}
	return asItIs
}

// isReplaced says whether the agent's value never reaches the tool.
func isReplaced(t *tool.Tool, name []byte) bool {
	for i := range t.Headers {
		if equalFold(t.Headers[i].Name, name) {
			return true
		}
	}
	return t.UpstreamKey.Header != "" && equalFold(t.UpstreamKey.Header, name)
}

// equalFold compares a header name with one in lower case; header names are ASCII.
func equalFold(name string, lower []byte) bool {
	return len(name) == len(lower) && strings.EqualFold(name, string(lower))
}

// patterns are header names with * at their ends, sorted by what they ask for.
type patterns struct {
	whole                       map[string]bool
	prefixes, suffixes, inwards []string
}

var never = compile(neverCounted)

func compile(list []string) (p patterns) {
	p.whole = map[string]bool{}
	for _, s := range list {
		head, tail := strings.HasPrefix(s, "*"), strings.HasSuffix(s, "*")
		switch text := strings.Trim(s, "*"); {
		case head && tail:
			p.inwards = append(p.inwards, text)
		case head:
			p.suffixes = append(p.suffixes, text)
		case tail:
			p.prefixes = append(p.prefixes, text)
		default:
			p.whole[text] = true
		}
	}
	return p
}

func (p *patterns) matches(name []byte) bool {
	if p.whole[string(name)] {
		return true
	}
	for _, s := range p.prefixes {
		if len(name) >= len(s) && string(name[:len(s)]) == s {
			return true
		}
	}
	for _, s := range p.suffixes {
		if len(name) >= len(s) && string(name[len(name)-len(s):]) == s {
			return true
		}
	}
	for _, s := range p.inwards {
		if containsText(name, s) {
			return true
		}
	}
	return false
}

func containsText(b []byte, s string) bool {
	for i := 0; i+len(s) <= len(b); i++ {
		if string(b[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}

// anyMatches says whether one of a tool's own patterns matches.
func anyMatches(list []string, name []byte) bool {
	for _, s := range list {
		if strings.IndexByte(s, '*') < 0 {
			if s == string(name) {
				return true
			}
			continue
		}
		if p := compile([]string{s}); p.matches(name) {
			return true
		}
	}
	return false
}

// countedHeader is a header that counts: where its name in lower case stands in the scratch text, and its value.
type countedHeader struct {
	name, nameEnd int
	value         string
	weight        weight
}

// countHeaders collects the headers that count, by name; those of one name keep their order, which may mean something.
func (w *writer) countHeaders(c *tool.Call) {
	for i := range c.Header {
		h := &c.Header[i]
		from := len(w.text)
		w.text = appendLower(w.text, h.Name)
		name := w.text[from:]
		value := trimSpace(h.Value)
		weight := weigh(c.Tool, name, value)
		if !weight.counts() {
			w.text = w.text[:from]
			continue
		}
		w.counted = append(w.counted, countedHeader{from, len(w.text), value, weight})
	}
	slices.SortStableFunc(w.counted, func(a, b countedHeader) int {
		return bytes.Compare(w.text[a.name:a.nameEnd], w.text[b.name:b.nameEnd])
	})
}

// headers makes w.sent of the headers that count: a list of names and values.
func (w *writer) headers(c *tool.Call) {
	w.countHeaders(c)
	start := len(w.buf)
	for i := range w.counted {
		h := &w.counted[i]
		w.bytes(w.text[h.name:h.nameEnd])
		w.headerValue(h)
	}
	w.sent = append(w.sent[:0], w.buf[start:]...)
	w.buf = w.buf[:start]
}

func (w *writer) headerValue(h *countedHeader) {
	switch h.weight {
	case asDigest:
		sum := w.sumString(h.value)
		w.bytes(sum[:])
	case asScope:
		identity, _ := awsIdentity(h.value)
		w.string(identity)
	default:
		w.string(h.value)
	}
}

// awsIdentity is what an Authorization header of AWS Signature Version 4 says about who signs for what: scheme, key id,
// region and service. The day is left out of it for the reason x-amz-date is: a retry after midnight is still a retry.
// A header that reads otherwise is not ok.
func awsIdentity(value string) (identity string, ok bool) {
	scheme, rest, _ := strings.Cut(value, " ")
	if scheme != "AWS4-HMAC-SHA256" && scheme != "AWS4-ECDSA-P256-SHA256" {
		return "", false
	}
	const field = "Credential="
	i := strings.Index(rest, field)
	if i < 0 || i > 0 && rest[i-1] != ' ' && rest[i-1] != ',' {
		return "", false
	}
	credential, _, _ := strings.Cut(rest[i+len(field):], ",")
	keyID, scope, _ := strings.Cut(trimSpace(credential), "/")
	day, scope, _ := strings.Cut(scope, "/")
	if keyID == "" || len(day) != 8 || !strings.HasSuffix(scope, "/aws4_request") {
		return "", false
	}
	return scheme + " " + keyID + "/" + scope, true
}

func appendLower(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// trimSpace removes the optional white space around a header's value (RFC 9110, section 5.5).
func trimSpace(s string) string { return strings.Trim(s, " \t") }
