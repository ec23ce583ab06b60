package govern

import (
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func TestCredentialsAreWithheldFromAnswers(t *testing.T) {
	for _, c := range []struct{ name, injected, answer, want string }{
		{"Authorization", "Bearer sk_live_1234", "/next?token=sk_live_1234&a=b", "/next?token=withheld&a=b"},
		{"Authorization", "Bearer sk_live_1234", "Bearer sk_live_1234", "Bearer withheld"},
		{"Authorization", "Basic YWdlbnQ6c2VjcmV0+/==", "/?a=YWdlbnQ6c2VjcmV0%2B%2F%3D%3D", "/?a=withheld"},
		{"Authorization", "Basic YWdlbnQ6c2VjcmV0+/==", "/?a=YWdlbnQ6c2VjcmV0+/==", "/?a=withheld"},
		{"Authorization", "Basic YWdlbnQ6c2VjcmV0+/==", "/?a=YWdlbnQ6c2VjcmV0%2b%2f%3d%3d", "/?a=withheld"},
		{"Authorization", "Basic dXNlcjpwYXNzIHdvcmQvMQ==", "/?p=pass+word%2f1&q=pass%20word%2F1&r=pass word/1&u=user", "/?p=withheld&q=withheld&r=withheld&u=user"},
		{"Authorization", "Basic c2tfbGl2ZV8xMjM0Og==", "https://sk_live_1234@tool/", "https://withheld@tool/"},
		{"Authorization", "AWS4-HMAC-SHA256 Credential=AKIA/2026", "AWS4-HMAC-SHA256 Credential=AKIA/2026", "withheld"},
		{"X-Api-Key", "one and two", "one and two, one and two", "withheld, withheld"},
		{"X-Api-Version", "7", "HTTP/7", "HTTP/7"},
		{"Accept", "application/json", "application/json; charset=utf-8", "application/json; charset=utf-8"},
		{"Content-Type", "application/json", "application/json", "application/json"},
		{"User-Agent", "oo-sidecar/1", "seen oo-sidecar/1", "seen oo-sidecar/1"},
	} {
		p := &passage{tool: &tool.Tool{Headers: []tool.Header{{Name: c.name, Value: c.injected}}}}
		got := []tool.Header{{Name: "Location", Value: c.answer}, {Name: "Date", Value: "today"}}
		p.withhold(got)
		if got[0].Value != c.want || got[1].Value != "today" {
			t.Errorf("%s: %s: %q became %q, wanted %q", c.name, c.injected, c.answer, got[0].Value, c.want)
		}
	}
	(&passage{}).withhold([]tool.Header{{Name: "Location", Value: "/"}})
}
