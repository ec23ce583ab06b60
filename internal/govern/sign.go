package govern

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// attempt makes the n-th request of the call, signed over the exact bytes that will be sent.
func (p *passage) attempt(n int) (*Attempt, error) {
	now := time.Now()
	a := &Attempt{Tool: p.tool, Method: p.call.Method, Target: p.call.Target, HasBody: p.call.HasBody || p.tool.Body == tool.Envelope, Timeout: p.tool.Timeout}
	var err error
	if a.Body, err = p.compose(p.runKey, now); err != nil {
		return nil, err
	}
	a.Header = p.toTool(p.runKey)
	keys := p.s.signers[p.tool]
	if keys == nil {
		return a, nil
	}
	signed, err := keys.Sign(p.signable(a, p.runKey), now)
	if err != nil {
		return nil, err
	}
	for _, f := range signed {
		a.Header = append(a.Header, tool.Header{Name: f.Name, Value: f.Value})
	}
	a.Header = append(a.Header, p.whoCalls(n)...)
	return a, nil
}

// toTool are the headers of the request to the tool: the agent's end-to-end ones, then those of ours. Of an unregistered
// call nothing is known, so the agent's own Idempotency-Key goes on as it is.
func (p *passage) toTool(key string) []tool.Header {
	h := make([]tool.Header, 0, len(p.call.Header)+len(p.tool.Headers)+16)
	for _, f := range p.call.Header {
		if !p.replaced(f.Name) {
			h = append(h, f)
		}
	}
	if p.tool.Body == tool.Envelope {
		h = append(h, tool.Header{Name: "Content-Type", Value: "application/json"})
	}
	h = append(h, tool.Header{Name: "Accept-Encoding", Value: "identity"})
	h = append(h, p.tool.Headers...)
	if name := p.tool.UpstreamKey.Header; name != "" {
		h = append(h, tool.Header{Name: name, Value: key})
	}
	return h
}

// replaced says whether the agent's header does not go to the tool as it is.
func (p *passage) replaced(name string) bool {
	switch {
	case strings.EqualFold(name, "Accept-Encoding"):
		return true
	case strings.EqualFold(name, "Idempotency-Key"):
		return !p.tool.Unregistered
	case strings.EqualFold(name, "Content-Type"):
		return p.tool.Body == tool.Envelope
	}
	if u := p.tool.UpstreamKey.Header; u != "" && strings.EqualFold(name, u) {
		return true
	}
	for i := range p.tool.Headers {
		if strings.EqualFold(name, p.tool.Headers[i].Name) {
			return true
		}
	}
	return false
}

func (p *passage) signable(a *Attempt, key string) *hmac.Call {
	path := a.Target.Path
	if a.Target.Query != "" {
		path += "?" + a.Target.Query
	}
	c := &hmac.Call{
		Method: a.Method, Authority: a.Target.HostHeader(), Path: path, Body: a.Body,
		Fence: p.begun.Fence, Tool: p.name, Agent: p.r.Agent, ID: key,
	}
	if p.tool.UpstreamKey.Header != "" {
		c.Key = key
	}
	return c
}

// whoCalls tells a signed tool who calls, which claim this is and which attempt.
func (p *passage) whoCalls(n int) []tool.Header {
	h := []tool.Header{
		{Name: "X-OnceOnly-Agent-Id", Value: p.r.Agent},
		{Name: "X-OnceOnly-Tool", Value: p.name},
		{Name: "X-OnceOnly-Fence", Value: strconv.FormatUint(p.begun.Fence, 10)},
		{Name: "X-OnceOnly-Attempt", Value: strconv.Itoa(max(p.begun.Attempt, 1) + n)},
	}
	if p.r.RunID != "" {
		h = append(h, tool.Header{Name: "X-OnceOnly-Run-Id", Value: p.r.RunID})
	}
	if !has(p.call.Header, "X-Request-Id") {
		h = append(h, tool.Header{Name: "X-Request-Id", Value: p.r.ID})
	}
	if !has(p.call.Header, "traceparent") {
		h = append(h, tool.Header{Name: "traceparent", Value: newTrace()})
	}
	return h
}

func has(headers []tool.Header, name string) bool {
	for i := range headers {
		if strings.EqualFold(headers[i].Name, name) {
			return true
		}
	}
	return false
}

// newTrace begins a W3C trace (Trace Context, level 1), not sampled.
func newTrace() string {
	var id [24]byte
	_, _ = rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-00"
}
