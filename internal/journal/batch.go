package journal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// batch is what becomes one frame: whole Appends, encoded as they will stand on disk.
type batch struct {
	buf    []byte // frameRoom bytes, then the entries
	first  uint64
	last   uint64
	count  uint32
	time   int64 // of the frame that recovery repeats; 0: when it is written
	bodies []bodySpan
	musts  []*Commit

	done    chan struct{}
	err     error  // written before done is closed
	segment uint32 // written before done is closed
	base    uint32 // offset of buf[0], written before done is closed
}

// bodySpan is where the body of an entry stands in a batch.
type bodySpan struct {
	seq    uint64
	at     int // in buf
	length int
	until  int64
}

// Commit is an appended batch on its way to the disk.
type Commit struct {
	First uint64 // sequence number of the first entry of the batch; the others follow without a gap

	j     *Journal
	must  bool
	count int
	asked *batch // what Wait waits for
	in    *batch // guarded by j.mu: what holds the entries now; another than asked after a failure
	from  int    // guarded by j.mu: where they stand in in.buf
	to    int
}

func newBatch(buf []byte) *batch {
	if cap(buf) < frameRoom {
		buf = make([]byte, frameRoom, 8<<10)
	}
	return &batch{buf: buf[:frameRoom], done: make(chan struct{})}
}

func (b *batch) empty() bool { return b.count == 0 }
func (b *batch) size() int   { return len(b.buf) - frameRoom }

func (b *batch) add(seq uint64, e *Entry) {
	out, body := appendEntry(b.buf, seq, e)
	b.buf = out
	if e.Body != nil {
		b.bodies = append(b.bodies, bodySpan{seq, body, len(e.Body), untilOf(e.BodyUntil)})
	}
	b.grow(seq)
}

func (b *batch) grow(seq uint64) {
	if b.count == 0 {
		b.first = seq
	}
	b.last = seq
	b.count++
}

// addRaw takes over entries that are encoded already.
func (b *batch) addRaw(p []byte) {
	for at := 0; at < len(p); {
		e, n, err := nextEntry(p[at:], at)
		if err != nil {
			return // they were parsed, or encoded here, before
		}
		if e.hasBody {
			b.bodies = append(b.bodies, bodySpan{e.seq, len(b.buf) + e.bodyAt, len(e.body), e.until})
		}
		b.grow(e.seq)
		at += n
	}
	b.buf = append(b.buf, p...)
}

// keep moves the batches of from that may not be lost behind those of b. Call it with Journal.mu held.
func (b *batch) keep(from *batch) {
	if b.empty() {
		b.time = from.time
	} else if len(from.musts) > 0 {
		b.time = 0
	}
	for _, c := range from.musts {
		at := len(b.buf)
		b.addRaw(from.buf[c.from:c.to])
		c.in, c.from, c.to = b, at, len(b.buf)
		b.musts = append(b.musts, c)
	}
}

// digests fills in what was left out while the caller waited.
func (b *batch) digests() {
	for _, s := range b.bodies {
		sum := sha256.Sum256(b.buf[s.at : s.at+s.length])
		copy(b.buf[s.at-digestSize:], sum[:])
	}
}

// pieces calls yield with the entries but for their bodies.
func (b *batch) pieces(yield func([]byte)) {
	at := frameRoom
	for _, s := range b.bodies {
		yield(b.buf[at:s.at])
		at = s.at + s.length
	}
	yield(b.buf[at:])
}

// finish makes the outcome known. The buffer is no longer needed when err is nil.
func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

// Append queues the entries as one unit: all of them become durable or none does. Their order is the order of the calls.
// It does not wait for the disk and keeps nothing of what it is given. Without a Must entry it fails with ErrUnavailable
// while the journal takes no entries; with one only when the journal is closed, or 1 GiB of them waits for a disk.
func (j *Journal) Append(entries ...Entry) (*Commit, error) { return j.append(awaited, entries) }

// Note is Append for entries that nobody waits for. They may stand in memory for 10 ms, so that not each of them costs
// a write of its own. Once taken they are kept like Must entries when a write fails: nobody would append them again.
func (j *Journal) Note(entries ...Entry) error {
	_, err := j.append(noted, entries)
	return err
}

// manner is how entries are appended.
type manner uint8

const (
	awaited manner = iota // by one who may wait for the disk
	noted                 // by one who will not
	own                   // by the journal itself
)

func (j *Journal) append(how manner, entries []Entry) (*Commit, error) {
	must, size, err := judge(entries, how == own)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.admit(must, how == own, size); err != nil {
		return nil, err
	}
	b := j.target()
	c := &Commit{First: j.nextSeq, j: j, must: must, count: len(entries), asked: b, in: b, from: len(b.buf)}
	for i := range entries {
		b.add(j.nextSeq, &entries[i])
		j.nextSeq++
	}
	c.to = len(b.buf)
	j.queued += int64(c.to - c.from)
	j.room.left -= size
	if must || how == noted { // nobody would say a noted one again
		b.musts = append(b.musts, c)
	}
	if j.broken != nil {
		c.asked = refusedBatch
	}
	if how == noted && !j.urgent && b.size() < frameTarget {
		j.linger()
	} else {
		j.urgent = true
		j.rouse()
	}
	return c, nil
}

// linger sees to it that what is queued is written soon. Call it with mu held.
func (j *Journal) linger() {
	if j.lingers {
		return
	}
	j.lingers = true
	time.AfterFunc(lingerFor, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.lingers = false
		if len(j.queue) > 0 {
			j.urgent = true
			j.rouse()
		}
	})
}

// refusedBatch is what an Append waits for that is kept in memory from the start.
var refusedBatch = func() *batch {
	b := &batch{done: make(chan struct{})}
	b.finish(ErrUnavailable)
	return b
}()

func judge(entries []Entry, own bool) (must bool, size int64, err error) {
	size = headerSize // of a frame that it may have for itself
	for i := range entries {
		e := &entries[i]
		if e.Kind < firstForeign && !own {
			return false, 0, fmt.Errorf("journal: kind %d is the journal's own", e.Kind)
		}
		must = must || e.Must
		size += int64(entrySize + bodyExtra + digestSize + len(e.Fact) + len(e.Body))
	}
	if len(entries) == 0 || size > maxBatch {
		return false, 0, fmt.Errorf("journal: an append of %d entries and %d bytes (limit %d)", len(entries), size, maxBatch)
	}
	return must, size, nil
}

// admit says whether an Append may go on. Call it with mu held.
func (j *Journal) admit(must, own bool, size int64) error {
	switch {
	case j.closing:
		return errClosed
	case must && j.deferred != nil && int64(j.deferred.size())+size > maxKept:
		return fmt.Errorf("%w: %d bytes wait for a disk already", ErrUnavailable, j.deferred.size())
	case must:
		return nil
	case j.broken != nil:
		return j.broken
	case own:
		return nil
	}
	return j.space(size)
}

var errClosed = fmt.Errorf("%w: it is closed", ErrUnavailable)

// target is the batch that takes the next Append. Call it with mu held.
func (j *Journal) target() *batch {
	if j.broken != nil {
		return j.deferred
	}
	if n := len(j.queue); n > 0 && j.queue[n-1].size() < frameTarget {
		return j.queue[n-1]
	}
	var buf []byte
	if n := len(j.recycled); n > 0 {
		buf, j.recycled = j.recycled[n-1], j.recycled[:n-1]
	}
	b := newBatch(buf)
	j.queue = append(j.queue, b)
	return b
}

// rouse wakes the committer. Call it with mu held.
func (j *Journal) rouse() {
	if j.idle {
		j.idle = false
		select {
		case j.wake <- struct{}{}:
		default:
		}
	}
}

// Wait blocks until the batch is durable, or until that has failed, or until ctx is done. ErrNotDurable: none of it
// will be read back, whatever was written of it. (One case is beyond any log: the disk failed while it wrote, took no
// new segment either, and lost power before it did. Then the batch may stand on it.) ErrDeferred (only with a Must entry): it is kept and will be the first thing written once
// the disk takes writes again; Durable waits for that.
func (c *Commit) Wait(ctx context.Context) error {
	select {
	case <-c.asked.done:
	default:
		select {
		case <-c.asked.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.asked.err == nil {
		return nil
	}
	if !c.must {
		return fmt.Errorf("%w: %w", ErrNotDurable, c.asked.err)
	}
	now := c.held()
	select {
	case <-now.done:
		if now.err == nil {
			return nil
		}
	default:
	}
	return fmt.Errorf("%w: %w", ErrDeferred, c.asked.err)
}

// Durable is Wait for a batch that was deferred: it blocks until the batch is durable after all.
func (c *Commit) Durable(ctx context.Context) error {
	for {
		b := c.held()
		select {
		case <-b.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if b.err == nil {
			return nil
		}
		if !c.must || errors.Is(b.err, errClosed) {
			return fmt.Errorf("%w: %w", ErrNotDurable, b.err)
		}
	}
}

func (c *Commit) held() *batch {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.in
}

// Body is where the body of the batch's i-th entry stands. It is valid once Wait or Durable has returned nil; before
// that, and for an entry without a body, it is zero.
func (c *Commit) Body(i int) Location {
	b := c.asked
	if c.must {
		b = c.held()
	}
	select {
	case <-b.done:
	default:
		return Location{}
	}
	if b.err != nil {
		return Location{}
	}
	for _, s := range b.bodies {
		if s.seq == c.First+uint64(i) {
			return Location{Segment: b.segment, Offset: b.base + uint32(s.at), Length: uint32(s.length)}
		}
	}
	return Location{}
}
