package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Identity says who may ask. It is immutable.
type Identity struct {
	Default string            // agent.id
	Users   map[string]string // agent.proxy_users: agent id → token; with any, every request needs one
}

// identify finds out who asks and says whether the proof holds. Without proxy users everyone is the configured agent
// and a Proxy-Authorization says nothing; with them it names the agent. On /tools, where no client sends one, an
// Authorization that names a configured id does the same and goes no further: it is the sidecar's, not the tool's.
func (s *Server) identify(c *conn, r *govern.Request) bool {
	who := s.Identity()
	if len(who.Users) == 0 {
		return true
	}
	known := false
	for i := range c.head.fields {
		if f := &c.head.fields[i]; f.kind == proxyAuth {
			r.Agent, known = who.check(f.value)
			if !known {
				return false
			}
		}
	}
	if r.Route != govern.Reverse {
		return known
	}
	at := slices.IndexFunc(r.Header, func(h tool.Header) bool { return strings.EqualFold(h.Name, "Authorization") })
	if at < 0 {
		return known
	}
	id, _, ok := basic(r.Header[at].Value)
	if _, configured := who.Users[id]; !ok || !configured {
		return known
	}
	agent, right := who.check(r.Header[at].Value)
	if !right {
		return false
	}
	if !known {
		r.Agent = agent
	}
	r.Header = slices.Delete(r.Header, at, at+1)
	return true
}

// check compares a credential with the configured tokens in a time that tells nothing about them.
func (who *Identity) check(credential string) (agent string, right bool) {
	id, token, ok := basic(credential)
	if !ok {
		return "", false
	}
	want, configured := who.Users[id]
	a, b := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !configured || want == "" {
		return "", false
	}
	return id, true
}

// basic reads Basic credentials (RFC 7617).
func basic(value string) (id, token string, ok bool) {
	scheme, code, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.Trim(code, " "))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}
