package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// The stream of audit records in Redis is for whoever wants to see what all sidecars do in one place. The journals are
// the audit; the stream is a copy that is bounded, may lack records, and never keeps a call waiting.
const (
	maxStream        = 20_000 // records that the server keeps, about
	maxStreamWaiting = 4096   // records that wait here; further ones are dropped
	maxStreamBatch   = 128
	streamCalm       = 2 * time.Second // without a dropped record, before the log says that records arrive again
)

// auditStream is what is on its way to the server's stream.
type auditStream struct {
	records chan []byte
	dropped atomic.Int64 // since the log last said that records arrive
	latest  atomic.Int64 // when one was dropped; Unix, ns
	failing bool         // the last batch did not arrive; of keepStreaming
}

// Appending records. ARGV: the stream's length, this sidecar, records.
var streamScript = newScript("audit", `#!lua
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'sidecar', ARGV[2], 'record', ARGV[i])
end
return #ARGV - 2`)

// Publish sends an audit record, one JSON object, to the server's stream. It never waits: what finds no room is dropped
// and counted. The record must not be changed afterwards.
func (s *shared) Publish(record []byte) {
	select {
	case s.stream.records <- record:
	default:
		s.drop(1, errNoRoom)
	}
}

var errNoRoom = errors.New("they come faster than Redis takes them")

// drop counts records that do not get into the stream, and says so when that begins.
func (s *shared) drop(n int, why error) {
	s.events.Load().Dropped(n)
	s.stream.latest.Store(time.Now().UnixNano())
	if s.stream.dropped.Add(int64(n)) == int64(n) {
		s.opt.Log.Warn("audit records do not get into the stream in Redis; the journal has them", "error", why.Error())
	}
}

// arrives says that records get into the stream again, once that has lasted a little.
func (s *shared) arrives() {
	if time.Since(time.Unix(0, s.stream.latest.Load())) < streamCalm || s.stream.failing {
		return
	}
	if n := s.stream.dropped.Swap(0); n > 0 {
		s.opt.Log.Info("audit records get into the stream in Redis again", "dropped", n)
	}
}

// keepStreaming sends what was published until ctx ends, many records at once.
func (s *shared) keepStreaming(ctx context.Context) {
	calm := time.NewTicker(streamCalm)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-calm.C:
			s.arrives()
		case first := <-s.stream.records:
			s.sendRecords(ctx, first)
		}
	}
}

// sendRecords sends one record and those behind it, once: a record whose fate is unknown counts as dropped.
func (s *shared) sendRecords(ctx context.Context, first []byte) {
	args := append(make([]any, 0, 2+maxStreamBatch), maxStream, s.opt.Owner, first)
	for len(args) < cap(args) {
		select {
		case next := <-s.stream.records:
			args = append(args, next)
			continue
		default:
		}
		break
	}
	_, err := s.c.run(ctx, streamScript, []string{s.c.key("audit")}, args...)
	if s.stream.failing = err != nil; s.stream.failing {
		s.drop(len(args)-2, err)
	}
}
