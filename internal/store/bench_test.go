package store

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// BenchmarkCall is one first call: a claim and its outcome with an answer of 1 KiB, both durable.
func BenchmarkCall(b *testing.B) {
	for _, durability := range []string{"power", "process"} {
		b.Run(durability, func(b *testing.B) {
			e, err := OpenEmbedded(Options{Config: EmbeddedConfig{Dir: b.TempDir(), Durability: durability}})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close(context.Background())
			var n atomic.Uint64
			record, body := make([]byte, 500), make([]byte, 1024)
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					var k dedup.Key
					nonce := n.Add(1)
					binary.BigEndian.PutUint64(k[:], nonce)
					c := &dedup.Claim{Keys: []dedup.Identity{{Key: k, Print: k}}, Nonce: nonce, Tenant: "default", Agent: "a", Tool: "t", Record: func() []byte { return record }}
					r, err := e.Begin(context.Background(), c)
					if err != nil || r.Status != dedup.Mine {
						b.Error(r, err)
						return
					}
					end := &dedup.End{Keys: c.Keys, Fence: r.Fence, Nonce: nonce, Outcome: dedup.Done, Keep: time.Hour, Record: record}
					end.Answer = &dedup.Answer{Status: 200, Body: body, Size: 1024, Kept: true}
					if err := e.Finish(context.Background(), end); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
