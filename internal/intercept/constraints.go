package intercept

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// constrain writes critical name constraints (RFC 5280, section 4.2.1.10) for the hosts, none for an empty list: the CA
// then counts for these names, for those below them, and for no other name and no other IP address.
func constrain(template *x509.Certificate, hosts []string) {
	if len(hosts) == 0 {
		return
	}
	template.PermittedDNSDomainsCritical = true
	four, six := false, false
	for _, host := range hosts {
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil {
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, strings.ToLower(strings.TrimSuffix(host, ".")))
			continue
		}
		ip = ip.Unmap()
		four, six = four || ip.Is4(), six || ip.Is6()
		template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())})
	}
	slices.Sort(template.PermittedDNSDomains)
	if len(template.PermittedDNSDomains) == 0 {
		template.ExcludedDNSDomains = []string{""} // every name
	}
	if !four {
		template.ExcludedIPRanges = append(template.ExcludedIPRanges, &net.IPNet{IP: make(net.IP, 4), Mask: make(net.IPMask, 4)})
	}
	if !six {
		template.ExcludedIPRanges = append(template.ExcludedIPRanges, &net.IPNet{IP: make(net.IP, 16), Mask: make(net.IPMask, 16)})
	}
}

var nameConstraints = []int{2, 5, 29, 30}

// constrained says whether c has the constraints that the hosts ask for.
func constrained(c *x509.Certificate, hosts []string) bool {
	var want x509.Certificate
	constrain(&want, hosts)
	critical := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(nameConstraints) && e.Critical })
	return critical == want.PermittedDNSDomainsCritical && slices.Equal(c.PermittedDNSDomains, want.PermittedDNSDomains) &&
		slices.Equal(c.ExcludedDNSDomains, want.ExcludedDNSDomains) &&
		sameRanges(c.PermittedIPRanges, want.PermittedIPRanges) && sameRanges(c.ExcludedIPRanges, want.ExcludedIPRanges)
}

func sameRanges(a, b []*net.IPNet) bool {
	return slices.EqualFunc(a, b, func(x, y *net.IPNet) bool { return x.IP.Equal(y.IP) && bytes.Equal(x.Mask, y.Mask) })
}
