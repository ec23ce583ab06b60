package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// request is the judged head as govern knows it; the body is still missing. For a head that the gate refused it holds
// what was read until then, enough for the record.
func (s *Server) request(c *conn) *govern.Request {
	h := &c.head
	c.asked = true
	r := &govern.Request{ID: newID(), Arrived: time.Now(), Tenant: "default", Method: h.method, Target: h.dest}
	if who := s.Identity(); who.open() {
		r.Agent = who.Default // otherwise nobody until identify has seen a proof
	}
	switch {
	case c.inside != "":
		r.Route, r.Agent, r.RunID = govern.Inside, c.agent, c.run
		r.Target.Scheme, r.Target.Authority = c.scheme, c.inside
	case h.form == origin:
		r.Route = govern.Reverse
		r.Name, _ = toolName(h.dest.Path)
		r.Target = tool.Target{}
	case h.form == authority:
		r.Route = govern.Inside
	default:
		r.Route = govern.Forward
	}
	r.Header = make([]tool.Header, 0, len(h.fields))
	for i := range h.fields {
		readHint(r, &h.fields[i])
		if !h.dropped(&h.fields[i]) {
			r.Header = append(r.Header, tool.Header{Name: h.fields[i].name, Value: h.fields[i].value})
		}
	}
	return r
}

// newID is a request's id: 32 hex digits that no other request has. It is no secret.
func newID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	var text [2 * len(b)]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}

// readHint reads the fields by which an agent speaks to the sidecar.
func readHint(r *govern.Request, f *field) {
	switch f.kind {
	case idempotencyKey:
		r.IdempotencyKey = append(r.IdempotencyKey, f.value)
	case ours:
		switch strings.ToLower(f.name) {
		case "x-onceonly-run-id":
			r.RunID = f.value
		case "x-onceonly-tool":
			r.ToolHint = f.value
		case "x-onceonly-force-new":
			r.ForceNew = f.value
		case "x-onceonly-spend-usd":
			r.Spend = f.value
		}
	}
}

// toolName is the {name} of /tools/{name}.
func toolName(path string) (string, bool) {
	name, ok := strings.CutPrefix(path, "/tools/")
	if !ok || name == "" || len(name) > 256 {
		return "", false
	}
	for i := range len(name) {
		c := name[i]
		if (lower[c] < 'a' || lower[c] > 'z') && (c < '0' || c > '9') && strings.IndexByte("_.:-", c) < 0 {
			return "", false
		}
	}
	return name, true
}

// judge is what the wire itself refuses of a request that the gate has let through; nil lets it go on to govern.
// early says that its body is still to come.
func (s *Server) judge(ctx *fasthttp.RequestCtx, c *conn, r *govern.Request, early bool) *govern.Reply {
	h := &c.head
	if !agrees(ctx, h) || !early && int64(len(ctx.Request.Body())) != c.gate.body {
		h.close = true
		return s.Refuse(r, "bad_request", "The request was understood in two ways.")
	}
	return s.judgeHead(c, r)
}

// judgeHead is what the wire refuses for the head's sake; of the body it knows how much came.
func (s *Server) judgeHead(c *conn, r *govern.Request) *govern.Reply {
	h := &c.head
	if s.draining.Load() {
		return s.Refuse(r, "draining", "")
	}
	if h.form == origin && c.inside == "" && s.fromPage(c) {
		return s.Refuse(r, "browser_request_denied", "Web pages may not use this listener. From another program: send no Origin, and this listener's address as Host (or name the host in proxy.hosts).")
	}
	if c.inside == "" && !s.identify(c, r) || c.inside != "" && !s.stays(c) {
		return s.Refuse(r, "proxy_auth_required", "")
	}
	if h.websocket {
		return s.Refuse(r, "not_supported", "WebSocket connections are not supported.")
	}
	if reply := s.probe(c, r); reply != nil {
		return reply
	}
	if reply := s.judgeRoute(c, r); reply != nil || h.form == authority {
		return reply
	}
	return s.judgeBody(c, r)
}

// judgeRoute holds the request against what its route permits.
func (s *Server) judgeRoute(c *conn, r *govern.Request) *govern.Reply {
	switch {
	case c.inside != "":
		return s.judgeInside(c, r)
	case c.head.form == origin:
		return s.judgeTool(&c.head, r)
	case c.head.form == absolute:
		return s.judgeForward(r)
	}
	return nil
}

// agrees says whether fasthttp understood the head as the gate judged it.
func agrees(ctx *fasthttp.RequestCtx, h *head) bool {
	got := &ctx.Request.Header
	length := int64(got.ContentLength())
	if h.chunked {
		length = 0 // fasthttp tells -1, or 0 once it has read an empty body
	}
	return string(got.Method()) == h.method && string(got.RequestURI()) == h.target && string(got.Host()) == h.hostRaw &&
		max(length, 0) == h.length && (h.close || !got.ConnectionClose())
}

// judgeTool takes POST /tools/{name} and refuses every other path of the listener itself.
func (s *Server) judgeTool(h *head, r *govern.Request) *govern.Reply {
	switch {
	case r.Name == "":
		return s.Refuse(r, "not_found", "This listener serves POST /tools/{name} and proxies absolute URLs and CONNECT.")
	case h.method != "POST":
		return s.Refuse(r, "method_not_allowed", "A tool is called with POST.")
	case h.dest.Query != "":
		return s.Refuse(r, "bad_request", "/tools/{name} takes its arguments from the body; a query would be dropped.")
	}
	return nil
}

// judgeForward holds an absolute-form request against what a tool host permits.
func (s *Server) judgeForward(r *govern.Request) *govern.Reply {
	snapshot := s.Snapshot()
	if is, _ := snapshot.Registry.ToolHost(r.Target.Scheme, r.Target.Authority); is {
		if err := tool.CheckPath(r.Target.Path, snapshot.Registry.EncodedSlash(r.Target)); err != nil {
			return s.Refuse(r, "bad_request", "The "+err.Error()+".")
		}
		if snapshot.Registry.NearMiss(r.Target) {
			return s.Refuse(r, "bad_request", "The path differs from a tool's only in case or spelling; write it as registered.")
		}
	}
	return nil
}

// judgeBody holds the body against what governed calls may have. One that is encoded could not be compared with
// others; one on GET or HEAD means something to some servers and nothing to others.
func (s *Server) judgeBody(c *conn, r *govern.Request) *govern.Reply {
	h, most := &c.head, s.settings.Load().maxBody
	large, bare := c.gate.body > most, h.hasBody() && (h.method == "GET" || h.method == "HEAD")
	encoded := h.hasBody() && h.encoded()
	if !large && !bare && !encoded || !s.governed(r) {
		return nil
	}
	switch {
	case large:
		return s.Refuse(r, tooLarge(most).code, tooLarge(most).detail)
	case bare:
		return s.Refuse(r, "bad_request", "A governed "+h.method+" has no body.")
	}
	return s.Refuse(r, "bad_request", "The body of a governed call has no Content-Encoding.")
}

// encoded says whether the body went through a content coding.
func (h *head) encoded() bool {
	const name = "Content-Encoding"
	for i := range h.fields {
		if f := &h.fields[i]; len(f.name) == len(name) && strings.EqualFold(f.name, name) && !strings.EqualFold(f.value, "identity") {
			return true
		}
	}
	return false
}

// governed says whether more than kill switch, destination rules and audit applies to the request.
func (s *Server) governed(r *govern.Request) bool {
	if r.Route == govern.Reverse {
		return true
	}
	snapshot := s.Snapshot()
	if _, matches := snapshot.Registry.Match(r.Agent, r.Method, r.Target); matches {
		return true
	}
	if pass := snapshot.Passthrough; pass != nil && pass(bareHost(r.Target.Authority)) {
		return false
	}
	return snapshot.Unregistered == govern.Lightly
}

// judgeInside takes a request within a tunnel: it must be for the tunnel's own authority.
func (s *Server) judgeInside(c *conn, r *govern.Request) *govern.Reply {
	h := &c.head
	switch {
	case h.form == authority:
		return s.Refuse(r, "not_supported", "There is no tunnel within a tunnel.")
	case h.form == absolute && (h.dest.Scheme != c.scheme || h.dest.Authority != c.inside), h.host != "" && h.host != c.inside:
		h.close = true
		return s.Refuse(r, "bad_request", "The request names another host than the tunnel it came through.")
	}
	return s.judgeForward(r)
}

// bodyLimit is the largest body of the request that the gate has just judged.
func (s *Server) bodyLimit(c *conn) int64 {
	authority := c.inside
	if authority == "" && c.head.form == absolute {
		authority = c.head.dest.Authority
	}
	if authority == "" {
		return s.settings.Load().maxBody
	}
	if pass := s.Snapshot().Passthrough; pass != nil && pass(bareHost(authority)) {
		return max(s.settings.Load().maxBody, passthroughBody)
	}
	return s.settings.Load().maxBody
}

// fromPage says whether a web page may have made this request: pages reach loopback, and the sidecar would add the
// real credential. Sec-Fetch-Mode alone does not count, Node's fetch sends it.
func (s *Server) fromPage(c *conn) bool {
	for i := range c.head.fields {
		f := &c.head.fields[i]
		switch {
		case len(f.name) == len("Origin") && strings.EqualFold(f.name, "Origin"):
			return true
		case len(f.name) == len("Sec-Fetch-Site") && strings.EqualFold(f.name, "Sec-Fetch-Site") && f.value != "none":
			return true
		}
	}
	return c.head.host != "" && !s.ownHost(c)
}

// ownHost says whether the Host is the listener's own address, localhost or in proxy.hosts. A name that an attacker's
// DNS has turned to loopback is none of them.
func (s *Server) ownHost(c *conn) bool {
	host := bareHost(c.head.host)
	if host == "localhost" {
		return true
	}
	for _, own := range s.settings.Load().hosts {
		if own == host || own == c.head.host {
			return true
		}
	}
	if c.local == "" {
		c.local = c.LocalAddr().String()
	}
	return c.local == c.head.host || bareHost(c.local) == host && !hasPort(c.head.hostRaw)
}

func lowered(hosts []string) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = strings.ToLower(h)
		if ip := net.ParseIP(h); ip != nil && ip.To4() == nil {
			out[i] = "[" + ip.String() + "]"
		}
	}
	return out
}
