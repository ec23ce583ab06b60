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
	case sameField(name, "Accept-Encoding"):
		return true
	case sameField(name, "Idempotency-Key"):
		return !p.tool.Unregistered
	case sameField(name, "Content-Type"):
		return p.tool.Body == tool.Envelope
	}
	if u := p.tool.UpstreamKey.Header; u != "" && sameField(name, u) {
		return true
	}
	for i := range p.tool.Headers {
		if sameField(name, p.tool.Headers[i].Name) {
			return true
		}
	}
	return p.tool.Auth != nil && p.proves(name)
}

// proves says whether the header is one by which a signed tool learns who calls: only the sidecar may say that.
func (p *passage) proves(name string) bool {
	switch {
	case sameField(name, "X-Request-Id"), sameField(name, "traceparent"):
		return true
	case sameField(name, "tracestate"):
		return p.trace() == ""
	case p.tool.Auth.Scheme != hmac.StandardWebhooks:
		return false
	}
	return sameField(name, hmac.WebhookID) || sameField(name, hmac.WebhookTimestamp) || sameField(name, hmac.WebhookSignature)
}

// sameField says whether two names may reach a tool's code as one: case is ignored, and servers that hand headers on as
// variables read - as _.
func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if folded(a[i]) != folded(b[i]) {
			return false
		}
	}
	return true
}

func folded(c byte) byte {
	switch {
	case c == '_':
		return '-'
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	}
	return c
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
	trace := p.trace()
	if trace == "" {
		trace = newTrace()
	}
	return append(h, tool.Header{Name: "X-Request-Id", Value: p.r.ID}, tool.Header{Name: "traceparent", Value: trace})
}

func has(headers []tool.Header, name string) bool {
	for i := range headers {
		if strings.EqualFold(headers[i].Name, name) {
			return true
		}
	}
	return false
}

// trace is the agent's own W3C trace, which the call continues; empty unless it sent exactly one that is well-formed.
func (p *passage) trace() (found string) {
	for i := range p.call.Header {
		if !sameField(p.call.Header[i].Name, "traceparent") {
			continue
		}
		if found != "" || !isTrace(p.call.Header[i].Value) {
			return ""
		}
		found = p.call.Header[i].Value
	}
	return found
}

// isTrace says whether a traceparent is one of version 00 (W3C Trace Context, level 1, §3.2.2).
func isTrace(v string) bool {
	if len(v) != 55 || v[:3] != "00-" || v[35] != '-' || v[52] != '-' {
		return false
	}
	trace, parent := v[3:35], v[36:52]
	return isLowerHex(trace+parent+v[53:]) && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}

func isLowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// newTrace begins a W3C trace (Trace Context, level 1), not sampled.
func newTrace() string {
	var id [24]byte
	_, _ = rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-00"
}
