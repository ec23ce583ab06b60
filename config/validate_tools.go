package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/proxy"
)

// Rules are what this configuration permits to tools, those set through the api among them: credentials over http://
// only to loopback and where proxy.allow_private covers the host. A name that only DNS can tell about passes when there
// are such ranges, and is judged by its address when it is dialled. With store.redis.shard: agent nothing is deduplicated
// over agents.
func (c *Config) Rules() tool.Rules {
	var ranges []netip.Prefix
	for _, cidr := range c.Proxy.AllowPrivate {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			ranges = append(ranges, p)
		}
	}
	apart := c.Store.Kind == "redis" && c.Store.Redis.Shard == "agent"
	return tool.Rules{AgentOnly: apart, Plain: func(host string) bool {
		host = strings.Trim(host, "[]")
		if address := c.resolved(host); address != "" {
			host = address
		}
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return len(ranges) > 0
		}
		for _, p := range ranges {
			if p.Contains(ip.Unmap()) {
				return true
			}
		}
		return ip.IsLoopback()
	}}
}

// resolved is what proxy.resolve says of host.
func (c *Config) resolved(host string) string {
	for name, address := range c.Proxy.Resolve {
		if strings.EqualFold(name, host) {
			return address
		}
	}
	return ""
}

// Registered builds the tools of the file.
func (c *Config) Registered() ([]*tool.Tool, error) {
	var tools []*tool.Tool
	var problems []error
	for _, entry := range c.Tools {
		t, err := c.Rules().New(entry)
		if problems = append(problems, err); err == nil {
			tools = append(tools, t)
		}
	}
	return tools, errors.Join(problems...)
}

func (v *checker) tools() {
	var tools []*tool.Tool
	for i, entry := range v.Tools {
		at := fmt.Sprintf("tools[%d]", i)
		t, err := v.Rules().New(entry)
		if err == nil {
			tools = append(tools, t)
			v.warn(at, t)
			v.reaches(at, t)
		}
		v.entry(at, err)
		v.selects(at, entry)
	}
	_, err := tool.NewRegistry(tools)
	for _, e := range unjoin(err) {
		v.entry(v.toolKey(e), e)
	}
}

// warn passes on what is odd about a tool.
func (v *checker) warn(key string, t *tool.Tool) {
	for _, w := range t.Warnings() {
		v.odd(key+"."+w.Field, w.Problem, "")
	}
}

// toolKey finds the entry that an error of the registry speaks of: the last one of that name, since the earlier ones
// were there before it.
func (v *checker) toolKey(err error) string {
	key := "tools"
	if f, ok := errors.AsType[*tool.FieldError](err); ok {
		for i, entry := range v.Tools {
			if "tool "+entry.Name == f.Entry {
				key = fmt.Sprintf("tools[%d]", i)
			}
		}
	}
	return key
}

// selects judges what tool.New takes for left out: a zero that would become the default, a list that selects nothing.
func (v *checker) selects(key string, c tool.Config) {
	empty := func(field, without string) {
		if v.said(key + "." + field) {
			v.bad(key+"."+field, "is empty and selects nothing", without)
		}
	}
	if c.MaxInFlight == 0 && v.said(key+".max_in_flight") {
		v.bad(key+".max_in_flight", "0 would let no call run", "write how many calls may run at once; to switch the tool off write enabled: false")
	}
	if c.Timeout == 0 && v.said(key+".timeout") {
		v.bad(key+".timeout", "must be more than zero", "write how long a call may take, such as 15s")
	}
	if len(c.Match) == 0 {
		empty("match", "name the calls that are meant, or remove it: then it is POST on url")
	}
	for i, m := range c.Match {
		if len(m.Methods) == 0 {
			empty(fmt.Sprintf("match[%d].methods", i), "name the methods that are meant, or remove it: then it is POST")
		}
	}
}

// reaches judges a tool whose calls would all be refused: at an address that no call may reach, whatever is allowed.
func (v *checker) reaches(key string, t *tool.Tool) {
	if l := v.own(t.Target.Host(), t.Target.Authority); l != "" {
		v.bad(key+".url", "is where "+l+" listens: no call may reach the sidecar itself", "write where the tool is")
		return
	}
	p := v.Proxy
	p.UpstreamCA, p.Via = "", "" // told of elsewhere
	dialer, err := proxy.NewDialer(p)
	if err != nil {
		return
	}
	if _, denied := dialer.Judge(t.Target, t); denied != nil {
		v.odd(key+".url", denied.Error()+": each of its calls is refused", "write where the tool is")
	}
}

// own is the listener of this sidecar that a host and its port lead to; empty when none does.
func (v *checker) own(host, authority string) string {
	host = strings.Trim(host, "[]")
	if address := v.resolved(host); address != "" {
		host = address
	} else if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(authority)
	for _, l := range v.Config.listeners() {
		at, err := parseListen(l.address)
		if err == nil && at.Port() != 0 && port == fmt.Sprint(at.Port()) && (at.Addr() == ip.Unmap() || at.Addr().IsUnspecified() && ip.IsLoopback()) {
			return l.key
		}
	}
	return ""
}

// entry reports what is wrong with one entry of a list, each at the place of its field.
func (v *checker) entry(key string, err error) {
	for _, e := range unjoin(err) {
		if f, ok := errors.AsType[*tool.FieldError](e); ok {
			v.bad(key+"."+f.Field, f.Problem, "")
			continue
		}
		v.bad(key, e.Error(), "")
	}
}

// unjoin lists the errors that were joined.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, unjoin(e)...)
		}
		return all
	}
	return []error{err}
}
