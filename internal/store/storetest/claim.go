package storetest

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// K is a key made of words.
func K(words ...any) dedup.Key { return sha256.Sum256([]byte(fmt.Sprint(words...))) }

func identities(name string) []dedup.Identity {
	return []dedup.Identity{{Key: K(name), Print: K(name)}}
}

var nonces struct {
	sync.Mutex
	n uint64
}

// NewClaim is a claim of a mutating call with that name.
func NewClaim(name string) *dedup.Claim {
	nonces.Lock()
	defer nonces.Unlock()
	nonces.n++
	record := fmt.Appendf(nil, `{"ts":"2026-01-02T03:04:05.000000Z","tool":"pay","request_id":"req-%d"}`, nonces.n)
	return &dedup.Claim{
		Keys: identities(name), Nonce: nonces.n, Tenant: "default", Agent: "a", Tool: "pay", Timeout: time.Minute, Cost: 100,
		Record: func() []byte { return record },
	}
}

func idempotent(name string) *dedup.Claim {
	c := NewClaim(name)
	c.Effect, c.Resend = tool.Idempotent, time.Hour
	return c
}

func begin(t *testing.T, b *Bench, c *dedup.Claim) dedup.Begun {
	t.Helper()
	r, err := b.Store.Begin(t.Context(), c)
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return r
}

func wants(t *testing.T, b *Bench, c *dedup.Claim, want dedup.Status) dedup.Begun {
	t.Helper()
	r := begin(t, b, c)
	if r.Status != want {
		t.Fatalf("Begin says %d, want %d: %+v", r.Status, want, r)
	}
	return r
}

// Ending is how the claim that won with r ended.
func Ending(c *dedup.Claim, r dedup.Begun, o dedup.Outcome) *dedup.End {
	e := &dedup.End{Keys: c.Keys, Agent: c.Agent, Fence: r.Fence, Nonce: c.Nonce, Outcome: o, Record: c.Record()}
	if o == dedup.Done || o == dedup.Failed {
		e.Keep = 24 * time.Hour
		body := []byte("answer of " + fmt.Sprint(c.Nonce))
		e.Answer = &dedup.Answer{Status: 200, Header: []tool.Header{{Name: "Content-Type", Value: "text/plain"}}, Body: body, Size: int64(len(body)), SHA256: sha256.Sum256(body), Kept: true}
	}
	return e
}

func finish(t *testing.T, b *Bench, e *dedup.End) {
	t.Helper()
	if err := b.Store.Finish(t.Context(), e); err != nil {
		t.Fatalf("Finish: %v", err)
	}
}

func run(t *testing.T, b *Bench, c *dedup.Claim, o dedup.Outcome) dedup.Begun {
	t.Helper()
	r := wants(t, b, c, dedup.Mine)
	finish(t, b, Ending(c, r, o))
	return r
}

func used(t *testing.T, b *Bench, calls int64, spend tool.Money) {
	t.Helper()
	hour, day, byTool := b.Used("default", "a", "pay")
	if hour != calls || day != spend || byTool != calls {
		t.Fatalf("charged %d calls in the hour, %d spent, %d calls of the tool; want %d, %d, %d", hour, day, byTool, calls, spend, calls)
	}
}

func requestOf(c *dedup.Claim) string { return fmt.Sprintf("req-%d", c.Nonce) }

func sameAnswer(t *testing.T, got, want *dedup.Answer) {
	t.Helper()
	if got == nil || !got.Kept || got.Status != want.Status || string(got.Body) != string(want.Body) || got.Size != want.Size || got.SHA256 != want.SHA256 ||
		fmt.Sprint(got.Header) != fmt.Sprint(want.Header) {
		t.Fatalf("the answer is %+v, want %+v", got, want)
	}
}
