package govern_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/hmac"
	"github.com/oo-sidecar/oo-sidecar/internal/audit"
	"github.com/oo-sidecar/oo-sidecar/internal/govern"
	"github.com/oo-sidecar/oo-sidecar/internal/store"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// BenchmarkReplay is the sequence without a wire: a duplicate of a call that is done.
func BenchmarkReplay(b *testing.B) {
	g := benchGovernor(b)
	body := benchBody(0)
	g.Govern(context.Background(), benchRequest(body))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if r := g.Govern(context.Background(), benchRequest(body)); r.Decision != govern.Dedup {
			b.Fatal(fmt.Sprint(r.Status, r.Reason))
		}
	}
}

// BenchmarkFirst is the sequence without wire and disk: many callers at once, each call another one.
func BenchmarkFirst(b *testing.B) {
	g := benchGovernor(b)
	var number atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(next *testing.PB) {
		for next.Next() {
			if r := g.Govern(context.Background(), benchRequest(benchBody(number.Add(1)))); r.Decision != govern.Executed {
				b.Error(fmt.Sprint(r.Status, r.Reason))
				return
			}
		}
	})
}

func benchBody(n int64) []byte {
	return fmt.Appendf(nil, `{"call":"%016x","amount":1999,"currency":"usd","customer":"cus_4QWKsZuuTHcs7X","metadata":{"order":6735,"rate":0.0825},"description":"%s"}`, n, benchText)
}

var benchText = strings.Repeat("y", 360)

func benchRequest(body []byte) *govern.Request {
	return &govern.Request{
		ID: "0123456789abcdef0123456789abcdef", Arrived: time.Now(), Route: govern.Reverse, Tenant: "default", Agent: "a", Name: "bench", Method: "POST",
		Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}}, Body: body, HasBody: true,
	}
}

func benchGovernor(b *testing.B) *govern.Governor {
	e, err := store.OpenEmbedded(store.Options{Config: store.EmbeddedConfig{Dir: b.TempDir(), Durability: "process"}, AnswerBytes: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close(context.Background()) })
	secret := e.Secret()
	mask := hmac.NewMask(secret[:])
	log := audit.NewLog(e.Record, func(err error) { b.Error(err) })
	g := &govern.Governor{
		Store: e, Sender: steady{}, Meter: &meter{}, Limits: govern.Limits{AnswerBytes: 1 << 20}, Record: log.Append,
		Shown:    func(k dedup.Key) string { return mask.Shown(k) },
		Disabled: func(agent string) bool { _, off := e.Disabled(agent); return off }, Log: func(slog.Level, string, ...any) {},
	}
	t, err := tool.New(tool.Config{Name: "bench", URL: "https://tool.test/x", MaxInFlight: 1024, Auth: &tool.AuthConfig{Type: "hmac_sha256", Secrets: []string{"a secret of the benchmark"}}})
	if err != nil {
		b.Fatal(err)
	}
	registry, err := tool.NewRegistry([]*tool.Tool{t})
	if err != nil {
		b.Fatal(err)
	}
	policies, err := policy.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	s, err := govern.NewSnapshot(govern.Snapshot{Registry: registry, Policies: policies})
	if err != nil {
		b.Fatal(err)
	}
	g.Use(s)
	return g
}

var steadyBody = strings.Repeat("z", 1024)

// steady is a tool that always answers the same.
type steady struct{}

func (steady) Send(context.Context, *govern.Attempt) (*govern.Answer, govern.Phase, error) {
	body := steadyBody
	return &govern.Answer{
		Status: 200, Header: []tool.Header{{Name: "Content-Type", Value: "application/json"}}, Length: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)), Deadline: func(time.Time) {},
	}, govern.Complete, nil
}
