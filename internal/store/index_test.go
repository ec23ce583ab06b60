package store

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

var indexStart = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func indexKey(i int) (k dedup.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(i))
	return k
}

func indexPlace(i int) place {
	return place{
		at:        journal.Location{Segment: uint32(i), Offset: uint32(i) * 3, Length: uint32(i) * 7},
		expires:   indexStart.Add(time.Duration(i%1000+1) * time.Second),
		tombstone: i%3 == 0,
	}
}

// The index does what a map does, whatever is put, removed and swept, and finds nothing else.
func TestIndexIsAMap(t *testing.T) {
	x, want := newIndex(), map[int]place{}
	defer x.close()
	r := rand.New(rand.NewPCG(1, 2))
	now := indexStart
	for step := range 400_000 {
		i := r.IntN(60_000)
		switch r.IntN(8) {
		case 0:
			x.remove(indexKey(i))
			delete(want, i)
		case 1:
			x.sweep(now, 10)
		default:
			p := indexPlace(i + step)
			p.expires = now.Add(time.Duration(r.IntN(50)) * time.Second)
			x.put(indexKey(i), p, now)
			want[i] = p
		}
		if step%1000 == 0 {
			now = now.Add(time.Second)
		}
		if step == 200_000 {
			x.sweepAll(now)
		}
	}
	x.sweepAll(now)
	live := 0
	for i := range 60_000 {
		got, ok := x.get(indexKey(i))
		p, known := want[i]
		if known = known && p.expires.After(now); known {
			live++
		}
		if ok != known || known && got != p {
			t.Fatalf("key %d: %+v, %v; want %+v, %v", i, got, ok, p, known)
		}
	}
	if x.count != live {
		t.Fatalf("%d keys counted, %d are there", x.count, live)
	}
}

func TestIndexTakes32BytesAKey(t *testing.T) {
	x := newIndex()
	defer x.close()
	keys := 1_000_000
	worst := 0.0
	for i := range keys {
		x.put(indexKey(i), indexPlace(i), indexStart.Add(-time.Hour))
		if i >= 200_000 && i%10_000 == 0 {
			worst = max(worst, float64(x.size())/float64(x.count))
		}
	}
	for i := range keys {
		if p, ok := x.get(indexKey(i)); !ok || p != indexPlace(i) {
			t.Fatalf("key %d: %+v, %v", i, p, ok)
		}
	}
	for i := keys; i < 2*keys; i++ {
		if _, ok := x.get(indexKey(i)); ok {
			t.Fatalf("key %d is not there", i)
		}
	}
	t.Logf("%d keys take %d bytes, %.1f each; %.1f at worst since 200,000", x.count, x.size(), float64(x.size())/float64(x.count), worst)
	if worst > 32 {
		t.Fatal("more than 32 bytes a key")
	}
	x.sweepAll(indexStart.Add(2 * time.Hour))
	if x.count != 0 || x.size() > indexShards*pageSize {
		t.Fatalf("%d keys in %d bytes are left", x.count, x.size())
	}
}

func TestIndexRoundsExpiryUp(t *testing.T) {
	x := newIndex()
	defer x.close()
	p := place{expires: indexStart.Add(time.Nanosecond)}
	x.put(indexKey(1), p, indexStart)
	if got, _ := x.get(indexKey(1)); !got.expires.Equal(indexStart.Add(time.Millisecond)) {
		t.Fatal(got.expires)
	}
	x.put(indexKey(1), place{expires: time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)}, indexStart)
	if got, _ := x.get(indexKey(1)); got.expires.Year() < 2040 {
		t.Fatal(got.expires)
	}
}
