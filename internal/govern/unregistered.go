package govern

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// unmatched decides about a forwarded request that no tool matches.
func (p *passage) unmatched() *Reply {
	if _, https := p.s.Registry.ToolHost(p.r.Target.Scheme, p.r.Target.Authority); https && p.r.Target.Scheme == "http" {
		return p.refuse("destination_denied", "Tools on this host are registered as https; nothing is sent to it in the clear.")
	}
	p.call.Method, p.call.Target = p.r.Method, p.r.Target
	switch {
	case p.s.Passthrough != nil && p.s.Passthrough(p.r.Target.Host()):
	case p.s.Unregistered != Lightly && p.stale(writes(p.r.Method) || p.s.Unregistered == Deny):
		return p.refuseStale() // what is a tool's is not known
	case p.s.Unregistered == Deny:
		return p.refuse("tool_not_registered", "No registered tool matches this path of "+p.r.Target.Authority+" with "+p.r.Method+".")
	case p.s.Unregistered == Lightly && writes(p.r.Method):
		p.is(p.g.standIns.of(p.r), p.r.Method, p.r.Target)
	}
	return p.agree()
}

func writes(method string) bool {
	switch method {
	case "POST", "PUT", "PATCH", "DELETE":
		return true
	}
	return false
}

// lightMode says whether an unregistered call is deduplicated at all: calls whose equal repetition is how their
// protocol works never are. JSON-RPC is known by its version member, wherever in the text that stands: a false alarm
// only means that the call is not deduplicated.
func lightMode(r *Request) tool.Mode {
	path := strings.TrimSuffix(r.Target.Path, "/")
	for _, end := range []string{"/token", "/graphql", "/search", "/query"} {
		if strings.HasSuffix(path, end) {
			return tool.Off
		}
	}
	if bytes.Contains(r.Body, []byte(`"jsonrpc"`)) {
		return tool.Off
	}
	return tool.Window
}

const (
	// lightTimeout is how long an unregistered call may take.
	lightTimeout = 120 * time.Second
	// lightWindow is how long after its end a delivered unregistered call is still answered from its record.
	lightWindow = 60 * time.Second
	// undelivered is how long the answer of an unregistered call waits for a caller that never got it.
	undelivered = 24 * time.Hour
	// maxStandIns bounds the stand-ins that are kept; beyond it they are made anew for each call, which only costs time.
	maxStandIns = 1024
)

// standIns are the tools that unregistered calls are governed as, by method and host.
type standIns struct {
	mu sync.RWMutex
	by map[standInKey]*tool.Tool // guarded by mu
}

type standInKey struct {
	method, scheme, authority string
	mode                      tool.Mode
}

func (s *standIns) of(r *Request) *tool.Tool {
	k := standInKey{r.Method, r.Target.Scheme, r.Target.Authority, lightMode(r)}
	s.mu.RLock()
	t := s.by[k]
	s.mu.RUnlock()
	if t != nil {
		return t
	}
	t = standIn(r.Method+":"+r.Target.HostHeader(), k.mode)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[standInKey]*tool.Tool{}
	}
	if len(s.by) < maxStandIns {
		k.method, k.scheme, k.authority = strings.Clone(k.method), strings.Clone(k.scheme), strings.Clone(k.authority)
		s.by[k] = t
	}
	return t
}

// standIn is what an unregistered call is governed as. Nothing is promised for it, so nothing is sent twice.
func standIn(name string, mode tool.Mode) *tool.Tool {
	return &tool.Tool{
		Name: name, Scope: "global", Effect: tool.Mutating, Timeout: lightTimeout, MaxInFlight: tool.DefaultMaxInFlight,
		Enabled: true, Source: "built-in", Unregistered: true,
		Dedup: tool.Dedup{Mode: mode, TTL: undelivered, FailedTTL: 10 * time.Second, Wait: 25 * time.Second, Scope: "agent"},
	}
}
