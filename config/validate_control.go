package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

func (v *checker) control() {
	c := v.Control
	if c.BaseURL == "" {
		v.controlOfNobody()
		return
	}
	v.controlURL(c.BaseURL)
	switch {
	case c.APIKey == "":
		v.bad("control.api_key", "is missing", "write ${env:NAME} or ${file:/path}")
	case strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r > '~' }):
		v.bad("control.api_key", "holds a space, a line break or a character outside ASCII", "use the key as the control plane shows it")
	}
	if c.Poll < 100*time.Millisecond || c.Poll > time.Hour {
		v.bad("control.poll", fmt.Sprintf("%v is out of range", c.Poll), "from 100ms to 1h")
	}
	if c.MaxStale < c.Poll {
		v.bad("control.max_stale", "is shorter than control.poll: what was just read would be stale", "make it several polls long")
	}
	if c.Timeout < 50*time.Millisecond || c.Timeout > time.Minute {
		v.bad("control.timeout", fmt.Sprintf("%v is out of range", c.Timeout), "from 50ms to 1m")
	}
	if c.KeySecret != "" {
		v.secret("control.key_secret", "the secret", c.KeySecret)
	}
	if c.Lease == "remote" && v.Store.Kind == "redis" {
		v.bad("control.lease", "remote leases and store.kind redis are two judges of one call", "write lease: local: Redis holds at most once between sidecars already")
	}
	v.credentials()
}

// controlOfNobody refuses what is said to a control plane that there is not: whoever wrote it believes that one governs.
func (v *checker) controlOfNobody() {
	c := v.Control
	if c.Lease == "remote" {
		v.bad("control.lease", "remote leases need a control plane", "set control.base_url, or write lease: local")
	}
	for _, f := range []struct {
		key string
		set bool
	}{{"api_key", c.APIKey != ""}, {"key_secret", c.KeySecret != ""}, {"results", c.Results}, {"credentials", len(c.Credentials) > 0}} {
		if f.set {
			v.bad("control."+f.key, "is for a control plane, and there is none", "set control.base_url, or remove it")
		}
	}
}

func (v *checker) controlURL(raw string) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.bad("control.base_url", fmt.Sprintf("%q is not the address of an API", raw), "write https://host[:port][/path]")
		return
	}
	if v.own(u.Hostname(), u.Host) != "" {
		v.bad("control.base_url", "is this sidecar itself, which cannot follow its own word", "name the control plane, or leave it out")
		return
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		v.odd("control.base_url", "the key and what it answers go in the clear", "write https://")
	}
}

func (v *checker) credentials() {
	seen := map[string]int{}
	for i, c := range v.Control.Credentials {
		at := fmt.Sprintf("control.credentials[%d]", i)
		if c.Tool == "" {
			v.bad(at+".tool", "is missing", "name the control plane's tool")
		}
		if other, ok := seen[c.Tool]; ok {
			v.bad(at+".tool", fmt.Sprintf("%q stands in control.credentials[%d] already", c.Tool, other), "")
		}
		seen[c.Tool] = i
		if len(c.Headers) == 0 && len(c.Secrets) == 0 {
			v.bad(at, "has neither secrets nor headers", "write what is added to the tool's calls, or remove the entry")
		} else if c.Host == "" {
			v.bad(at+".host", "is missing: the credential would follow the tool wherever the control plane moves it", "name the host that it is for")
		}
		if host, _, err := net.SplitHostPort(c.Host); c.Host != "" && !isHostName(c.Host) && (err != nil || !isHostName(host)) {
			v.bad(at+".host", fmt.Sprintf("%q is no host", c.Host), "write host or host:port")
		}
	}
}
