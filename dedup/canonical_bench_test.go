package dedup

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// body200 is a usual tool call of 200 bytes.
var body200 = []byte(`{"amount":9999,"currency":"usd","customer":"cus_9s6XKzkNRiz8i3","description":"Order 17-3345, two seats","metadata":{"order":"17-3345","tax":0.19,"vip":false},"capture":true,"items":["A1","B2","C3"]}`)

func unordered(n int) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range n {
		fmt.Fprintf(&b, `"%c%d":%d.50,`, 'z'-rune(i%26), i, i)
	}
	b.WriteString(`"":null}`)
	return b.Bytes()
}

func BenchmarkCanonical(b *testing.B) {
	for name, src := range map[string][]byte{"200B": body200, "2KiB": bytes.Join([][]byte{[]byte("["), bytes.Repeat(append(body200, ','), 9), body200, []byte("]")}, nil), "unordered": unordered(100)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			dst := make([]byte, 0, 2*len(src))
			for b.Loop() {
				out, err := Canonical(dst, src, nil)
				if err != nil {
					b.Fatal(err)
				}
				_ = sha256.Sum256(out)
			}
		})
	}
}

func BenchmarkDerive(b *testing.B) {
	c := &tool.Call{
		Tool: &tool.Tool{Name: "stripe.charge", Dedup: tool.Dedup{Scope: "agent"}}, Tenant: "default", Agent: "billing-agent", Method: "POST",
		Target: tool.Target{Scheme: "https", Authority: "api.stripe.com:443", Path: "/v1/charges"},
		Header: []tool.Header{
			{Name: "Content-Type", Value: "application/json"}, {Name: "Accept", Value: "*/*"}, {Name: "User-Agent", Value: "python-requests/2.28"},
			{Name: "Accept-Encoding", Value: "gzip"}, {Name: "Authorization", Value: "Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc"}, {Name: "Stripe-Account", Value: "acct_1"},
			{Name: "traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, {Name: "Idempotency-Key", Value: "k"},
		},
		Body: body200, HasBody: true, ClientKey: "7b1f0d0e-0000-4000-8000-000000000000",
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Derive(c); err != nil {
			b.Fatal(err)
		}
	}
}
