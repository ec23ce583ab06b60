package proxy

import "github.com/oo-sidecar/oo-sidecar/internal/govern"

// ProbeHost is a name that no DNS has (RFC 2606): whoever gets an answer from it went through a sidecar. `doctor` asks
// it over http and https with each runtime it finds.
const ProbeHost = "probe.oo-sidecar.invalid"

// probe answers a request for ProbeHost; nil for any other.
func (s *Server) probe(c *conn, r *govern.Request) *govern.Reply {
	if s.Probe == nil || c.head.form == authority || r.Target.Authority == "" || bareHost(r.Target.Authority) != ProbeHost {
		return nil
	}
	return s.Probe(r)
}

// probeTunnel says what becomes of a tunnel to ProbeHost.
func (s *Server) probeTunnel() way {
	if s.settings.Load().opening != nil {
		return opened
	}
	return clearOnly
}
