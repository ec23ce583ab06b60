package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// hostGroups are the words of proxy.passthrough that stand for several hosts.
var hostGroups = []string{"model-apis"}

func (v *checker) proxy() {
	p := v.Proxy
	for i, h := range p.Passthrough {
		if name := strings.TrimPrefix(h, "*."); !slices.Contains(hostGroups, h) && !isHostName(name) {
			v.bad(fmt.Sprintf("proxy.passthrough[%d]", i), fmt.Sprintf("%q is no host", h), "write host names without scheme and port, or model-apis")
		}
	}
	for i, h := range p.Hosts {
		if !isHostName(h) {
			v.bad(fmt.Sprintf("proxy.hosts[%d]", i), fmt.Sprintf("%q is no host", h), "write a host name without scheme and port")
		}
	}
	first := map[string]string{}
	for _, host := range slices.Sorted(maps.Keys(p.Resolve)) {
		key := spot{key: "proxy.resolve"}.entry(host).key
		v.resolve(key, host, p.Resolve[host])
		name := strings.TrimSuffix(strings.ToLower(host), ".")
		if other, twice := first[name]; twice {
			v.bad(key, fmt.Sprintf("is the host of %s too", other), "keep one of the two")
		}
		first[name] = key
	}
	for i, cidr := range p.AllowPrivate {
		v.cidr(fmt.Sprintf("proxy.allow_private[%d]", i), cidr)
	}
	if p.Via != "" && !isProxyURL(p.Via) { // never shown: it may hold a password
		v.bad("proxy.via", "is not the URL of a proxy", "write http://host:port")
	} else if u, err := url.Parse(p.Via); p.Via != "" && err == nil && v.own(u.Hostname(), u.Host) != "" {
		v.bad("proxy.via", "is this sidecar itself: every call would come back to it", "name the proxy beyond it, or leave it out")
	}
	if p.UpstreamCA != "" {
		if err := checkRoots(p.UpstreamCA); err != nil {
			v.bad("proxy.upstream_ca", err.Error(), "name a file of PEM certificates")
		}
	}
}

func (v *checker) resolve(key, host, address string) {
	if !isHostName(host) {
		v.bad(key, fmt.Sprintf("%q is no host", host), "write a host name without scheme and port")
	}
	if ip, err := netip.ParseAddr(address); err != nil || ip.Zone() != "" {
		v.bad(key, fmt.Sprintf("%q is no address", address), "write an IP address without port, such as 127.0.0.1")
	}
}

func (v *checker) cidr(key, cidr string) {
	prefix, err := netip.ParsePrefix(cidr)
	switch {
	case err != nil:
		mend := "write an address range, such as 10.0.0.0/8"
		if ip, err := netip.ParseAddr(cidr); err == nil && ip.Zone() == "" {
			mend = fmt.Sprintf("write %s/%d for this one address", cidr, ip.BitLen())
		}
		v.bad(key, fmt.Sprintf("%q is no address range", cidr), mend)
	case prefix != prefix.Masked():
		v.bad(key, fmt.Sprintf("%q has bits set beyond its length", cidr), "write "+prefix.Masked().String())
	case prefix.Bits() == 0:
		v.odd(key, "allows every address", "name the ranges that tools live in")
	}
}

// checkRoots says whether path holds PEM certificates.
func checkRoots(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return fmt.Errorf("%q cannot be read: %w", path, err)
	}
	count := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("%q: certificate %d is broken: %w", path, count+1, err)
		}
		count++
	}
	if count == 0 {
		return fmt.Errorf("%q holds no certificate", path)
	}
	return nil
}
