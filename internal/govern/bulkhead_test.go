package govern

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// TestBulkheadsAreForgotten: an agent can name as many hosts as it likes.
func TestBulkheadsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bulkheads
		a := &tool.Tool{Name: "a", MaxInFlight: 1}
		first, _ := b.enter(context.Background(), a, 0)
		if none, _ := b.enter(context.Background(), a, time.Second); first == nil || none != nil {
			t.Fatal("two are in a bulkhead of one")
		}
		var all sync.WaitGroup
		all.Go(func() {
			second, waited := b.enter(context.Background(), a, time.Minute)
			if second != first || waited != 30*time.Second {
				t.Errorf("the next one waited %v and is in another bulkhead: %t", waited, second != first)
			}
			b.leave(second)
		})
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if none, waited := b.enter(ctx, a, time.Minute); none != nil || waited != 10*time.Second {
				t.Errorf("one that left had waited %v", waited)
			}
		})
		wider, _ := b.enter(context.Background(), &tool.Tool{Name: "a", MaxInFlight: 2}, 0)
		other, _ := b.enter(context.Background(), &tool.Tool{Name: "a", Scope: "agent:x", MaxInFlight: 1}, 0)
		if wider == nil || other == nil || wider == other {
			t.Fatal("a changed tool and another agent's have no bulkhead of their own")
		}
		time.Sleep(30 * time.Second)
		b.leave(first)
		b.leave(wider)
		b.leave(other)
		all.Wait()
		if len(b.by) != 0 {
			t.Errorf("%d bulkheads are kept", len(b.by))
		}
	})
}
