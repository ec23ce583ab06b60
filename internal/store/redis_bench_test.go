package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
)

// BenchmarkRedisScripts runs one small script from that many callers.
func BenchmarkRedisScripts(b *testing.B) {
	s := redistest.Start(b, "--appendonly", "no")
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := dialTest(b, RedisConfig{Addrs: []string{s.Addr}})
			key := c.key("bench")
			var left atomic.Int64
			left.Store(int64(b.N))
			var work sync.WaitGroup
			b.ResetTimer()
			for range callers {
				work.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.run(context.Background(), count, []string{key}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			work.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "scripts/s")
		})
	}
}
