package journal

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkPairs measures durable pairs: a caller appends a small entry, waits for it, and does that once more.
func BenchmarkPairs(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			j, _ := open(b, Options{Dir: b.TempDir()})
			intent, outcome := make([]byte, 200), make([]byte, 120)
			b.ReportAllocs()
			b.ResetTimer()
			start := time.Now()
			var wg sync.WaitGroup
			for c := range callers {
				wg.Go(func() {
					for i := c; i < b.N; i += callers {
						for _, fact := range [][]byte{intent, outcome} {
							k, err := j.Append(Entry{Kind: 32, Fact: fact})
							if err == nil {
								err = k.Wait(context.Background())
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "pairs/s")
			shut(b, j)
		})
	}
}
