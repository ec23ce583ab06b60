package hmac

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

func TestWycheproof(t *testing.T) {
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			TagSize int
			Tests   []struct {
				TcID                           int
				Comment, Key, Msg, Tag, Result string
			}
		}
	}
	data, err := os.ReadFile(needed.Corpus(t, "hmac/hmac_sha256_test.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	count, invalid := 0, 0
	for _, g := range file.TestGroups {
		for _, v := range g.Tests {
			count++
			key, msg, tag := unhex(t, v.Key), unhex(t, v.Msg), unhex(t, v.Tag)
			pooled, single := NewSigner(key).Sum(msg), Sum(key, msg)
			if pooled != single {
				t.Errorf("%d: the signer and Sum differ", v.TcID)
			}
			if got, want := equal(pooled[:g.TagSize/8], tag), v.Result == "valid"; got != want {
				t.Errorf("%d (%s): verifies %t, want %t", v.TcID, v.Comment, got, want)
			}
			if v.Result != "valid" {
				invalid++
			}
		}
	}
	if count != 174 || count != file.NumberOfTests || invalid == 0 {
		t.Errorf("ran %d vectors, %d of them invalid; want 174 and some", count, invalid)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
func TestRFC4231(t *testing.T) {
	for _, v := range []struct{ key, msg, want string }{
		{strings.Repeat("\x0b", 20), "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{"Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		{strings.Repeat("\xaa", 131), "Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
	} {
		sum := NewSigner([]byte(v.key)).Sum([]byte(v.msg))
		if got := hex.EncodeToString(sum[:]); got != v.want {
			t.Errorf("%q: %s, want %s", v.msg, got, v.want)
		}
	}
}

func TestSignerKeepsItsOwnKey(t *testing.T) {
	key := []byte("secret")
	s, want := NewSigner(key), Sum([]byte("secret"), []byte("m"))
	clear(key)
	if s.Sum([]byte("m")) != want {
		t.Error("the signer's key changed with its caller's")
	}
}

func TestSignerIsSafeForGoroutines(t *testing.T) {
	s := NewSigner([]byte("secret"))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				msg := bytes.Repeat([]byte{byte(g)}, i)
				if s.Sum(msg) != Sum([]byte("secret"), msg) {
					t.Error("a concurrent sum is wrong")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSumDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector pools forget on purpose: make unit runs it again without")
	}
	s, msg := NewSigner([]byte("secret")), []byte("message")
	if n := testing.AllocsPerRun(200, func() { s.Sum(msg) }); n != 0 {
		t.Errorf("%v allocations per sum", n)
	}
	c, digest := &Call{Method: "POST", Authority: "h:443", Path: "/p"}, sha256.Sum256(nil)
	if n := testing.AllocsPerRun(200, func() { s.sumV2(c, 1, &digest) }); n != 0 {
		t.Errorf("%v allocations per V2 sum", n)
	}
}

func TestMask(t *testing.T) {
	var secret, key [32]byte
	secret[0], key[0] = 1, 2
	want := Sum(secret[:], key[:])
	m := NewMask(secret[:])
	if got := m.Shown(key); got != hex.EncodeToString(want[:]) {
		t.Errorf("shown as %s", got)
	}
	if got := m.Short(key); got != m.Shown(key)[:16] {
		t.Errorf("short is %s", got)
	}
	if strings.Contains(m.Shown(key), hex.EncodeToString(key[:8])) {
		t.Error("the bare key shows")
	}
}

func BenchmarkSignerSum(b *testing.B) {
	s, msg := NewSigner([]byte("secret")), make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		s.Sum(msg)
	}
}
