package store

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// Facts and bodies of the store begin with this. A newer format is refused rather than misread.
const formatVersion = 1

var errFormat = errors.New("a fact of the store cannot be read; it was written by a newer oo-sidecar or is damaged")

// writer appends values of facts: integers as varints, everything else with its length.
type writer []byte

func newWriter(buf []byte) writer { return append(writer(buf[:0]), formatVersion) }

func (w *writer) uint(v uint64) { *w = binary.AppendUvarint(*w, v) }
func (w *writer) int(v int64)   { *w = binary.AppendVarint(*w, v) }
func (w *writer) text(s string) { w.uint(uint64(len(s))); *w = append(*w, s...) }
func (w *writer) bytes(p []byte) {
	w.uint(uint64(len(p)))
	*w = append(*w, p...)
}
func (w *writer) key(k dedup.Key) { *w = append(*w, k[:]...) }

func (w *writer) bool(v bool) {
	if v {
		*w = append(*w, 1)
		return
	}
	*w = append(*w, 0)
}

// time writes nanoseconds; the zero time is 0, which no store will ever see.
func (w *writer) time(t time.Time) {
	if t.IsZero() {
		w.int(0)
		return
	}
	w.int(t.UnixNano())
}

// reader reads what writer wrote. After the first error everything is zero, and err says so.
type reader struct {
	p     []byte
	err   error
	names names
}

// names are short texts that many facts have, each kept once; nil keeps none.
type names map[string]string

const manyNames = 4096

func (n names) of(p []byte) string {
	if n == nil {
		return string(p)
	}
	s, ok := n[string(p)]
	if !ok {
		if len(n) >= manyNames {
			clear(n)
		}
		s = string(p)
		n[s] = s
	}
	return s
}

func newReader(p []byte) *reader {
	if len(p) == 0 || p[0] != formatVersion {
		return &reader{err: errFormat}
	}
	return &reader{p: p[1:]}
}

func (r *reader) fail() { r.p, r.err = nil, errFormat }

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.p)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.p)) {
		r.fail()
		return nil
	}
	p := r.p[:n]
	r.p = r.p[n:]
	return p
}

func (r *reader) view() []byte { return r.take(r.uint()) }
func (r *reader) text() string { return string(r.view()) }
func (r *reader) name() string { return r.names.of(r.view()) }

// bytes copies: a fact is only valid during its step of the iteration. Nothing reads back as nil.
func (r *reader) bytes() []byte { return append([]byte(nil), r.view()...) }

func (r *reader) key() (k dedup.Key) {
	copy(k[:], r.take(uint64(len(k))))
	return k
}

func (r *reader) bool() bool {
	p := r.take(1)
	return len(p) == 1 && p[0] != 0
}

func (r *reader) time() time.Time {
	if n := r.int(); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func (r *reader) done() error {
	if r.err == nil && len(r.p) > 0 {
		r.fail()
	}
	return r.err
}

func (w *writer) state(s *dedup.State) {
	w.uint(uint64(s.Outcome))
	w.bool(s.Held)
	w.key(s.Origin)
	w.uint(s.Fence)
	w.uint(s.Generation)
	w.uint(s.Nonce)
	w.int(int64(s.Attempt))
	w.uint(uint64(s.Effect))
	w.time(s.Claimed)
	w.time(s.Sent)
	w.time(s.Ended)
	w.time(s.Expires)
	w.int(int64(s.Timeout))
	w.int(int64(s.UnknownFor))
	w.text(s.Reserved.Tenant)
	w.text(s.Reserved.Agent)
	w.text(s.Reserved.Tool)
	w.int(int64(s.Reserved.Cost))
	w.int(s.Reserved.Minute)
	w.int(s.Reserved.Day)
	w.bool(s.Reserved.Settled)
}

func (r *reader) state() dedup.State {
	return dedup.State{
		Outcome: dedup.Outcome(r.uint()), Held: r.bool(), Origin: r.key(), Fence: r.uint(), Generation: r.uint(), Nonce: r.uint(),
		Attempt: int(r.int()), Effect: tool.Effect(r.uint()), Claimed: r.time(), Sent: r.time(), Ended: r.time(), Expires: r.time(),
		Timeout: time.Duration(r.int()), UnknownFor: time.Duration(r.int()),
		Reserved: dedup.Reservation{
			Tenant: r.name(), Agent: r.name(), Tool: r.name(), Cost: tool.Money(r.int()), Minute: r.int(), Day: r.int(), Settled: r.bool(),
		},
	}
}

func (w *writer) identities(keys []dedup.Identity) {
	w.uint(uint64(len(keys)))
	for _, k := range keys {
		w.key(k.Key)
		w.key(k.Print)
	}
}

func (r *reader) identities() []dedup.Identity {
	n := r.uint()
	if n > uint64(len(r.p)/(2*len(dedup.Key{}))) {
		r.fail()
		return nil
	}
	var keys []dedup.Identity
	if n > 0 {
		keys = make([]dedup.Identity, n)
	}
	for i := range keys {
		keys[i] = dedup.Identity{Key: r.key(), Print: r.key()}
	}
	return keys
}

// answer writes an answer with or without its body.
func (w *writer) answer(a *dedup.Answer, body bool) {
	w.bool(a != nil)
	if a == nil {
		return
	}
	w.int(int64(a.Status))
	w.int(a.Size)
	w.key(a.SHA256)
	w.uint(uint64(len(a.Header)))
	for _, h := range a.Header {
		w.text(h.Name)
		w.text(h.Value)
	}
	kept := a.Kept && body
	w.bool(kept)
	if kept {
		w.bytes(a.Body)
	}
}

func (r *reader) answer() *dedup.Answer {
	if !r.bool() {
		return nil
	}
	a := &dedup.Answer{Status: int(r.int()), Size: r.int(), SHA256: r.key()}
	n := r.uint()
	if n > uint64(len(r.p)) {
		r.fail()
		return nil
	}
	for range n {
		a.Header = append(a.Header, tool.Header{Name: r.name(), Value: r.text()})
	}
	if a.Kept = r.bool(); a.Kept {
		a.Body = r.bytes()
	}
	return a
}
