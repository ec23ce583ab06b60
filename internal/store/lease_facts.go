package store

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

// The journal's kinds for what clients do themselves. As with calls each fact is whole.
const (
	kindLock       journal.Kind = 40 // a lock was taken
	kindLease      journal.Kind = 41 // the state of a lease after a step; the body of a finished one is the whole of it
	kindEndedLease journal.Kind = 42 // a finished lease, said again after its body had to go for space
)

// leaseID is the key of a lock or a lease, with its tenant. Half a SHA-256 is enough: to collide with somebody else's
// key takes 2^128 attempts.
type leaseID [16]byte

func leaseIDOf(n lease.Name) (id leaseID) {
	buf := make([]byte, 8, 8+len(n.Tenant)+len(n.Key))
	binary.BigEndian.PutUint64(buf, uint64(len(n.Tenant)))
	sum := sha256.Sum256(append(append(buf, n.Tenant...), n.Key...))
	copy(id[:], sum[:])
	return id
}

func (w *writer) leaseID(id leaseID) { *w = append(*w, id[:]...) }

func (r *reader) leaseID() (id leaseID) {
	copy(id[:], r.take(uint64(len(id))))
	return id
}

func appendLock(buf []byte, id leaseID, l lease.Lock) []byte {
	w := newWriter(buf)
	w.leaseID(id)
	w.time(l.First)
	w.time(l.Expires)
	return w
}

func parseLock(p []byte) (leaseID, lease.Lock, error) {
	r := newReader(p)
	id, l := r.leaseID(), lease.Lock{First: r.time(), Expires: r.time()}
	return id, l, r.done()
}

// appendLease writes a key's state, with its result or without.
func appendLease(buf []byte, n lease.Name, s *lease.State, result bool) []byte {
	w := newWriter(buf)
	w.text(n.Tenant)
	w.text(n.Key)
	w.uint(uint64(s.Status))
	w.text(s.ID)
	w.text(s.Former)
	w.uint(s.Version)
	w.int(int64(s.TTL))
	w.time(s.First)
	w.time(s.Deadline)
	w.time(s.Done)
	w.time(s.Until)
	w.text(s.ErrorCode)
	w.text(s.ErrorHash)
	w.text(s.ResultHash)
	if result {
		w.bytes(s.Result)
	} else {
		w.bytes(nil)
	}
	w.job(s.Job)
	return w
}

func parseLease(p []byte) (n lease.Name, s lease.State, err error) {
	r := newReader(p)
	n = lease.Name{Tenant: r.text(), Key: r.text()}
	s = lease.State{
		Status: lease.Status(r.uint()), ID: r.text(), Former: r.text(), Version: r.uint(), TTL: time.Duration(r.int()),
		First: r.time(), Deadline: r.time(), Done: r.time(), Until: r.time(),
		ErrorCode: r.text(), ErrorHash: r.text(), ResultHash: r.text(), Result: r.bytes(), Job: r.job(),
	}
	return n, s, r.done()
}

func (w *writer) job(j *lease.Job) {
	w.bool(j != nil)
	if j == nil {
		return
	}
	w.text(j.Run)
	w.bytes(j.Spec)
	w.text(j.Agent)
	w.text(j.RunID)
	w.text(j.Key)
	w.uint(uint64(len(j.Answers)))
	for _, a := range j.Answers {
		w.bytes(a)
	}
	w.bool(j.Begun)
	w.time(j.BegunAt)
}

func (r *reader) job() *lease.Job {
	if !r.bool() {
		return nil
	}
	j := &lease.Job{Run: r.text(), Spec: r.bytes(), Agent: r.text(), RunID: r.text(), Key: r.text()}
	n := r.uint()
	if n > uint64(len(r.p)) {
		r.fail()
		return nil
	}
	for range n {
		j.Answers = append(j.Answers, r.bytes())
	}
	j.Begun, j.BegunAt = r.bool(), r.time()
	return j
}
