package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/store/redistest"
	"github.com/oo-sidecar/oo-sidecar/internal/store/storetest"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// walk drives the scripts and package dedup with the same random steps. What the scripts find is read back before each
// step and given to dedup's pure functions; their verdicts and the states that they leave must be the same.
type walk struct {
	t      *testing.T
	s      *redistest.Server
	r      *Redis
	rng    *rand.Rand
	ahead  *atomic.Int64
	claims []*dedup.Claim // that won, with the fence they were given
	fences []uint64
	spent  usage
	seen   map[string]int
	step   int
}

var walkPrints = []dedup.Key{storetest.K("print 0"), storetest.K("print 1")}

func walkKey(i int) dedup.Key { return storetest.K("key", i) }

// record reads one call back.
func (w *walk) record(fence uint64) *record {
	raw, _ := w.s.Do("GET", w.r.base+"r:"+strconv.FormatUint(fence, 10)).(string)
	if raw == "" {
		return nil
	}
	_, text, _ := strings.Cut(raw, "\n")
	rec, err := parseRecord(text)
	if err != nil {
		w.t.Fatalf("step %d: %v: %q", w.step, err, raw)
	}
	return rec
}

// found is what stands under a key.
func (w *walk) found(k dedup.Key) dedup.State {
	raw, _ := w.s.Do("GET", w.r.base+"k:"+keyText(k)).(string)
	if raw == "" {
		return dedup.State{}
	}
	fence, print, _ := strings.Cut(raw, " ")
	n, _ := strconv.ParseUint(fence, 10, 64)
	rec := w.record(n)
	if rec == nil {
		w.t.Fatalf("step %d: a key leads nowhere", w.step)
	}
	s := rec.state
	s.Print, _ = parseKey(print)
	return s
}

func (w *walk) same(what string, got, want any) {
	w.t.Helper()
	if !reflect.DeepEqual(got, want) {
		w.t.Fatalf("step %d: %s:\n got %+v\nwant %+v", w.step, what, got, want)
	}
}

func (w *walk) ask(s *script, echo string, args ...any) verdict {
	v, err := w.r.ask(w.t.Context(), w.r.home, s, echo, args...)
	if err != nil {
		w.t.Fatalf("step %d: %v", w.step, err)
	}
	w.seen[s.name+" "+v.word]++
	return v
}

func (w *walk) claim() *dedup.Claim {
	if len(w.claims) > 0 && w.rng.IntN(8) == 0 {
		return w.claims[w.rng.IntN(len(w.claims))] // asked again
	}
	c := storetest.NewClaim("x")
	c.Keys = nil
	for i := range 6 {
		if w.rng.IntN(4) == 0 {
			c.Keys = append(c.Keys, dedup.Identity{Key: walkKey(i), Print: walkPrints[min(w.rng.IntN(6), 1)^1]})
		}
	}
	if len(c.Keys) == 0 {
		c.Keys = []dedup.Identity{{Key: walkKey(0), Print: walkPrints[0]}}
	}
	if w.rng.IntN(4) == 0 {
		c.Guards = []dedup.Key{walkKey(w.rng.IntN(4))}
	}
	c.Effect = []tool.Effect{tool.Mutating, tool.Idempotent, tool.Idempotent, tool.Read}[w.rng.IntN(4)]
	c.Cost, c.Timeout, c.Agent = tool.Money(w.rng.IntN(1000)), time.Duration(w.rng.IntN(2))*time.Hour, []string{"a", "b c:d,"}[w.rng.IntN(2)]
	if c.Effect == tool.Idempotent {
		c.Resend = 24 * time.Hour
	}
	if w.rng.IntN(6) == 0 {
		c.UnknownFor = time.Hour
	}
	if len(w.fences) > 0 && w.rng.IntN(3) == 0 {
		c.Renews = w.fences[len(w.fences)-1]
	}
	w.limit(c)
	return c
}

func (w *walk) limit(c *dedup.Claim) {
	n, m := int64(w.rng.IntN(12)), tool.Money(w.rng.IntN(6000))
	switch w.rng.IntN(5) {
	case 0:
		c.Limits.ActionsPerHour = &n
	case 1:
		c.Limits.CallsPerDay = &n
	case 2:
		c.Limits.SpendPerDay = &m
	}
	c.Shadow = w.rng.IntN(4) == 0
}

func (w *walk) begin() {
	c := w.claim()
	var found, guards []dedup.State
	for _, id := range c.Keys {
		found = append(found, w.found(id.Key))
	}
	for _, k := range c.Guards {
		guards = append(guards, w.found(k))
	}
	v := w.ask(beginScript, strconv.FormatUint(c.Nonce, 10), w.r.claimArgs(w.r.home, c, "req")...)
	want := dedup.Begin(c, found, guards, v.now)
	words := map[dedup.Status]string{dedup.Mine: "mine", dedup.InFlight: "inflight", dedup.Replay: "replay", dedup.Blocked: "blocked", dedup.Reused: "reused"}
	if want.Status != dedup.Mine {
		w.same("Begin's word", v.word, words[want.Status])
		w.same("what decided", []int64{integer(v.at(0)), integer(v.at(1))}, []int64{truth(want.Guard), int64(want.At)})
		return
	}
	w.won(c, &v, &want)
}

func (w *walk) won(c *dedup.Claim, v *verdict, want *dedup.Verdict) {
	next := want.Next
	if !want.Again && !want.Taken {
		limit, after := w.spent.of(c.Tenant, c.Agent).over(c, v.now)
		if limit != "" && !c.Shadow {
			w.same("the limit", []any{v.word, v.text(0), time.Duration(integer(v.at(1))) * time.Microsecond}, []any{"over", string(limit), after})
			return
		}
		rec, err := v.record(0)
		if err != nil {
			w.t.Fatalf("step %d: %v: %s", w.step, err, v.word)
		}
		w.same("the shadow", rec.shadow, limit)
		next.Reserved = dedup.Reservation{Tenant: c.Tenant, Agent: c.Agent, Tool: c.Tool, Cost: c.Cost, Minute: minuteOf(v.now), Day: dayOf(v.now)}
		w.spent.charge(&next.Reserved)
	}
	w.same("Begin's word", v.word, "mine")
	w.same("taken", integer(v.at(1)), truth(want.Taken))
	rec, err := v.record(0)
	if err != nil {
		w.t.Fatal(err)
	}
	if want.Again {
		next.Print = dedup.Key{}
		w.same("the state, asked again", rec.state, next)
		return
	}
	next = next.Granted(rec.state.Fence)
	next.Print = dedup.Key{}
	w.same("the state that was granted", rec.state, next)
	for _, id := range c.Keys {
		s := w.found(id.Key)
		next.Print = s.Print
		w.same("the state under a key", s, next)
	}
	w.claims, w.fences = append(w.claims, c), append(w.fences, rec.state.Fence)
}

func (w *walk) pick() (int, *record) {
	i := len(w.claims) - 1 - min(w.rng.IntN(4), len(w.claims)-1)
	return i, w.record(w.fences[i])
}

func (w *walk) finish() {
	i, rec := w.pick()
	e := &dedup.End{
		Keys: w.claims[i].Keys, Fence: w.fences[i], Nonce: w.claims[i].Nonce, Keep: []time.Duration{0, time.Minute, 24 * time.Hour}[w.rng.IntN(3)],
		Outcome: []dedup.Outcome{dedup.Done, dedup.Failed, dedup.NotSent, dedup.Unknown, dedup.Unknown, dedup.Unknown}[w.rng.IntN(6)],
	}
	if w.rng.IntN(10) == 0 {
		e.Nonce++
	}
	v := w.ask(finishScript, strconv.FormatUint(e.Nonce, 10), strconv.FormatUint(e.Fence, 10), strconv.FormatUint(e.Nonce, 10), int(e.Outcome), e.Keep.Microseconds(), "", "", 1000)
	if rec == nil {
		w.same("the end of nothing", v.word, "absent")
		return
	}
	next, back, err := dedup.Finish(rec.state, e, v.now)
	switch {
	case errors.Is(err, dedup.ErrOvertaken):
		w.same("Finish", v.word, "overtaken")
	case rec.state.Open():
		w.same("Finish", v.word, "ended")
	default:
		w.same("Finish", v.word, "again")
	}
	w.left(rec, next, back)
}

// left compares what a step left of a call, and of its charge.
func (w *walk) left(was *record, next dedup.State, back dedup.Refund) {
	w.t.Helper()
	w.same("the state that was left", w.record(was.state.Fence).state, next)
	w.spent.refund(&was.state.Reserved, back)
}

func (w *walk) recover() {
	i, rec := w.pick()
	if rec == nil || rec.state.Nonce != w.claims[i].Nonce {
		return
	}
	args := []any{strconv.FormatUint(rec.state.Nonce, 10), int(dedup.Unknown)}
	for _, id := range rec.keys {
		if w.found(id.Key).Fence == rec.state.Fence {
			args = append(args, keyText(id.Key))
		}
	}
	if len(args) == 2 {
		return
	}
	v := w.ask(settleScript, args[0].(string), args...)
	next, back := dedup.Recover(rec.state, v.now)
	w.left(rec, next, back)
}

func (w *walk) resolve() {
	i, rec := w.pick()
	if rec == nil || rec.moved != 0 {
		return
	}
	res := &dedup.Resolution{Key: w.claims[i].Keys[0].Key, Fence: w.fences[i], Outcome: []dedup.Outcome{dedup.Done, dedup.NotSent}[w.rng.IntN(2)], Keep: time.Hour, Force: w.rng.IntN(2) == 0}
	v, err := w.r.resolve(w.t.Context(), res)
	if err != nil {
		w.t.Fatal(err)
	}
	w.seen["resolve "+v.word]++
	next, back, err := dedup.Resolve(rec.state, res, v.now)
	word := map[error]string{nil: "resolved", dedup.ErrMoved: "moved", dedup.ErrNotUnknown: "known", dedup.ErrStillRunning: "running", dedup.ErrTooYoung: "young"}[err]
	w.same("Resolve", v.word, word)
	w.left(rec, next, back)
}

func (w *walk) deliver() {
	i, rec := w.pick()
	if rec == nil {
		return
	}
	echo := strconv.FormatUint(w.fences[i], 10)
	w.ask(deliverScript, echo, echo, time.Minute.Microseconds())
	w.left(rec, dedup.Deliver(rec.state, w.fences[i], time.Minute), dedup.Refund{})
}

// charged compares what agents have used.
func (w *walk) charged() {
	for _, agent := range []string{"a", "b c:d,"} {
		v := w.ask(usageScript, "pay", "default", map[string]string{"a": "a"}[agent]+map[bool]string{true: "b+c%3Ad%2C"}[agent != "a"], "pay")
		s := w.spent.of("default", agent)
		spend, calls := s.today(v.now, "pay")
		w.same("what is used", []int64{integer(v.at(0)), integer(v.at(1)), integer(v.at(2))}, []int64{s.hour(v.now), int64(spend), calls})
	}
}

func TestScriptsAreTheStateMachine(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "no")
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	all := map[string]int{}
	for seed := range uint64(4) {
		var ahead atomic.Int64
		ahead.Store(int64(untilNoon()))
		opt := RedisOptions{Options: Options{Config: EmbeddedConfig{Durability: "process"}}, Redis: RedisConfig{Addrs: []string{s.Addr}, Prefix: namespace()}}
		opt.Ahead = func() time.Duration { return time.Duration(ahead.Load()) }
		w := &walk{t: t, s: s, r: joinRedis(t, opt), rng: rand.New(rand.NewPCG(seed, 7)), ahead: &ahead, spent: usage{}, seen: all}
		for w.step = range steps {
			w.any()
		}
	}
	t.Logf("%v", all)
	for _, word := range []string{
		"begin mine", "begin inflight", "begin blocked", "begin replay", "begin reused", "begin over", "finish ended", "finish again", "finish overtaken",
		"settle ended", "resolve resolved", "resolve known", "resolve running", "resolve young",
	} {
		if all[word] < 3 {
			t.Errorf("the walk met %q %d times: it does not reach what it is for", word, all[word])
		}
	}
}

func (w *walk) any() {
	switch n := w.rng.IntN(24); {
	case n < 9 || len(w.claims) == 0:
		w.begin()
	case n < 14:
		w.finish()
	case n == 14:
		w.recover()
	case n < 19:
		w.resolve()
	case n == 19:
		w.deliver()
	case n == 20:
		w.ahead.Add(int64([]time.Duration{time.Second, 20 * time.Minute, 59 * time.Minute, 9 * time.Hour, 25 * time.Hour, 8 * 24 * time.Hour}[w.rng.IntN(6)]))
	default:
		w.charged()
	}
}

func TestRecordsReadBack(t *testing.T) {
	rec := &record{
		state: dedup.State{
			Outcome: dedup.Done, Held: true, Origin: storetest.K("o"), Fence: 1<<53 - 1, Generation: 7, Nonce: 1<<64 - 1, Attempt: 3, Effect: tool.Idempotent,
			Claimed: instant(1), Sent: instant(2), Ended: instant(3), Expires: instant(4), Timeout: time.Minute, UnknownFor: time.Hour,
			Reserved: dedup.Reservation{Tenant: "t:\n", Agent: "a b", Tool: "POST:api.test", Cost: mostCount, Minute: 5, Day: 6, Settled: true},
		},
		keys:   []dedup.Identity{{Key: storetest.K("a"), Print: storetest.K("b")}, {Key: storetest.K("c"), Print: storetest.K("d")}},
		holder: "0123", requestID: "req,:", refusal: "in\nflight", moved: 9, shadow: dedup.CallsPerDay,
		answer: &dedup.Answer{Status: 200, Header: []tool.Header{{Name: "A", Value: "b\n"}}, Size: 5, SHA256: [32]byte{1}},
	}
	got, err := parseRecord(rec.encode())
	if err != nil || !reflect.DeepEqual(got, rec) {
		t.Fatalf("%v\n got %+v\nwant %+v", err, got, rec)
	}
	text := rec.encode()
	for _, bad := range []string{"", text + "\n", strings.Replace(text, "\n", "", 1), "x" + text, fmt.Sprint(text, "!")} {
		if _, err := parseRecord(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
