package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// manual is a wall clock that only moves when it is told to.
type manual struct {
	mu  sync.Mutex
	now time.Time
}

func (m *manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *manual) add(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}

// rig drives a store with many keys at random.
type rig struct {
	t     *testing.T
	opt   Options
	clock *manual
	e     *Embedded
	r     *rand.Rand
	open  []*dedup.End // claims that are held
	nonce uint64
}

func newRig(t *testing.T, seed uint64, opt Options) *rig {
	r := &rig{t: t, opt: opt, clock: &manual{now: indexStart}, r: rand.New(rand.NewPCG(3, seed))}
	r.opt.Config.Dir, r.opt.Now = t.TempDir(), r.clock.Now
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	e, err := OpenEmbedded(r.opt)
	if err != nil {
		r.t.Fatal(err)
	}
	r.e = e
	r.t.Cleanup(func() { _ = e.Close(context.Background()) })
}

func word(i int) dedup.Key { return dedup.Key{byte(i), byte(i >> 8), 1} }

// step does one thing at random.
func (r *rig) step() {
	switch r.r.IntN(10) {
	case 0, 1, 2, 3, 4:
		r.claim()
	case 5, 6, 7:
		if len(r.open) > 0 {
			r.finish()
		}
	case 8:
		r.clock.add(time.Duration(r.r.IntN(600)) * time.Second)
	case 9:
		r.operate()
	}
}

func (r *rig) claim() {
	i := r.r.IntN(150)
	r.nonce++
	record := fmt.Appendf(nil, `{"request_id":"r%d"}`, r.nonce)
	c := &dedup.Claim{
		Keys: []dedup.Identity{{Key: word(i), Print: word(i)}}, Nonce: r.nonce, Tenant: "default", Agent: fmt.Sprint("a", i%3), Tool: fmt.Sprint("t", i%5),
		Timeout: time.Minute, Cost: tool.Money(r.r.IntN(1000)), Record: func() []byte { return record },
	}
	if r.r.IntN(3) == 0 {
		c.Keys = append(c.Keys, dedup.Identity{Key: word(1000 + r.r.IntN(300)), Print: word(i)})
	}
	if i%3 == 0 {
		c.Effect, c.Resend = tool.Idempotent, time.Hour
	}
	if i%11 == 0 {
		c.UnknownFor = time.Minute
	}
	b, err := r.e.Begin(context.Background(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	if b.Status == dedup.Mine {
		r.open = append(r.open, &dedup.End{Keys: c.Keys, Fence: b.Fence, Nonce: c.Nonce, Record: record})
	}
}

func (r *rig) finish() {
	i := r.r.IntN(len(r.open))
	end := r.open[i]
	r.open = slices.Delete(r.open, i, i+1)
	end.Outcome = []dedup.Outcome{dedup.Done, dedup.Done, dedup.Failed, dedup.NotSent, dedup.Unknown}[r.r.IntN(5)]
	end.Keep = []time.Duration{0, time.Minute, time.Hour, 24 * time.Hour}[r.r.IntN(4)]
	body := []byte(strings.Repeat("x", r.r.IntN(2000)))
	end.Answer = &dedup.Answer{Status: 200, Body: body, Size: int64(len(body)), Kept: true}
	if err := r.e.Finish(context.Background(), end); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) operate() {
	if list := r.e.Unknowns(); len(list) > 0 && r.r.IntN(4) == 0 {
		u := list[r.r.IntN(len(list))]
		word := &dedup.Resolution{Key: u.Key, Fence: u.Fence, Outcome: []dedup.Outcome{dedup.Done, dedup.NotSent}[r.r.IntN(2)], Who: "ops", Force: true}
		if err := r.e.Resolve(context.Background(), word, "k"); err != nil {
			r.t.Fatal(err)
		}
	}
}

// drain ends what is held, so that a restart has nothing to recover.
func (r *rig) drain() {
	for len(r.open) > 0 {
		r.finish()
	}
}

// dump is all that the store knows, as text. What stands in the journal, and where, is not part of it, nor what has
// expired.
func (r *rig) dump() []string {
	e := r.e
	var out []string
	for _, agent := range []string{"a0", "a1", "a2"} {
		for _, name := range []string{"t0", "t1", "t2", "t3", "t4"} {
			out = append(out, fmt.Sprintf("usage %s %s %+v", agent, name, e.Usage("default", agent, name)))
		}
	}
	for _, u := range e.Open() {
		out = append(out, fmt.Sprintf("open %+v", u))
	}
	now := e.now()
	for i := range 1300 {
		h, err := e.look(word(i))
		if err != nil {
			r.t.Fatal(err)
		}
		s := h.state(word(i), word(i))
		switch {
		case !h.found || h.call == nil && !s.Expires.After(now):
		case h.call != nil:
			out = append(out, fmt.Sprintf("live %d %+v %v", i, s, h.requestID()))
		default:
			out = append(out, fmt.Sprintf("ended %d %+v %v %d %v", i, s, h.requestID(), len(h.answer().Body), h.answer().Kept))
		}
	}
	for _, s := range e.Switches() {
		out = append(out, fmt.Sprintf("switch %+v", s))
	}
	for _, entry := range e.Entries() {
		out = append(out, fmt.Sprintf("entry %+v", entry))
	}
	return out
}

func (r *rig) restart() {
	r.t.Helper()
	if err := r.e.Close(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func same(t *testing.T, before, after []string) {
	t.Helper()
	for i := range max(len(before), len(after)) {
		a, b := "", ""
		if i < len(before) {
			a = before[i]
		}
		if i < len(after) {
			b = after[i]
		}
		if a != b {
			t.Fatalf("the store was\n%s\nand is\n%s", a, b)
		}
	}
}

func TestRestartFoldsToTheSame(t *testing.T) {
	r := newRig(t, 4, Options{Config: EmbeddedConfig{Durability: "process"}, CacheBytes: 20_000})
	if _, err := r.e.Disable(t.Context(), "a1", "why", "ops"); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Put(t.Context(), Entry{Kind: ToolEntry, Name: "t", Value: []byte("{}")}, "ops"); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		for range 500 {
			r.step()
		}
		r.drain()
		before := r.dump()
		if len(before) < 50 {
			t.Fatalf("there is little to compare: %d lines", len(before))
		}
		r.restart()
		same(t, before, r.dump())
	}
}

// Segments that are dropped take nothing with them that still counts.
func TestCarry(t *testing.T) {
	for seed := range uint64(carrySeeds) {
		carry(t, seed)
	}
}

const carrySeeds = 3

func carry(t *testing.T, seed uint64) {
	r := newRig(t, seed, Options{Config: EmbeddedConfig{Durability: "process", Retention: time.Hour}, Segment: 32 << 10, CacheBytes: 20_000})
	if _, err := r.e.Disable(t.Context(), "a1", "why", "ops"); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Put(t.Context(), Entry{Kind: ToolEntry, Name: "t", Value: []byte("{}")}, "ops"); err != nil {
		t.Fatal(err)
	}
	oldest := uint64(0)
	held := 0
	for range 12 {
		for range 400 {
			r.step()
		}
		held += len(r.open)
		if r.r.IntN(2) == 0 {
			r.drain()
		}
		r.clock.add(20 * time.Hour) // less than the window, so that ended calls are carried too
		before := r.dump()
		if err := r.e.j.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(t, before, r.dump())
		r.drain()
		before = r.dump()
		r.restart()
		same(t, before, r.dump())
		oldest = r.e.j.Status().Oldest
	}
	if oldest < 1000 || held == 0 {
		t.Fatalf("nothing was dropped, or nothing was held meanwhile: %d, %d", oldest, held)
	}
}

// A body that went before its time still blocks, and says that the answer was not kept.
func TestBodiesThatAreDroppedEarly(t *testing.T) {
	r := newRig(t, 4, Options{Config: EmbeddedConfig{Durability: "process", MaxBytes: 8 << 20}, Segment: 1 << 20, CacheBytes: 4096})
	gone, kept := 0, 0
	big := strings.Repeat("x", 100<<10)
	for i := range 75 {
		c := &dedup.Claim{Keys: []dedup.Identity{{Key: word(i), Print: word(i)}}, Nonce: uint64(i + 1), Agent: "a", Record: func() []byte { return []byte("{}") }}
		b, err := r.e.Begin(t.Context(), c)
		if err != nil || b.Status != dedup.Mine {
			t.Fatal(i, b, err)
		}
		end := &dedup.End{Keys: c.Keys, Fence: b.Fence, Nonce: c.Nonce, Outcome: dedup.Done, Keep: time.Hour, Record: c.Record()}
		end.Answer = &dedup.Answer{Status: 200, Body: []byte(big), Size: int64(len(big)), Kept: true}
		if err := r.e.Finish(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			if err := r.e.j.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		gone, kept = 0, 0
		for i := range 75 {
			b, err := r.e.Begin(t.Context(), &dedup.Claim{Keys: []dedup.Identity{{Key: word(i), Print: word(i)}}, Nonce: uint64(1000 + i), Agent: "a"})
			if err != nil || b.Status != dedup.Replay {
				t.Fatal(i, b, err)
			}
			if b.Answer.Kept {
				kept++
			} else {
				gone++
			}
		}
		r.restart()
	}
	if gone == 0 || kept == 0 {
		t.Fatalf("%d bodies are gone, %d are kept", gone, kept)
	}
}

func TestSecretThatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shown.key"), []byte("zz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := OpenEmbedded(Options{Config: EmbeddedConfig{Dir: dir}}); err == nil || !strings.Contains(err.Error(), "shown.key") {
		_ = e
		t.Fatalf("opened with a damaged key: %v", err)
	}
}

func TestGuarantee(t *testing.T) {
	for want, c := range map[string]EmbeddedConfig{
		"at most once per volume":                     {},
		"at most once, until this pod is deleted":     {Lifetime: "pod"},
		"at most once per volume; a crash of the mac": {Durability: "process"},
	} {
		e := &Embedded{opt: Options{Config: c}}
		if got := e.Guarantee(); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
