package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"
)

func (v *checker) control() {
	c := v.Control
	if c.BaseURL == "" {
		if c.Lease == "remote" {
			v.bad("control.lease", "remote leases need a control plane", "set control.base_url, or write lease: local")
		}
		return
	}
	v.controlURL(c.BaseURL)
	if c.APIKey == "" {
		v.bad("control.api_key", "is missing", "write ${env:NAME} or ${file:/path}")
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

func (v *checker) controlURL(raw string) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.bad("control.base_url", fmt.Sprintf("%q is not the address of an API", raw), "write https://host[:port][/path]")
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
		if len(c.Headers) > 0 && c.Host == "" {
			v.bad(at+".host", "is missing: the headers would follow the tool wherever the control plane moves it", "name the host that they are for")
		}
		if host, _, err := net.SplitHostPort(c.Host); c.Host != "" && !isHostName(c.Host) && (err != nil || !isHostName(host)) {
			v.bad(at+".host", fmt.Sprintf("%q is no host", c.Host), "write host or host:port")
		}
	}
}
