package audit

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// TestTimesAndDurations holds what is written by hand against the standard library.
func TestTimesAndDurations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		at := time.Unix(r.Int64N(300e9)-70e9, r.Int64N(1e9)).UTC()
		if got, want := string(appendTime(nil, at)), at.Format("2006-01-02T15:04:05.000000Z"); got != want {
			t.Fatalf("%d is written as %s, want %s", at.UnixNano(), got, want)
		}
		ms := float64(r.Int64N(1<<r.IntN(52))) / 1000
		e := encoder{empty: true}
		e.millis("ms", ms)
		if got, want := string(e.buf), `,"ms":`+strconv.FormatFloat(math.Round(ms*1000)/1000, 'f', -1, 64); got != want {
			t.Fatalf("%v is written as %s, want %s", ms, got, want)
		}
	}
}
