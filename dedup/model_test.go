package dedup

import (
	"fmt"
	"hash/maphash"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// The model searches every interleaving of two holders, an operator, a reaper and the clock over one small program. It
// visits each world once, the newest first: breadth first visits the same ones and keeps far more of them in memory.
// The store is the package's own transitions; the tool, the ledger and what holders know are the model's, and judge it.
//
// A holder may lose the reply of its claim or of its end, be paused for any time between any two steps, have its bytes
// run at the tool or not and hear of it or not, die at any point, and be declared dead while it lives.

const (
	tick  = 12 * time.Hour
	price = tool.Money(7)
)

var epoch = time.Unix(1_000_000, 0).UTC()

// program is what the two holders want; keys and prints are numbers.
type program struct {
	name   string
	effect tool.Effect
	keys   [2][]int // of each holder; every key has the same print: it is one call
	guards [2][]int
	bounds bounds
}

// bounds keep the search finite.
type bounds struct{ claims, ticks, deaths, words, lapses int }

type phase uint8

const (
	idle     phase = iota
	asking         // the claim was applied or not; its reply was lost
	claimed        // won; nothing sent
	informed       // the attempt is over; outcome is what the holder knows
	ended          // Finish was applied or not; its reply was lost
)

type holder struct {
	phase   phase
	nonce   uint64
	fence   uint64
	run     int8
	outcome Outcome
}

type truth uint8

const (
	open truth = iota
	done
	failed
	notSent
	notExecuted // by an operator's word
)

// run is what really happened to one charged claim and its re-sends.
type run struct {
	generation uint64
	attempts   int8
	execs      int8
	truth      truth
	operator   bool // an operator settled it: what a living holder does afterwards is on the operator
	until      int8 // done: tick at which its window is over
	key        int8 // its first
}

type world struct {
	now    int8
	slots  [3]State
	hold   [2]holder
	runs   [5]run
	nruns  int8
	claims int8
	deaths int8
	words  int8
	lapses int8
	fence  uint64
	calls  int64
	spend  tool.Money
}

func (w *world) time() time.Time { return epoch.Add(time.Duration(w.now) * tick) }

func modelKey(i int) Key { return Key{byte(i + 1)} }

func (p *program) claim(h int, nonce uint64) *Claim {
	c := &Claim{Nonce: nonce, Effect: p.effect, Timeout: tick / 2}
	if p.effect == tool.Idempotent {
		c.Resend = 2 * tick
	}
	for _, k := range p.keys[h] {
		c.Keys = append(c.Keys, Identity{modelKey(k), Key{9}})
	}
	return c
}

type search struct {
	t       *testing.T
	p       *program
	seeds   [2]maphash.Seed
	seen    map[[2]uint64]struct{}
	stack   []world
	buf     []byte
	claims  int // won, of all states: the search must reach something
	taken   int
	late    int
	replays int
}

// step adds a world that one event leads to.
func (s *search) step(w world) {
	s.check(&w)
	s.buf = w.encode(s.buf[:0])
	id := [2]uint64{maphash.Bytes(s.seeds[0], s.buf), maphash.Bytes(s.seeds[1], s.buf)}
	if _, ok := s.seen[id]; ok {
		return
	}
	s.seen[id] = struct{}{}
	s.stack = append(s.stack, w)
}

// encode writes what distinguishes two worlds. Ended enters no transition but Deliver, which the model has not.
func (w *world) encode(b []byte) []byte {
	b = append(b, byte(w.now), byte(w.nruns), byte(w.claims), byte(w.deaths), byte(w.words), byte(w.lapses), byte(w.fence), byte(w.calls), byte(w.spend))
	for i := range w.slots {
		s := &w.slots[i]
		b = append(b, byte(s.Outcome), bit(s.Held), bit(s.Reserved.Settled), byte(s.Fence), byte(s.Generation), byte(s.Nonce), byte(s.Attempt),
			s.Print[0], ticks(s.Claimed), ticks(s.Sent), ticks(s.Expires))
	}
	for i := range w.hold {
		h := &w.hold[i]
		b = append(b, byte(h.phase), byte(h.nonce), byte(h.fence), byte(h.run), byte(h.outcome))
	}
	for i := range w.runs[:w.nruns] {
		r := &w.runs[i]
		b = append(b, byte(r.generation), byte(r.attempts), byte(r.execs), byte(r.truth), bit(r.operator), byte(r.until), byte(r.key))
	}
	return b
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func ticks(t time.Time) byte {
	if t.IsZero() {
		return 255
	}
	return byte(t.Sub(epoch) / tick)
}

// check compares the charges with the ledger: one for each run, settled as the table says, never lost, never twice.
func (s *search) check(w *world) {
	var calls int64
	var spend tool.Money
	for _, r := range w.runs[:w.nruns] {
		switch r.truth {
		case open, done:
			calls, spend = calls+1, spend+price
		case failed:
			calls++
		}
	}
	if calls != w.calls || spend != w.spend {
		s.t.Fatalf("%s: charged %d calls and %d, the ledger says %d and %d: %+v", s.p.name, w.calls, w.spend, calls, spend, *w)
	}
}

func (s *search) expand(w world) {
	if int(w.now) < s.p.bounds.ticks {
		n := w
		n.now++
		s.step(n)
	}
	for h := range w.hold {
		s.holder(w, h)
	}
	s.operator(w)
	s.reaper(w)
}

func (s *search) holder(w world, h int) {
	switch me := w.hold[h]; me.phase {
	case idle:
		if int(w.claims) < s.p.bounds.claims {
			w.claims++
			w.hold[h] = holder{phase: asking, nonce: uint64(w.claims)}
			s.step(w) // the claim is lost before it is applied, or the reply after: asking covers both
		}
	case asking:
		s.begin(w, h)
	case claimed:
		for _, o := range []Outcome{Done, Failed, NotSent, Unknown} {
			s.attempt(w, h, o)
		}
	case informed, ended:
		s.finish(w, h)
	}
	if me := w.hold[h]; me.phase != idle && int(w.deaths) < s.p.bounds.deaths {
		w.deaths++
		w.hold[h] = holder{}
		s.step(w)
	}
}

// begin applies the claim; its reply arrives or is lost, and then the holder asks again with the same nonce.
func (s *search) begin(w world, h int) {
	me := &w.hold[h]
	c := s.p.claim(h, me.nonce)
	v := Begin(c, w.found(s.p.keys[h]), w.found(s.p.guards[h]), w.time())
	if v.Status == Replay {
		s.replays++
	}
	if v.Status != Mine {
		*me = holder{}
		s.step(w)
		return
	}
	if !v.Again {
		w.grant(s, h, &v)
		lost := w
		s.step(lost)
	}
	w.won(s, h)
	s.step(w)
}

func (w *world) found(keys []int) []State {
	var found []State
	for _, k := range keys {
		found = append(found, w.slots[k])
	}
	return found
}

// grant applies a claim that won: the tool's key and the fence are checked against what really happened before.
func (w *world) grant(s *search, h int, v *Verdict) {
	w.fence++
	next := v.Next.Granted(w.fence)
	for _, k := range s.p.keys[h] {
		if w.slots[k].Fence >= next.Fence {
			s.t.Fatalf("%s: fence %d after %d", s.p.name, next.Fence, w.slots[k].Fence)
		}
	}
	if v.Taken {
		s.taken++
		r := &w.runs[w.run(v.Next.Generation)]
		r.attempts++
		if r.truth != open || s.p.effect != tool.Idempotent {
			s.t.Fatalf("%s: a call was taken over that must not be: %+v", s.p.name, *w)
		}
	} else {
		s.claims++
		w.calls++
		w.spend += price
		next.Reserved = Reservation{Cost: price}
		w.runs[w.nruns] = run{generation: next.Generation, attempts: 1, key: int8(s.p.keys[h][0])}
		w.nruns++
	}
	for k := range w.slots { // a call taken over keeps the keys it had
		if v.Taken && w.slots[k].Held && w.slots[k].Generation == next.Generation {
			w.slots[k] = next
		}
	}
	for _, k := range s.p.keys[h] {
		w.slots[k] = next
		w.slots[k].Print = Key{9}
	}
	for _, g := range s.p.guards[h] {
		if w.slots[g].Open() {
			s.t.Fatalf("%s: a forced call passed an open plain one", s.p.name)
		}
	}
}

func (w *world) won(s *search, h int) {
	me := &w.hold[h]
	me.fence = w.slots[s.p.keys[h][0]].Fence
	me.run, me.phase = int8(w.run(w.slots[s.p.keys[h][0]].Generation)), claimed
}

// run finds the newest run of a generation.
func (w *world) run(generation uint64) int {
	for i := int(w.nruns) - 1; i >= 0; i-- {
		if w.runs[i].generation == generation {
			return i
		}
	}
	return -1
}

// attempt is the one time a holder sends. What it learns may be less than what happened.
func (s *search) attempt(w world, h int, learnt Outcome) {
	me := &w.hold[h]
	me.phase, me.outcome = informed, learnt
	switch learnt {
	case Failed, NotSent:
		s.step(w)
	case Unknown: // ran or not
		s.step(w)
		fallthrough
	case Done:
		s.execute(&w, int(w.hold[h].run))
		s.step(w)
	}
}

// execute runs the call at the tool and asks the law: what ran before must be over, or be the operator's doing.
func (s *search) execute(w *world, i int) {
	r := &w.runs[i]
	r.execs++
	if s.p.effect != tool.Idempotent && r.execs > 1 && !r.operator {
		s.t.Fatalf("%s: one run executed twice: %+v", s.p.name, *w)
	}
	for j, o := range w.runs[:w.nruns] {
		if j == i || o.execs == 0 || o.operator || r.operator || !s.p.same(o.key, r.key) {
			continue
		}
		if o.truth == done && w.now >= o.until || r.truth == done && w.now >= r.until {
			continue
		}
		if s.p.effect == tool.Idempotent && o.generation == r.generation {
			continue
		}
		s.t.Fatalf("%s: executed again within the window: %+v", s.p.name, *w)
	}
}

// same says whether two first keys mean the same call: they do unless one of them is a Force-New.
func (p *program) same(a, b int8) bool { return p.guards[1] == nil || a == b }

func (s *search) finish(w world, h int) {
	me := w.hold[h]
	lost := w
	e := &End{Fence: me.fence, Nonce: me.nonce, Outcome: me.outcome, Keep: tick}
	w.settle(s, e, me)
	if me.phase == informed {
		lost = w
		lost.hold[h].phase = ended
		s.step(lost)
	}
	w.hold[h] = holder{}
	s.step(w)
}

// settle applies an end and keeps the ledger by the words of the specification.
func (w *world) settle(s *search, e *End, me holder) {
	k := w.slot(me.fence)
	if k < 0 {
		return // taken over or run anew: the store says ErrOvertaken
	}
	before := w.slots[k]
	after, back, err := Finish(before, e, w.time())
	if err != nil && before.Open() && before.Nonce == me.nonce {
		s.t.Fatalf("%s: the holder's own end was refused: %v", s.p.name, err)
	}
	if r := w.runs[me.run]; r.truth == notExecuted && err == nil {
		s.t.Fatalf("%s: an end after an operator's not executed passed for a repetition", s.p.name)
	}
	w.refund(back)
	w.put(me.fence, after)
	if err != nil || !before.Open() {
		return
	}
	if before.Outcome == Unknown {
		s.late++
	}
	r := &w.runs[me.run]
	switch {
	case e.Outcome == Done:
		r.truth, r.until = done, w.now+1
	case r.attempts > 1, e.Outcome == Unknown && s.p.effect != tool.Read:
		r.truth = open
		if after.Outcome != Unknown || !after.Held || !after.Expires.IsZero() {
			s.t.Fatalf("%s: what may have run was let go: %+v", s.p.name, after)
		}
	case e.Outcome == Failed:
		r.truth = failed
	case e.Outcome == NotSent:
		r.truth = notSent
	}
}

func (w *world) refund(r Refund) {
	if r.Call {
		w.calls--
	}
	w.spend -= r.Spend
}

// slot finds a key that a claim holds.
func (w *world) slot(fence uint64) int {
	for k := range w.slots {
		if w.slots[k].Fence == fence {
			return k
		}
	}
	return -1
}

func (w *world) put(fence uint64, s State) {
	for k := range w.slots {
		if w.slots[k].Fence == fence {
			w.slots[k] = s
			w.slots[k].Print = Key{9}
		}
	}
}

// operator resolves what is unknown, either way, with and without force.
func (s *search) operator(w world) {
	if int(w.words) >= s.p.bounds.words {
		return
	}
	for k := range w.slots {
		for _, o := range []Outcome{Done, NotSent} {
			for _, force := range []bool{false, true} {
				n := w
				before := n.slots[k]
				after, back, err := Resolve(before, &Resolution{Fence: before.Fence, Outcome: o, Keep: tick, Force: force}, n.time())
				if err != nil {
					continue
				}
				n.words++
				n.refund(back)
				n.put(before.Fence, after)
				r := &n.runs[n.run(before.Generation)]
				r.operator, r.truth, r.until = true, map[Outcome]truth{Done: done, NotSent: notExecuted}[o], n.now+1
				s.step(n)
			}
		}
	}
}

// reaper declares a holder dead, rightly or not.
func (s *search) reaper(w world) {
	if int(w.lapses) >= s.p.bounds.lapses {
		return
	}
	for k := range w.slots {
		if w.slots[k].Held && w.slots[k].Outcome == Running {
			n := w
			n.lapses++
			after, back := Recover(n.slots[k], n.time())
			if s.p.effect != tool.Read && (after.Outcome != Unknown || !after.Held) {
				s.t.Fatalf("%s: a dead holder's call was let go", s.p.name)
			}
			n.refund(back)
			n.put(n.slots[k].Fence, after)
			s.step(n)
		}
	}
}

func TestModel(t *testing.T) {
	two := bounds{claims: 2, ticks: 2, words: 1, lapses: 1}
	three := bounds{claims: 3, ticks: 2, deaths: 1, words: 1, lapses: 1}
	if testing.Short() {
		three = two
	}
	programs := []program{
		{name: "one key", keys: [2][]int{{0}, {0}}, bounds: three},
		{name: "with and without a client key", keys: [2][]int{{0, 1}, {0}}, bounds: two},
		{name: "two client keys", keys: [2][]int{{0, 1}, {0, 2}}, bounds: two},
		{name: "a changed definition", keys: [2][]int{{0}, {1, 0}}, bounds: two},
		{name: "a forced repeat", keys: [2][]int{{0}, {1}}, guards: [2][]int{nil, {0}}, bounds: two},
	}
	total := 0
	for _, effect := range []tool.Effect{tool.Mutating, tool.Idempotent} {
		for _, p := range programs {
			p.effect = effect
			if effect == tool.Idempotent {
				p.bounds.deaths = 0 // a dead holder is one that takes no further step: this only gives it a successor
				p.bounds.ticks = 4 - p.bounds.claims
			}
			name := fmt.Sprintf("%s, %s", map[tool.Effect]string{tool.Mutating: "mutating", tool.Idempotent: "idempotent"}[effect], p.name)
			t.Run(name, func(t *testing.T) { total += runModel(t, &p) })
		}
	}
	t.Logf("%d states in all", total)
}

func runModel(t *testing.T, p *program) int {
	s := &search{t: t, p: p, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, seen: map[[2]uint64]struct{}{}}
	s.step(world{})
	for len(s.stack) > 0 {
		w := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		s.expand(w)
	}
	t.Logf("%d states; %d claims won, %d taken over, %d settled late, %d replays", len(s.seen), s.claims, s.taken, s.late, s.replays)
	if s.claims == 0 || s.late == 0 || s.replays == 0 || (p.effect == tool.Idempotent) != (s.taken > 0) {
		t.Fatal("the search did not reach what it is for")
	}
	return len(s.seen)
}
