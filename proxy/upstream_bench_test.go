package proxy

import (
	"io"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// BenchmarkSend is one call of 512 bytes that is answered with 1 KiB, the tool's own time included.
func BenchmarkSend(b *testing.B) {
	x := newRawTool(b, answering(1<<10))
	u := newUpstream(b, loopback)
	a := attemptTo(x.addr)
	a.Body, a.Tool = make([]byte, 512), &tool.Tool{}
	a.Header = []tool.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "Idempotency-Key", Value: "oo_0123456789abcdef"}}
	b.ReportAllocs()
	for b.Loop() {
		answer, _, err := u.Send(b.Context(), a)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkQuiet is the look at an idle connection before it is used.
func BenchmarkQuiet(b *testing.B) {
	x := newRawTool(b, func(c *rawConn) { c.gone() })
	u := newUpstream(b, loopback)
	r := u.routes.Load()
	a := attemptTo(x.addr)
	c, err := r.connect(b.Context(), a, farAway)
	if err != nil {
		b.Fatal(err)
	}
	defer c.close()
	b.ReportAllocs()
	for b.Loop() {
		if !c.quiet() {
			b.Fatal("not quiet")
		}
	}
}
