package store

import (
	"bytes"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// call is one that is running or unknown, or that ended while the disk takes nothing. Guarded by Embedded.mu, but for
// done and ending.
type call struct {
	state     dedup.State // Print is not used: keys has one for each
	keys      []dedup.Identity
	requestID string
	record    []byte // of the claim, while it runs
	seq       uint64 // of the newest fact about it

	pending bool // its claim is not durable yet
	ended   bool // an end has been appended; what it says is not shown before it is durable

	// What the claim put aside, for when it does not become durable.
	taken     *call               // the unknown call that it takes over, or its holder's own that it renews
	displaced map[dedup.Key]*call // unknown calls whose block had expired

	answer  *dedup.Answer // ended and deferred: what duplicates get
	waiters int
	done    chan struct{} // closed once the call has ended
	ending  dedup.Ending  // written before done is closed
	renewed *call         // goes on with this call under a higher fence; written before done is closed
}

// stateAt is the call's state as it is seen under one of its keys.
func (c *call) stateAt(k dedup.Key) dedup.State {
	s := c.state
	s.Print = printOf(c.keys, k)
	return s
}

func printOf(keys []dedup.Identity, k dedup.Key) dedup.Key {
	for _, id := range keys {
		if id.Key == k {
			return id.Print
		}
	}
	return dedup.Key{}
}

func hasKey(keys []dedup.Identity, k dedup.Key) bool {
	for _, id := range keys {
		if id.Key == k {
			return true
		}
	}
	return false
}

// end makes the outcome known to whoever waits, once. Call it with Embedded.mu held.
func (c *call) end(e dedup.Ending) {
	select {
	case <-c.done:
		return
	default:
	}
	c.ending = e
	close(c.done)
}

// union is a call's keys and those under which it was claimed again.
func union(a, b []dedup.Identity) []dedup.Identity {
	u := a[:len(a):len(a)]
	for _, id := range b {
		if !hasKey(u, id.Key) {
			u = append(u, id)
		}
	}
	return u
}

// requestID finds the request's id in its record. It is our own and needs no unescaping.
func requestID(record []byte) string {
	_, rest, ok := bytes.Cut(record, []byte(`"request_id":"`))
	if !ok {
		return ""
	}
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(id)
}

// endedCall is a call that has ended, as its body in the journal says. It is never changed.
type endedCall struct {
	state     dedup.State
	keys      []dedup.Identity
	requestID string
	answer    *dedup.Answer // never nil
}

func parseEnded(body []byte) (*endedCall, error) {
	f, err := parseCall(body)
	if err != nil {
		return nil, err
	}
	return newEnded(&f), nil
}

func newEnded(f *callFact) *endedCall {
	e := &endedCall{state: f.state, keys: f.keys, requestID: f.requestID, answer: f.answer}
	if e.answer == nil {
		e.answer = &dedup.Answer{}
	}
	return e
}

// cost is what the call takes in the cache, about.
func (e *endedCall) cost() int {
	return 512 + len(e.answer.Body) + 64*len(e.keys) + 48*len(e.answer.Header)
}
