package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// minSecret is the least length of keys and tokens that let somebody in.
const minSecret = 16

// checker gathers what is wrong with a configuration as a whole, and what is odd.
type checker struct {
	*Config
	problems, warnings []Problem
}

// validate judges everything that the shape of the document does not say.
func (c *Config) validate() (problems, warnings []Problem) {
	v := &checker{Config: c}
	v.version()
	v.listeners()
	v.agent()
	v.keys()
	v.proxy()
	v.intercept()
	v.embedded()
	v.redis()
	v.control()
	v.limits()
	v.tools()
	v.policies()
	v.inline()
	return v.problems, v.warnings
}

func (v *checker) bad(key, message, mend string) {
	v.problems = append(v.problems, v.origin.problem(key, message, mend))
}

func (v *checker) odd(key, message, mend string) {
	v.warnings = append(v.warnings, v.origin.problem(key, message, mend))
}

// said says whether the key is written somewhere, whatever its value.
func (v *checker) said(key string) bool {
	_, ok := v.origin.at[key]
	return ok
}

// besides leaves out of found what an earlier problem with the same key, the section around it or something within it
// says already: a field that could not be read, or is misspelt, is not also missing.
func besides(earlier, found []Problem) []Problem {
	var rest []Problem
	for _, f := range found {
		told := false
		for _, e := range earlier {
			told = told || within(e.Key, f.Key) || within(f.Key, e.Key) || e.meant == f.Key
		}
		if !told {
			rest = append(rest, f)
		}
	}
	return rest
}

// within says whether key is outer or lies below it; below "", the whole file, lies everything.
func within(outer, key string) bool {
	rest, ok := strings.CutPrefix(key, outer)
	return outer == "" || ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (v *checker) version() {
	switch {
	case v.Version != 1:
		v.bad("version", fmt.Sprintf("%d is not known to this build", v.Version), "write version: 1")
	case !v.said("version") && v.path != "":
		v.bad("version", "is missing", "write version: 1 at the top")
	}
}

// listener is one address that the sidecar listens on.
type listener struct{ key, address string }

func (c *Config) listeners() []listener {
	return []listener{{"proxy.listen", c.Proxy.Listen}, {"api.listen", c.API.Listen}, {"health.listen", c.Health.Listen}}
}

func (v *checker) listeners() {
	var before []listener
	for _, l := range v.Config.listeners() {
		at, err := parseListen(l.address)
		if err != nil {
			v.bad(l.key, err.Error(), "write host:port, such as 127.0.0.1:4780")
			continue
		}
		for _, b := range before {
			if other, _ := parseListen(b.address); collide(at, other) {
				v.bad(l.key, fmt.Sprintf("%q is already where %s listens", l.address, b.key), "give each its own port")
			}
		}
		if l.key != "health.listen" && !at.Addr().IsLoopback() {
			v.odd(l.key, fmt.Sprintf("%q can be reached from other machines", l.address), "listen on 127.0.0.1, beside the agent")
		}
		before = append(before, l)
	}
}

// parseListen reads host:port, the host being an address, localhost or nothing (every address).
func parseListen(address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not host:port", address)
	}
	switch host {
	case "":
		host = "::"
	case "localhost":
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q: %q is no address of this machine", address, host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q: %q is no port", address, port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// collide says whether two listeners cannot both be there. Port 0 takes any free one.
func collide(a, b netip.AddrPort) bool {
	same := a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified()
	return a.Port() != 0 && a.Port() == b.Port() && same
}

func (v *checker) agent() {
	v.agentID("agent.id", v.Agent.ID)
	users := spot{key: "agent.proxy_users", schema: "agent.proxy_users"}
	first := map[string]string{}
	for id, token := range v.Agent.ProxyUsers {
		key := users.entry(id).key
		v.agentID(key, id)
		if strings.Contains(id, ":") {
			v.bad(key, "an id with a colon cannot be a proxy user", "name the agent without one")
		}
		v.secret(key, "the token", token)
		if other := first[token]; other != "" && token != "" {
			v.bad(max(key, other), "has the token of another user", "give each agent its own")
		}
		first[token] = key
	}
}

// agentID judges the id of one agent.
func (v *checker) agentID(key, id string) {
	switch {
	case id == "":
		v.bad(key, "is empty", "name the agent, such as billing-agent")
	case id == "*":
		v.bad(key, "* stands for all agents and cannot be one", "name the agent, such as billing-agent")
	case len(id) > 128:
		v.bad(key, "is longer than 128 bytes", "shorten it")
	case strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }):
		v.bad(key, "holds a space or a character outside ASCII", "use letters, digits, _ . : @ and -")
	}
}

// secret judges a key or token that lets somebody in; it is never shown.
func (v *checker) secret(key, what, secret string) {
	switch {
	case secret == "":
		v.bad(key, what+" is empty", "write ${env:NAME} or ${file:/path}")
	case len(secret) < minSecret:
		v.bad(key, fmt.Sprintf("%s has %d characters", what, len(secret)), fmt.Sprintf("at least %d are needed", minSecret))
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		v.bad(key, what+" holds a space, a line break or a character outside ASCII", "use letters, digits and punctuation")
	}
}

func (v *checker) keys() {
	names, values := map[string]string{}, map[string]string{}
	for i, k := range v.API.Keys {
		at := fmt.Sprintf("api.keys[%d]", i)
		switch {
		case k.Name == "":
			v.bad(at+".name", "is missing", "audit records name the key by it")
		case names[k.Name] != "":
			v.bad(at+".name", fmt.Sprintf("%q is also the name of %s", k.Name, names[k.Name]), "give each key its own")
		}
		v.secret(at+".key", "the key", k.Key)
		if other := values[k.Key]; other != "" && k.Key != "" {
			v.bad(at+".key", "is also the key of "+other, "give each its own: one key has one role")
		}
		names[k.Name], values[k.Key] = at, at
		switch {
		case k.Role == "":
			v.bad(at+".role", "is missing", "write agent, operator or sidecar")
		case k.Role != "agent" && k.AgentID != "":
			v.bad(at+".agent_id", "an "+k.Role+" key speaks for no agent of its own", "remove it")
		case k.AgentID != "":
			v.agentID(at+".agent_id", k.AgentID)
		}
		if err := checkRate(k.Rate); err != nil {
			v.bad(at+".rate", err.Error(), "write 100/s, 600/m or 5000/h")
		}
		if k.Namespace != "" && !plainName.MatchString(k.Namespace) {
			v.bad(at+".namespace", fmt.Sprintf("%q is no namespace", k.Namespace), "use letters, digits, _ and -")
		}
	}
}

// checkRate judges N/s, N/m and N/h; nothing is no limit.
func checkRate(rate string) error {
	if rate == "" {
		return nil
	}
	number, unit, _ := strings.Cut(rate, "/")
	if n, err := strconv.ParseUint(number, 10, 64); err != nil || n == 0 || n > 1_000_000_000 || unit != "s" && unit != "m" && unit != "h" {
		return fmt.Errorf("%q is not a rate", rate)
	}
	return nil
}

func (v *checker) intercept() {
	in := v.Proxy.Intercept
	if in.CAKey == "disk" && in.CAOut != "" && isBelow(v.caDir(), in.CAOut) {
		v.bad("proxy.intercept.ca_out", "the CA's key would lie in the directory that clients share", "name another directory, or set ca_key: memory")
	}
	if len(in.Hosts) == 0 {
		v.bad("proxy.intercept.hosts", "is empty", "write registered, all or a list of host names, or set enabled: false")
	}
	for i, h := range in.Hosts {
		key := fmt.Sprintf("proxy.intercept.hosts[%d]", i)
		word := h == "registered" || h == "all"
		if word && len(in.Hosts) > 1 {
			v.bad(key, h+" stands alone", "write hosts: "+h+", or a list of hosts")
		} else if !word && !isHostName(h) {
			v.bad(key, fmt.Sprintf("%q is no host", h), "write registered, all or a list of host names")
		}
	}
}

// caDir is where the local CA's key lies.
func (v *checker) caDir() string {
	if dir := v.Proxy.Intercept.CADir; dir != "" {
		return dir
	}
	return filepath.Join(v.Store.Embedded.Dir, "ca")
}

// isBelow says whether path is dir or below it.
func isBelow(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (v *checker) embedded() {
	e := v.Store.Embedded
	if e.Dir == "" {
		v.bad("store.embedded.dir", "is empty", "name a directory that only this sidecar uses")
	} else if info, err := os.Stat(e.Dir); err == nil && !info.IsDir() {
		v.bad("store.embedded.dir", "is no directory", "name a directory that only this sidecar uses")
	}
	v.positive("store.embedded.retention", e.Retention)
	v.least("store.embedded.max_bytes", int64(e.MaxBytes), 16*mib, "16MiB")
	v.least("store.embedded.max_keys", e.MaxKeys, 1, "1")
	v.least("store.embedded.max_unknown", e.MaxUnknown, 1, "1")
	if v.Store.SealKey != "" {
		v.secret("store.seal_key", "the key", v.Store.SealKey)
	}
}

func (v *checker) limits() {
	v.least("limits.answer_bytes", int64(v.Limits.AnswerBytes), 0, "0B")
	v.least("limits.waiters", int64(v.Limits.Waiters), 1, "1")
	v.least("limits.header_bytes", int64(v.Limits.HeaderBytes), kib, "1KiB")
	if v.Limits.HeaderBytes > mib {
		v.bad("limits.header_bytes", "must be at most 1MiB: each connection may take as much", "")
	}
	v.least("proxy.max_request_bytes", int64(v.Proxy.MaxRequestBytes), 1, "1B")
	if v.Limits.AnswerBytes > 32*mib {
		v.bad("limits.answer_bytes", "must be at most 32MiB: an answer is one entry of the journal", "")
	}
	if v.Proxy.TunnelIdle < 100*time.Millisecond {
		v.bad("proxy.tunnel_idle", "must be at least 100ms: no tunnel would last", "")
	}
}

func (v *checker) positive(key string, d time.Duration) {
	if d <= 0 {
		v.bad(key, "must be more than zero", "")
	}
}

func (v *checker) least(key string, n, least int64, shown string) {
	if n < least {
		v.bad(key, "must be at least "+shown, "")
	}
}

// inline warns of secrets that stand in the file as they are.
func (v *checker) inline() {
	for _, key := range v.origin.inline {
		v.odd(key, "a secret stands in the file itself", "write ${env:NAME} or ${file:/path}")
	}
}

// isHostName judges a host without port.
func isHostName(h string) bool {
	if _, err := netip.ParseAddr(h); err == nil {
		return true
	}
	authority, err := tool.ParseAuthority("https", h)
	return err == nil && strings.HasSuffix(authority, ":443") && !strings.Contains(h, ":")
}

func isProxyURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Opaque == "" &&
		(u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}
