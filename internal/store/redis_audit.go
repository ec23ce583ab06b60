package store

import "context"

// The stream of audit records in Redis is for whoever wants to see what all sidecars do in one place. The journals are
// the audit; the stream is a copy that is bounded, may lack records, and never keeps a call waiting.
const (
	maxStream        = 20_000 // records that the server keeps, about
	maxStreamWaiting = 4096   // records that wait here; further ones are dropped
	maxStreamBatch   = 128
)

// auditStream is what is on its way to the server's stream.
type auditStream struct{ records chan []byte }

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
		s.events.Load().Dropped(1)
	}
}

// keepStreaming sends what was published until ctx ends, many records at once.
func (s *shared) keepStreaming(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
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
	if _, err := s.c.run(ctx, streamScript, []string{s.c.key("audit")}, args...); err != nil {
		s.events.Load().Dropped(len(args) - 2)
	}
}
