package govern

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// withheld stands where a tool's answer repeated a credential.
const withheld = "withheld"

// leastSecret is the length in bytes below which an injected value is no credential: a version, a flag.
const leastSecret = 8

// withhold takes the credentials that the sidecar adds to the tool's calls out of the headers of its answer: a redirect
// or an echo would show the agent what it must never see, and a replay would keep it. The headers are changed in place;
// they are this answer's own.
func (p *passage) withhold(headers []tool.Header) {
	if p.tool == nil || len(p.tool.Headers) == 0 || len(headers) == 0 {
		return
	}
	hidden := make([]string, 0, 2*len(p.tool.Headers))
	for i := range p.tool.Headers {
		hidden = appendSecrets(hidden, &p.tool.Headers[i])
	}
	for i := range headers {
		for _, secret := range hidden {
			if strings.Contains(headers[i].Value, secret) {
				headers[i].Value = strings.ReplaceAll(headers[i].Value, secret, withheld)
			}
		}
	}
}

// appendSecrets appends what of an injected header must not be seen: its value, or the part of it behind a scheme such
// as Bearer, what Basic encodes there, and how a URL spells each.
func appendSecrets(hidden []string, h *tool.Header) []string {
	if negotiates(h.Name) {
		return hidden
	}
	secret := h.Value
	if scheme, rest, ok := strings.Cut(secret, " "); ok && isScheme(scheme) {
		secret = strings.TrimLeft(rest, " ")
	}
	if len(secret) < leastSecret {
		return hidden
	}
	hidden = append(hidden, secret)
	hidden = appendSpelt(hidden, secret)
	if pair, err := base64.StdEncoding.DecodeString(secret); err == nil && len(h.Value) > 6 && strings.EqualFold(h.Value[:6], "Basic ") {
		user, password, _ := strings.Cut(string(pair), ":")
		if password == "" {
			password = user // as some services want their keys
		}
		for _, plain := range []string{string(pair), password} {
			if len(plain) >= leastSecret {
				hidden = appendSpelt(append(hidden, plain), plain)
			}
		}
	}
	return hidden
}

// appendSpelt appends how URLs spell the secret where that differs, with escapes in either case.
func appendSpelt(hidden []string, secret string) []string {
	for _, spelt := range []string{url.QueryEscape(secret), url.PathEscape(secret)} {
		if spelt != secret {
			hidden = append(hidden, spelt, lowerEscapes(spelt))
		}
	}
	return hidden
}

// lowerEscapes writes %2F as %2f and leaves everything else.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i:], bytes.ToLower(b[i:i+3]))
			i += 2
		}
	}
	return string(b)
}

// negotiates says whether a header says how to talk and not who talks: a tool's Content-Type may well repeat it.
func negotiates(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "accept") || strings.HasPrefix(name, "content-") || name == "user-agent" || name == "prefer"
}

// isScheme says whether a word is an authentication scheme (RFC 9110 §11.1) rather than the begin of a value with spaces.
func isScheme(word string) bool {
	switch strings.ToLower(word) {
	case "basic", "bearer", "token", "apikey", "digest", "negotiate", "dpop":
		return true
	}
	return false
}
