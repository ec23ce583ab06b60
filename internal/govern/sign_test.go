package govern_test

import (
	"strings"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// TestOnlyTheSidecarProves: of the headers that tell a signed tool who calls, the agent's own never go on, however they
// are spelt; one good trace of its is continued.
func TestOnlyTheSidecarProves(t *testing.T) {
	const webhook, good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	head := func(pairs ...string) (h []tool.Header) {
		for i := 0; i < len(pairs); i += 2 {
			h = append(h, tool.Header{Name: pairs[i], Value: pairs[i+1]})
		}
		return h
	}
	for _, v := range []struct {
		about, scheme, secret string
		from                  []tool.Header
		trace, state          string // of the agent's that go on
	}{
		{"webhook", "standard-webhooks", webhook, head("Webhook-Id", "theirs", "webhook_timestamp", "theirs", "WEBHOOK-SIGNATURE", "theirs", "X_Request_Id", "theirs"), "", ""},
		{"request id and no trace", "onceonly", "s1", head("x-request-id", "theirs", "Traceparent", "theirs", "tracestate", "a=theirs"), "", ""},
		{"one trace", "onceonly", "s1", head("traceparent", good, "tracestate", "a=b"), good, "a=b"},
		{"two traces", "onceonly", "s1", head("traceparent", good, "Traceparent", good, "tracestate", "a=b"), "", ""},
		{"no trace's zeros", "onceonly", "s1", head("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"), "", ""},
		{"injected under another spelling", "onceonly", "s1", head("X_Api_Key", "theirs", "x-api_key", "theirs"), "", ""},
	} {
		s := oneTool(func(c *tool.Config) {
			c.Auth = &tool.AuthConfig{Type: "hmac_sha256", Scheme: v.scheme, Secrets: []string{v.secret}}
			c.Headers = map[string]string{"X-Api-Key": "the sidecar's"}
		})
		in(t, s, func(w *world) {
			r := w.ask(named("t", "{}").with(func(r *govern.Request) { r.Header = append(v.from, r.Header...) }))
			r.want(t, "200 executed ok done")
			got := map[string]string{}
			for _, h := range w.stage.last().Header {
				name := strings.ReplaceAll(strings.ToLower(h.Name), "_", "-")
				if _, twice := got[name]; twice || strings.Contains(h.Value, "theirs") {
					t.Errorf("%s: the tool gets %s: %s", v.about, h.Name, h.Value)
				}
				got[name] = h.Value
			}
			trace := got["traceparent"]
			if got["x-request-id"] != r.id || len(trace) != len(good) || v.trace != "" && trace != v.trace || v.trace == "" && trace == good || got["tracestate"] != v.state {
				t.Errorf("%s: the tool gets %v", v.about, got)
			}
		})
	}
}

// TestOneRequestID: X-Request-Id says which audit record, so the tool's own does not stand beside it, on no way through.
func TestOneRequestID(t *testing.T) {
	s := oneTool(func(c *tool.Config) { c.Dedup.KeepHeaders = []string{"x-request-id"} })
	s.unregistered, s.passthrough = govern.Lightly, "model.test"
	in(t, s, func(w *world) {
		theirs := []tool.Header{jsonType, {Name: "x-request-id", Value: "theirs"}, {Name: "X_Request_Id", Value: "theirs"}}
		w.stage.always = answers(200, "{}", theirs...)
		for _, ask := range []*asking{named("t", "{}"), named("t", "{}"), forwarded(t, "GET", "https://model.test/", ""), forwarded(t, "POST", "https://free.test/", "{}")} {
			r := w.ask(ask)
			for _, h := range r.Header {
				if h.Value == "theirs" || r.header["Content-Type"] != "application/json" {
					t.Errorf("the answer has %v", r.Header)
				}
			}
		}
	})
}
