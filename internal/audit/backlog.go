package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// What waits in memory for a store that takes no entries. Beyond it records are lost, the newest first, and counted.
const (
	backlogRecords = 4096
	backlogBytes   = 4 << 20
	retryEach      = time.Second
)

// backlog keeps encoded records, in order, while they cannot be written.
type backlog struct {
	waits atomic.Bool // something waits or is lost: nothing may be written past it

	mu          sync.Mutex
	records     [][]byte    // guarded by mu, oldest first
	bytes       int         // of records; guarded by mu
	lost        int64       // requests whose record was lost and not told of yet; guarded by mu
	first, last time.Time   // of the lost ones; guarded by mu
	retry       *time.Timer // guarded by mu
	closed      bool        // nothing waits any more; guarded by mu
}

// add keeps a record that stands for so many requests, or counts them as lost. Call it with mu held.
func (b *backlog) add(record []byte, r *Record) {
	b.waits.Store(true)
	if b.lost == 0 && len(b.records) < backlogRecords && b.bytes+len(record) <= backlogBytes {
		b.records = append(b.records, append([]byte(nil), record...))
		b.bytes += len(record)
		return
	}
	if b.lost == 0 {
		b.first = r.Time
	}
	b.lost += int64(max(r.Count, 1))
	b.last = r.Time
}

// drain writes what waits, oldest first, until write fails. Call it with mu held.
func (b *backlog) drain(ctx context.Context, write Write) error {
	for i, r := range b.records {
		if err := write(ctx, r); err != nil {
			b.records = b.records[i:]
			return err
		}
		b.bytes -= len(r)
	}
	b.records = nil
	return nil
}

// loss is the change that says what is missing from the trail; nil when nothing is. Call it with mu held.
func (b *backlog) loss() *Change {
	if b.lost == 0 {
		return nil
	}
	const layout = "2006-01-02T15:04:05.000Z"
	return &Change{
		Time: time.Now(), Who: "sidecar", What: "audit_records_lost", Entity: "audit", Why: "the store took no entries",
		Detail: fmt.Sprintf("the records of %d requests that arrived from %s to %s are missing", b.lost, b.first.UTC().Format(layout), b.last.UTC().Format(layout)),
	}
}

// Healthy says whether every request still leaves a record: false from the moment the memory that holds records for a
// store that takes none is full, until they are written and the loss is told of.
func (l *Log) Healthy() bool {
	b := &l.backlog
	if !b.waits.Load() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost == 0 && len(b.records) < backlogRecords && b.bytes < backlogBytes-8<<10
}

// put writes the records behind those that wait.
func (l *Log) put(ctx context.Context, records ...*Record) {
	for _, r := range records {
		b := buffers.Get().(*[]byte)
		*b = r.Append((*b)[:0])
		l.putOne(ctx, *b, r)
		buffers.Put(b)
	}
}

func (l *Log) putOne(ctx context.Context, record []byte, r *Record) {
	b := &l.backlog
	var err error
	if !b.waits.Load() {
		if err = l.write(ctx, record); err == nil {
			return
		}
	}
	b.mu.Lock()
	if err == nil && !b.waits.Load() { // it was drained meanwhile
		if err = l.write(ctx, record); err == nil {
			b.mu.Unlock()
			return
		}
	}
	if !b.closed {
		b.add(record, r)
		if b.retry == nil {
			b.retry = time.AfterFunc(retryEach, l.again)
		}
	}
	b.mu.Unlock()
	if err == nil {
		err = errWaits
	}
	l.failed(err)
}

var errWaits = errors.New("it waits in memory for a store that takes no entries, or is lost if too many do")

// again is one try to write what waits.
func (l *Log) again() {
	b := &l.backlog
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	lost := b.lost
	if err := l.catchUp(context.Background()); err != nil {
		b.retry = time.AfterFunc(retryEach, l.again)
		return
	}
	b.retry = nil
	if l.Again != nil {
		l.Again(lost)
	}
}

// catchUp writes what waits, then what was lost. Call it with backlog.mu held.
func (l *Log) catchUp(ctx context.Context) error {
	b := &l.backlog
	if err := b.drain(ctx, l.write); err != nil {
		return err
	}
	if err := l.confess(); err != nil {
		return err
	}
	b.waits.Store(false)
	return nil
}

// confess has the trail itself say what it lacks. Call it with backlog.mu held.
func (l *Log) confess() error {
	b := &l.backlog
	c := b.loss()
	if c != nil && l.Change != nil {
		if err := l.Change(c); err != nil {
			return err
		}
	}
	b.lost = 0
	return nil
}

// abandon gives up what still cannot be written and returns how many requests leave no record.
func (l *Log) abandon(ctx context.Context) (lost int64) {
	b := &l.backlog
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.retry != nil {
		b.retry.Stop()
		b.retry = nil
	}
	_ = b.drain(ctx, l.write)
	for _, record := range b.records {
		r, _ := DecodeRecord(record)
		if b.lost == 0 || r.Time.Before(b.first) {
			b.first = r.Time
		}
		if r.Time.After(b.last) {
			b.last = r.Time
		}
		b.lost += int64(max(r.Count, 1))
	}
	b.records, b.bytes, lost = nil, 0, b.lost
	if err := l.confess(); err != nil {
		l.failed(err)
	}
	b.waits.Store(false)
	return lost
}
