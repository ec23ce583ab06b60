package store

import (
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// The journal's kinds that belong to the store. Every fact of a call is whole: the newest one is all there is to know,
// so that an older one may be dropped.
const (
	kindClaim   journal.Kind = 32 // a claim that won; its fence is its sequence number
	kindEnd     journal.Kind = 33 // an outcome, by the holder, an operator or recovery; the body is what duplicates get
	kindCarried journal.Kind = 34 // a running call, said again because its claim is about to be dropped
	kindDeliver journal.Kind = 35 // an answer reached its caller whole: the window is shorter
	kindSwitch  journal.Kind = 36
	kindEntry   journal.Kind = 37 // a policy or a tool

	kindActivity journal.Kind = 48 // counts, an event, a line of a run: see package activity
)

// callFact is what claims, ends and carried calls say.
type callFact struct {
	state     dedup.State
	keys      []dedup.Identity
	requestID string
	lost      uint64       // bit i says that keys[i] belongs to a newer call by now
	taken     uint64       // claim: fence of the unknown call that it takes over; 0: it was charged
	back      dedup.Refund // end
	record    []byte       // claim, carried: the audit record to complete
	answer    *dedup.Answer
}

func (f *callFact) append(buf []byte, body bool) []byte {
	w := newWriter(buf)
	w.state(&f.state)
	w.identities(f.keys)
	w.text(f.requestID)
	w.uint(f.lost)
	w.uint(f.taken)
	w.bool(f.back.Call)
	w.int(int64(f.back.Spend))
	w.bytes(f.record)
	w.answer(f.answer, body)
	return w
}

func parseCall(p []byte) (callFact, error) { return parseCallBy(p, nil) }

// parseCallBy is parseCall of one fact of many that share names.
func parseCallBy(p []byte, n names) (f callFact, err error) {
	r := newReader(p)
	r.names = n
	f = callFact{state: r.state(), keys: r.identities(), requestID: r.text(), lost: r.uint(), taken: r.uint()}
	f.back.Call = r.bool()
	f.back.Spend = tool.Money(r.int())
	f.record, f.answer = r.bytes(), r.answer()
	return f, r.done()
}

// deliverFact shortens the window of an ended call.
type deliverFact struct {
	fence   uint64
	keys    []dedup.Identity
	expires time.Time
}

func (f *deliverFact) append(buf []byte) []byte {
	w := newWriter(buf)
	w.uint(f.fence)
	w.identities(f.keys)
	w.time(f.expires)
	return w
}

func parseDeliver(p []byte) (deliverFact, error) {
	r := newReader(p)
	f := deliverFact{fence: r.uint(), keys: r.identities(), expires: r.time()}
	return f, r.done()
}

// append writes a switch; one that is on again is written with an empty Since.
func (s *Switch) append(buf []byte) []byte {
	w := newWriter(buf)
	w.text(s.Agent)
	w.bool(s.Disabled)
	w.text(s.Reason)
	w.text(s.Who)
	w.time(s.Since)
	return w
}

func parseSwitch(p []byte) (Switch, error) {
	r := newReader(p)
	s := Switch{Agent: r.text(), Disabled: r.bool(), Reason: r.text(), Who: r.text(), Since: r.time()}
	return s, r.done()
}

// append writes all that outlives a restart: of what the file says only when it changed and a digest, because values of
// the file may hold secrets that stand in the file only.
func (v *versions) append(buf []byte, id entryID) []byte {
	w := newWriter(buf)
	w.text(string(id.kind))
	w.text(id.name)
	w.bool(v.file.known)
	w.bool(v.file.gone)
	w.time(v.file.at)
	w.key(v.file.digest)
	w.bool(v.api.known)
	w.bool(v.api.gone)
	w.time(v.api.at)
	w.bytes(v.api.value)
	return w
}

func parseVersions(p []byte) (id entryID, v versions, err error) {
	r := newReader(p)
	id = entryID{kind: EntryKind(r.text()), name: r.text()}
	v.file = version{known: r.bool(), gone: r.bool(), at: r.time(), digest: r.key()}
	v.api = version{known: r.bool(), gone: r.bool(), at: r.time(), value: r.bytes()}
	return id, v, r.done()
}
