package control

import (
	"crypto/sha256"
	"testing"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// TestAnswersThatAreForgottenTakeNoRoom: a call that runs again gives back what its former answer took of the bound.
func TestAnswersThatAreForgottenTakeNoRoom(t *testing.T) {
	w := &watches{}
	w.init()
	body := []byte("an answer")
	k := dedup.Key{1}
	kept := &dedup.Answer{Status: 200, Body: body, Size: int64(len(body)), SHA256: sha256.Sum256(body), Kept: true}
	a := &leaseAnswer{Status: "completed"}
	a.Result, a.ResultHash = encodeResult(kept, "p", true)
	if w.ended(k, a); w.size != len(body) {
		t.Fatalf("%d bytes are counted of an answer of %d", w.size, len(body))
	}
	if w.running(k); w.size != 0 {
		t.Fatalf("%d bytes are counted, and no answer is kept", w.size)
	}
}
