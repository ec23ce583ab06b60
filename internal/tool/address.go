package tool

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseTarget reads an absolute http or https URL of the configuration. It refuses what a tool's URL cannot hold:
// user information, fragments, characters outside RFC 3986, hosts that are not ASCII. Braces of patterns pass.
func ParseTarget(raw string) (Target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return Target{}, errors.New("is not an absolute http or https URL; write it as https://host/path")
	}
	if strings.Contains(rest, "#") {
		return Target{}, errors.New("has a fragment (#…), which is never sent; remove it")
	}
	rest, query, asked := strings.Cut(rest, "?")
	if asked && query == "" {
		return Target{}, errors.New("ends in an empty query; remove the ?")
	}
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	if strings.Contains(rest[:end], "@") {
		return Target{}, errors.New("has user information before the host; put credentials into headers")
	}
	authority, err := ParseAuthority(scheme, rest[:end])
	if err != nil {
		return Target{}, err
	}
	t := Target{Scheme: scheme, Authority: authority, Path: rest[end:], Query: query}
	if t.Path == "" {
		t.Path = "/"
	}
	if i := strings.IndexFunc(t.Path+query, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"<>\\^`|", r) }); i >= 0 {
		return Target{}, errors.New("holds a character that a URL cannot hold; escape it as %XX")
	}
	return t, nil
}

// ParseAuthority reads host[:port] and returns its one spelling: lower case, no trailing dot, the port always there
// (that of the scheme when none was given), IP literals as netip writes them, IPv6 in brackets.
func ParseAuthority(scheme, s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("has a host that is not plain ASCII; write international names as xn--…")
	}
	host, port, err := splitAuthority(s)
	if err != nil {
		return "", err
	}
	if port == "" {
		port = "80"
		if scheme == "https" {
			port = "443"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return "", fmt.Errorf("has the port %q; write a number from 1 to 65535", port)
	}
	if host, err = parseHost(host); err != nil {
		return "", err
	}
	return host + ":" + port, nil
}

func splitAuthority(s string) (host, port string, err error) {
	end := strings.LastIndexByte(s, ':')
	if bracket := strings.LastIndexByte(s, ']'); bracket >= 0 {
		end = bracket + 1
		if end == len(s) {
			return s, "", nil
		}
		if s[end] != ':' {
			return "", "", errors.New("has something between ] and the port")
		}
	}
	if end < 0 {
		return s, "", nil
	}
	if end == len(s)-1 {
		return "", "", errors.New("has a colon without a port behind it")
	}
	return s[:end], s[end+1:], nil
}

func parseHost(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		addr, err := netip.ParseAddr(strings.TrimSuffix(s[1:], "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(s, "]") {
			return "", fmt.Errorf("has the host %q, which is no IPv6 address in brackets without a zone", shorten(s))
		}
		return "[" + addr.String() + "]", nil
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" {
		return "", errors.New("has no host")
	}
	labels := strings.Split(s, ".")
	if last := labels[len(labels)-1]; isDigits(last) || strings.HasPrefix(last, "0x") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return "", fmt.Errorf("has the host %q, which is neither a name nor an IP address in its usual form", shorten(s))
		}
		return addr.String(), nil
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return !isUnreserved(byte(r)) || r == '~' }) {
			return "", fmt.Errorf("has the host %q, which is no host name", shorten(s))
		}
	}
	if len(s) > 253 {
		return "", errors.New("has a host name of more than 253 characters")
	}
	return s, nil
}

// Host is the authority's host without port; brackets of an IPv6 address are kept.
func (t Target) Host() string { return hostOf(t.Authority) }

func hostOf(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		return authority[:i]
	}
	return authority
}

// HostHeader is the authority as the Host header of a request spells it: without the scheme's own port. A signature over
// the authority as sent signs this text.
func (t Target) HostHeader() string {
	if t.Scheme == "https" {
		return strings.TrimSuffix(t.Authority, ":443")
	}
	return strings.TrimSuffix(t.Authority, ":80")
}

// String is the target as a URL, with its port.
func (t Target) String() string {
	s := t.Scheme + "://" + t.Authority + t.Path
	if t.Query != "" {
		s += "?" + t.Query
	}
	return s
}

// isLoopback says whether the host is this machine whatever a resolver says.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}
