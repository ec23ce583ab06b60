package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// The kinds of lists that are hashed, each the first element of its list; the digit is the version of the form. A kind
// says how many elements follow and what they are, so that no list of one kind reads as one of another.
const (
	kindDerived   = "oo1"           // tenant, scope, scope id, tool, method, authority, path, query, headers, label, arguments
	kindSplit     = "oo1-split"     // the same, client key
	kindClient    = "oo1-client"    // tenant, scope, scope id, tool, client key, label
	kindArguments = "oo1-arguments" // form of the body, and what it consists of
	kindUpstream  = "oo1-upstream"  // key, generation
)

// writer builds the lists whose SHA-256 are keys. Every element is its length, four bytes, most significant first, and
// its bytes; an element that is a list holds elements. So nothing can move from one element to its neighbour.
type writer struct {
	buf     []byte // lists being written
	text    []byte // names of headers in lower case
	counted []countedHeader
	defs    []definition
	sent    []byte // the headers that count, as a list
}

var writers = sync.Pool{New: func() any { return new(writer) }}

// release gives the writer back without a trace of its caller.
func (w *writer) release() {
	if cap(w.buf)+cap(w.text) > keptScratch {
		return
	}
	clear(w.counted)
	clear(w.defs)
	*w = writer{buf: w.buf[:0], text: w.text[:0], counted: w.counted[:0], defs: w.defs[:0], sent: w.sent[:0]}
	writers.Put(w)
}

func (w *writer) bytes(b []byte) {
	w.buf = append(binary.BigEndian.AppendUint32(w.buf, uint32(len(b))), b...)
}

func (w *writer) string(s string) {
	w.buf = append(binary.BigEndian.AppendUint32(w.buf, uint32(len(s))), s...)
}

// open begins an element that is itself a list; shut ends it.
func (w *writer) open() (start int) {
	w.buf = append(w.buf, 0, 0, 0, 0)
	return len(w.buf)
}

func (w *writer) shut(start int) {
	binary.BigEndian.PutUint32(w.buf[start-4:], uint32(len(w.buf)-start))
}

// sum hashes the list that begins at start and takes it away.
func (w *writer) sum(start int) Key {
	k := Key(sha256.Sum256(w.buf[start:]))
	w.buf = w.buf[:start]
	return k
}

// sumString hashes s by way of the scratch text.
func (w *writer) sumString(s string) Key {
	from := len(w.text)
	w.text = append(w.text, s...)
	k := Key(sha256.Sum256(w.text[from:]))
	w.text = w.text[:from]
	return k
}

// derived is the key of the call's own content under a definition.
func (w *writer) derived(c *tool.Call, d *definition, label string) Key {
	start, split := len(w.buf), c.Tool.Dedup.Mode == tool.Window && c.Tool.Dedup.Splits && c.ClientKey != ""
	if split {
		w.string(kindSplit)
	} else {
		w.string(kindDerived)
	}
	w.string(c.Tenant)
	w.string(d.scope)
	w.string(d.scopeID)
	w.string(c.Tool.Name)
	w.string(c.Method)
	w.string(d.authority)
	w.string(d.path)
	w.string(c.Target.Query)
	w.bytes(w.sent)
	w.string(label)
	w.bytes(d.args[:])
	if split {
		w.string(c.ClientKey)
	}
	return w.sum(start)
}

// client is the key that the client's own key makes, inside tenant, scope and tool.
func (w *writer) client(c *tool.Call, d *definition, label string) Key {
	start := len(w.buf)
	w.string(kindClient)
	w.string(c.Tenant)
	w.string(d.scope)
	w.string(d.scopeID)
	w.string(c.Tool.Name)
	w.string(c.ClientKey)
	w.string(label)
	return w.sum(start)
}
