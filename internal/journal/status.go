package journal

import "time"

// Status is how a journal is.
type Status struct {
	ID         string // hex; a directory keeps it for life
	Created    bool   // Open made it: there was none
	Bytes      int64  // in segments
	Free       int64  // bytes the file system had left when that was last asked
	Segments   int
	Oldest     uint64 // sequence number of the oldest entry; 0 when there is none
	OldestTime time.Time
	Newest     uint64 // of the newest durable one
	Last       uint64 // of the one that was appended last
	Head       Head   // of what the disk itself shows to be acknowledged
	Err        error  // wraps ErrUnavailable: why it takes only Must entries; nil when all is well
	Deferred   int    // Must entries that wait for the disk
	Jump       Jump   // the last jump of the clock
}

// Jump is a step of the wall clock by more than a minute. Zero: there was none.
type Jump struct {
	At time.Time     // the journal's time, UTC
	By time.Duration // negative: it went back
}

// Status says how the journal is now.
func (j *Journal) Status() Status {
	j.watch()
	jump := j.clock.jumped()
	j.mu.Lock()
	defer j.mu.Unlock()
	st := Status{
		ID: j.id.String(), Created: j.fresh, Bytes: j.used(), Free: j.room.free, Segments: len(j.segments),
		Newest: j.newest, Last: j.nextSeq - 1, Head: j.head, Err: j.broken, Jump: jump,
	}
	if st.Err == nil && !j.closing {
		st.Err = j.space(oneCall)
		st.Free = j.room.free
	}
	if j.deferred != nil {
		st.Deferred = int(j.deferred.count)
	}
	for _, s := range j.segments {
		if s.first != 0 {
			st.Oldest, st.OldestTime = s.first, time.Unix(0, s.firstTime).UTC()
			break
		}
	}
	return st
}
