package dedup

import (
	"errors"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// sent is a call that was claimed at epoch under fence 7 and nonce 3.
func sent(effect tool.Effect) State {
	c := &Claim{Keys: []Identity{{Key: Key{1}, Print: Key{9}}}, Nonce: 3, Effect: effect, Timeout: time.Minute}
	s := Begin(c, make([]State, 1), nil, epoch).Next.Granted(7)
	s.Print = Key{9}
	s.Reserved = Reservation{Cost: 5}
	return s
}

func TestFinishIsDecidedByFenceAndNonce(t *testing.T) {
	for _, e := range []End{{Fence: 7, Nonce: 4}, {Fence: 8, Nonce: 3}, {Fence: 6, Nonce: 3}, {}} {
		e.Outcome, e.Keep = Done, time.Hour
		before := sent(tool.Mutating)
		after, back, err := Finish(before, &e, epoch)
		if !errors.Is(err, ErrOvertaken) || after != before || back != (Refund{}) {
			t.Errorf("fence %d, nonce %d: %v, %+v", e.Fence, e.Nonce, err, after)
		}
	}
	if _, _, err := Finish(State{}, &End{}, epoch); !errors.Is(err, ErrOvertaken) {
		t.Errorf("an end of nothing: %v", err)
	}
}

func TestRepeatedEndChangesNothing(t *testing.T) {
	for _, o := range []Outcome{Done, Failed, NotSent} {
		once, _, err := Finish(sent(tool.Mutating), &End{Fence: 7, Nonce: 3, Outcome: o, Keep: time.Hour}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range []Outcome{Done, Failed, NotSent, Unknown} {
			again, back, err := Finish(once, &End{Fence: 7, Nonce: 3, Outcome: other, Keep: 9 * time.Hour}, epoch.Add(time.Minute))
			if err != nil || again != once || back != (Refund{}) {
				t.Errorf("%v, then %v: %+v, %+v, %v", o, other, again, back, err)
			}
		}
	}
}

// A client key that was bound under an earlier definition of the tool leads to the same call, and is no reuse.
func TestKeyOfTheSameCallIsNotReused(t *testing.T) {
	live := sent(tool.Mutating)
	old, client := live, live
	old.Print, client.Print = Key{1}, Key{1}
	c := &Claim{Keys: []Identity{{Key{2}, Key{2}}, {Key{1}, Key{1}}, {Key{5}, Key{2}}}, Nonce: 9}
	if v := Begin(c, []State{{}, old, client}, nil, epoch); v.Status != InFlight || v.At != 1 {
		t.Errorf("%+v", v)
	}
	client.Fence = 99
	if v := Begin(c, []State{{}, old, client}, nil, epoch); v.Status != Reused || v.At != 2 {
		t.Errorf("%+v", v)
	}
}

// A claim that takes an unknown call over needs every other key of its own to be free.
func TestTakeOverNeedsAllKeys(t *testing.T) {
	unknown, _, _ := Finish(sent(tool.Idempotent), &End{Fence: 7, Nonce: 3, Outcome: Unknown}, epoch)
	other := sent(tool.Idempotent)
	other.Fence = 8
	c := &Claim{Keys: []Identity{{Key{1}, Key{9}}, {Key{2}, Key{9}}}, Nonce: 9, Effect: tool.Idempotent, Resend: time.Hour}
	if v := Begin(c, []State{unknown, {}}, nil, epoch); v.Status != Mine || !v.Taken || v.Next.Attempt != 2 {
		t.Errorf("%+v", v)
	}
	if v := Begin(c, []State{unknown, other}, nil, epoch); v.Status != Blocked {
		t.Errorf("%+v", v)
	}
	if v := Begin(c, []State{unknown, {}}, []State{other}, epoch); v.Status != InFlight || !v.Guard {
		t.Errorf("a guard stands in the way of a take-over too: %+v", v)
	}
}

func TestGeneration(t *testing.T) {
	c := &Claim{Keys: []Identity{{Key{1}, Key{9}}}, Nonce: 9}
	for _, x := range []struct {
		name  string
		end   End
		after time.Duration
		want  uint64
	}{
		{"after not sent", End{Outcome: NotSent}, 0, 7},
		{"after not sent, when its tombstone has gone", End{Outcome: NotSent}, NotSentTombstone, 20},
		{"after done", End{Outcome: Done, Keep: time.Hour}, time.Hour, 20},
		{"after failed and kept", End{Outcome: Failed, Keep: time.Second}, time.Second, 20},
		{"after failed and released", End{Outcome: Failed}, 0, 20},
		{"after done and released", End{Outcome: Done}, 0, 20},
	} {
		x.end.Fence, x.end.Nonce = 7, 3
		s, _, err := Finish(sent(tool.Mutating), &x.end, epoch)
		if err != nil {
			t.Fatal(err)
		}
		v := Begin(c, []State{s}, nil, epoch.Add(x.after))
		if got := v.Next.Granted(20); v.Status != Mine || got.Generation != x.want || got.Fence != 20 {
			t.Errorf("%s: %+v", x.name, got)
		}
	}
	unknown, _ := Recover(sent(tool.Mutating), epoch)
	s, back, err := Resolve(unknown, &Resolution{Fence: 7, Outcome: NotSent}, epoch.Add(time.Hour))
	if err != nil || back != (Refund{Call: true, Spend: 5}) {
		t.Fatal(err, back)
	}
	if got := Begin(c, []State{s}, nil, epoch.Add(24*time.Hour)).Next.Granted(20); got.Generation != 7 {
		t.Errorf("after not executed: %+v", got)
	}
	other := &Claim{Keys: []Identity{{Key{1}, Key{8}}}, Nonce: 9}
	if got := Begin(other, []State{s}, nil, epoch.Add(time.Hour)).Next.Granted(20); got.Generation != 20 {
		t.Errorf("another call under the same key: %+v", got)
	}
}

func TestDeliverOnlyShortens(t *testing.T) {
	done, _, _ := Finish(sent(tool.Mutating), &End{Fence: 7, Nonce: 3, Outcome: Done, Keep: time.Hour}, epoch)
	for _, x := range []struct {
		fence  uint64
		window time.Duration
		want   time.Duration
	}{{7, time.Minute, time.Minute}, {7, 2 * time.Hour, time.Hour}, {8, time.Minute, time.Hour}} {
		if got := Deliver(done, x.fence, x.window); !got.Expires.Equal(epoch.Add(x.want)) {
			t.Errorf("%+v: until %v", x, got.Expires)
		}
	}
	running := sent(tool.Mutating)
	if got := Deliver(running, 7, time.Minute); got != running {
		t.Errorf("%+v", got)
	}
}
