package govern

import (
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
// as Bearer, and how a URL spells that.
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
	for _, spelt := range []string{url.QueryEscape(secret), url.PathEscape(secret)} {
		if spelt != secret {
			hidden = append(hidden, spelt)
		}
	}
	return hidden
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
