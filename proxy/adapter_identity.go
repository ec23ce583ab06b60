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
	Guests  map[string]Guest  // children of `run`, by proxy user
	Guarded bool              // every request needs a user, also while there are none
}

// Guest is a proxy user that lives as long as one child of `run`. Its name is the run id of calls that name none.
type Guest struct{ Agent, Token string }

// open says that nobody needs a proof.
func (who *Identity) open() bool { return !who.Guarded && len(who.Users) == 0 }

// find is the agent that a proxy user stands for, its token, and the run that it is.
func (who *Identity) find(user string) (agent, token, run string, is bool) {
	if token, is := who.Users[user]; is {
		return user, token, "", true
	}
	guest, is := who.Guests[user]
	return guest.Agent, guest.Token, user, is
}

// identify finds out who asks and says whether the proof holds. Without proxy users everyone is the configured agent
// and a Proxy-Authorization says nothing; with them it names the agent. On /tools, where no client sends one, an
// Authorization that names a configured id does the same and goes no further: it is the sidecar's, not the tool's.
func (s *Server) identify(c *conn, r *govern.Request) bool {
	who := s.Identity()
	if who.open() {
		return true
	}
	known := false
	for i := range c.head.fields {
		if f := &c.head.fields[i]; f.kind == proxyAuth {
			if known = who.introduce(r, f.value); !known {
				return false
			}
			c.guest = who.guest(f.value)
		}
	}
	if r.Route != govern.Reverse {
		return known
	}
	at := slices.IndexFunc(r.Header, func(h tool.Header) bool { return strings.EqualFold(h.Name, "Authorization") })
	if at < 0 {
		return known
	}
	user, _, ok := basic(r.Header[at].Value)
	if _, _, _, configured := who.find(user); !ok || !configured {
		return known
	}
	caller := r
	if known { // by the other field, which counts
		caller = new(govern.Request)
	}
	if !who.introduce(caller, r.Header[at].Value) {
		return false
	}
	r.Header = slices.Delete(r.Header, at, at+1)
	return true
}

// guest is the guest's name in a credential; "" for a configured user.
func (who *Identity) guest(credential string) string {
	user, _, _ := basic(credential)
	if _, configured := who.Users[user]; configured {
		return ""
	}
	return user
}

// stays says whether who opened the tunnel of c may still ask.
func (s *Server) stays(c *conn) bool {
	if c.guest == "" {
		return true
	}
	_, is := s.Identity().Guests[c.guest]
	return is
}

// introduce writes into r who asks, if the credential proves it. It compares in a time that tells nothing about the
// tokens.
func (who *Identity) introduce(r *govern.Request, credential string) bool {
	user, token, ok := basic(credential)
	if !ok {
		return false
	}
	agent, want, run, configured := who.find(user)
	a, b := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !configured || want == "" {
		return false
	}
	r.Agent = agent
	if r.RunID == "" {
		r.RunID = run
	}
	return true
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
