package journal

import (
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime"
	"time"
)

// committer is the state of the one goroutine that writes.
type committer struct {
	seg    *segment // the last segment; its facts end at off
	off    uint32
	acked  uint32 // where the next frame may say that everything before is durable
	chain  [32]byte
	last   uint64 // sequence number of the newest entry in a frame
	time   int64  // of the newest frame
	shown  Head   // what the newest frame acknowledges
	number uint32 // the highest segment number that was ever tried; written with Journal.mu
	open   bool   // the newest frame has entries and nothing acknowledges it yet
	sums   chaining
}

// run writes until Close.
func (j *Journal) run() {
	defer close(j.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b, ok := j.take(timer)
		if !ok {
			break
		}
		if err := j.write(b); err != nil {
			if !j.fail(b, err) {
				break
			}
			continue
		}
		j.publish(b)
	}
	j.closeErr = j.shut()
}

// take waits for the next batch; an empty one acknowledges the frame before. ok is false when all is written and Close waits.
func (j *Journal) take(timer *time.Timer) (b *batch, ok bool) {
	for {
		runtime.Gosched() // whoever can run may append first: one sync for many
		j.mu.Lock()
		switch {
		case j.broken != nil: // Open could not write
			j.mu.Unlock()
			if !j.repair(nil) {
				return nil, false
			}
			continue
		case len(j.queue) > 0 && (j.urgent || j.settle || j.closing):
			b = j.queue[0]
			j.queue[0] = nil
			if j.queue = j.queue[1:]; len(j.queue) == 0 {
				j.queue, j.urgent = nil, false
			}
			j.mu.Unlock()
			return b, true
		case j.closing:
			j.mu.Unlock()
			return nil, false
		case j.settle && j.open:
			j.settle = false
			j.mu.Unlock()
			return newBatch(nil), true
		}
		j.settle = false
		j.idle = true
		j.mu.Unlock()
		if j.nap(timer) {
			return newBatch(nil), true
		}
	}
}

// nap sleeps until it is roused, or until the newest frame should be acknowledged.
func (j *Journal) nap(timer *time.Timer) (acknowledge bool) {
	if !j.open || j.opt.Process {
		<-j.wake
		return false
	}
	timer.Reset(idleAfter)
	select {
	case <-j.wake:
		return false
	case <-timer.C:
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.idle = false
	return len(j.queue) == 0 && !j.closing
}

// write makes a batch durable, in a new segment when this one is full.
func (j *Journal) write(b *batch) error {
	full := int64(j.off)+int64(headerSize+b.size()) > j.opt.Segment
	if !b.empty() && j.seg.end > preambleSize && (full || j.betterSpare()) {
		if j.opt.Process { // a seal acknowledges
			if err := j.seg.f.Sync(); err != nil {
				return fmt.Errorf("sync %s: %w", j.seg.path, err)
			}
		}
		return j.begin(b, j.sealing())
	}
	err := j.put(j.seg, b, frame{header: header{offset: j.off, acked: j.acked}})
	if err != nil {
		scrub(j.seg, j.off)
	}
	return err
}

// sealing is the seal of the current segment at its last good frame, or its own seal if it has none: then the next
// segment takes its place.
func (j *Journal) sealing() seal {
	if j.barren() {
		return j.seg.seal
	}
	return seal{segment: j.seg.number, end: j.off, last: j.last, time: j.time, chain: j.chain}
}

// put writes b as the frame f of s. It changes the committer's state only when it succeeds.
func (j *Journal) put(s *segment, b *batch, f frame) error {
	b.digests()
	p := j.encode(s, b, &f)
	if _, err := s.f.WriteAt(p, int64(f.offset)); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if !j.opt.Process || f.flags&(flagSeal|flagClosed) != 0 {
		if err := s.f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", s.path, err)
		}
		j.acked = f.end()
	}
	j.shown = Head{Seq: j.last, Chain: j.chain}
	j.off, j.chain, j.open, j.time = f.end(), f.chain, !b.empty(), f.time
	b.segment, b.base = s.number, f.end()-uint32(len(b.buf))
	if !b.empty() {
		j.last = b.last
	}
	if j.opt.Process { // nothing will ever acknowledge it
		j.shown = Head{Seq: j.last, Chain: j.chain}
	}
	return nil
}

// encode fills the room in front of the batch's entries and returns the whole frame.
func (j *Journal) encode(s *segment, b *batch, f *frame) []byte {
	p := b.buf[sealSize:]
	if f.flags&flagSeal != 0 {
		p = b.buf
		putSeal(p[headerSize:], &f.seal)
	}
	f.segment, f.length = s.number, uint32(len(p)-headerSize)
	f.first, f.count, f.time = b.first, b.count, j.clock.tick(j.opt.Now())
	if b.time != 0 {
		f.time = b.time
	}
	if b.empty() {
		f.first = j.last + 1
	}
	if j.opt.Process && f.flags&(flagSeal|flagClosed) == 0 {
		f.flags |= flagUnsynced
	}
	f.chain = j.chain
	if !b.empty() {
		j.sums.begin(&j.chain, f.first, f.count, f.time)
		b.pieces(func(q []byte) { j.sums.h.Write(q) })
		j.sums.h.Sum(f.chain[:0])
	}
	putHeader(p, &f.header)
	crc := crc32.Update(s.seed, castagnoli, p[:headerSize-4])
	if f.flags&flagSeal != 0 {
		crc = crc32.Update(crc, castagnoli, p[headerSize:frameRoom])
	}
	b.pieces(func(q []byte) { crc = crc32.Update(crc, castagnoli, q) })
	le.PutUint32(p[headerSize-4:], crc)
	return p
}

// begin starts a new segment behind the seal sl, with b in its first frame: both are durable, or neither is.
func (j *Journal) begin(b *batch, sl seal) error {
	s, err := j.next()
	if err != nil {
		return err
	}
	f := frame{header: header{offset: preambleSize, acked: preambleSize, flags: flagSeal}, seal: sl}
	s.seal = sl
	old, barren := j.seg, j.barren()
	if err := j.put(s, b, f); err != nil {
		scrub(s, preambleSize)
		s.close()
		_ = j.fs.Remove(s.path)
		return err
	}
	j.seg = s
	j.mu.Lock()
	if barren {
		j.segments = j.segments[:len(j.segments)-1]
	}
	j.segments, j.grown = append(j.segments, s), 0
	j.mu.Unlock()
	j.retire(old, barren)
	select {
	case j.prepare <- struct{}{}:
	default:
	}
	return nil
}

// next gives a segment that is durable but for facts. A number is used once, even by a segment that fails.
func (j *Journal) next() (*segment, error) {
	j.mu.Lock()
	j.number++ // with the spare, so that the keeper makes none of this number while this one is renamed
	s := j.spare
	j.spare = nil
	j.mu.Unlock()
	name := filepath.Join(j.opt.Dir, segmentName(j.number))
	if s != nil && s.number == j.number {
		if err := j.fs.Rename(s.path, name); err != nil {
			s.close()
			return nil, err
		}
		s.path = name
	} else {
		if s != nil {
			s.close()
			_ = j.fs.Remove(s.path)
		}
		var err error
		if s, err = createSegment(j.fs, name, j.number, j.id.ID, 0); err != nil {
			return nil, err
		}
	}
	if err := j.fs.SyncDir(j.opt.Dir); err != nil {
		s.close()
		_ = j.fs.Remove(name)
		return nil, err
	}
	return s, nil
}

// barren says that the newest segment has no facts: recovery found only its first frame, which nothing acknowledged.
func (j *Journal) barren() bool { return j.seg != nil && j.off == preambleSize }

// retire gives back what stands behind the end of a sealed segment, or all of one whose place was taken. It is no
// fact, and the file is not synced.
func (j *Journal) retire(s *segment, replaced bool) {
	switch {
	case s == nil:
	case replaced:
		_ = j.fs.Remove(s.path)
		if s.shown {
			j.mu.Lock()
			j.ghosts = append(j.ghosts, s)
			j.mu.Unlock()
		} else {
			s.close()
		}
	case s.allocated.Load() > int64(s.end) && !s.shown:
		if s.f.Truncate(int64(s.end)) == nil {
			s.allocated.Store(int64(s.end))
		}
	}
}

// scrub makes what was written at off unreadable as a frame for whoever reads the file through the page cache, which
// is every process until the machine loses power. The file is not synced: after a failed sync that would lie.
func scrub(s *segment, off uint32) {
	_, _ = s.f.WriteAt(make([]byte, len(frameMagic)), int64(off))
}

// publish shows a durable batch to readers and wakes its callers.
func (j *Journal) publish(b *batch) {
	j.mu.Lock()
	j.queued -= int64(b.size())
	j.note(j.seg, b)
	j.mu.Unlock()
	b.finish(nil)
}

// note records a durable batch. Call it with mu held.
func (j *Journal) note(s *segment, b *batch) {
	s.end, j.head = j.off, j.shown
	if b.empty() {
		return
	}
	if s.first == 0 {
		s.first, s.firstTime = b.first, j.time
	}
	s.count, s.last, s.lastTime = s.count+int64(b.count), b.last, j.time
	for _, p := range b.bodies {
		s.bodies.add(p.until, int64(p.length))
	}
	j.newest = b.last
	j.grew(int64(b.size()))
	if cap(b.buf) <= 4*frameTarget && len(j.recycled) < 2 {
		j.recycled = append(j.recycled, b.buf)
		b.buf = nil
	}
}
