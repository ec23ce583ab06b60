package storetest

import (
	"testing"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

func crashUnknown(t *testing.T, b *Bench) {
	c, read := NewClaim("x"), NewClaim("r")
	read.Effect = tool.Read
	r := wants(t, b, c, dedup.Mine)
	wants(t, b, read, dedup.Mine)
	i := wants(t, b, idempotent("i"), dedup.Mine)
	b.Crash(t, b)
	used(t, b, 3, 300)
	d := wants(t, b, NewClaim("x"), dedup.Blocked)
	if d.Fence != r.Fence || d.RequestID != requestOf(c) {
		t.Fatalf("%+v", d)
	}
	wants(t, b, NewClaim("r"), dedup.Mine)
	if d := wants(t, b, idempotent("i"), dedup.Mine); !d.Taken || d.Generation != i.Generation || d.Fence <= i.Fence {
		t.Fatalf("%+v", d)
	}
	used(t, b, 4, 400)
}

func crashKeeps(t *testing.T, b *Bench) {
	c := NewClaim("x")
	r := wants(t, b, c, dedup.Mine)
	e := Ending(c, r, dedup.Done)
	finish(t, b, e)
	for range 3 {
		b.Crash(t, b)
		d := wants(t, b, NewClaim("x"), dedup.Replay)
		sameAnswer(t, d.Answer, e.Answer)
		if d.RequestID != requestOf(c) || d.Fence != r.Fence {
			t.Fatalf("%+v", d)
		}
		used(t, b, 1, 100)
	}
}
