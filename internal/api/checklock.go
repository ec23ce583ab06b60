package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/lease"
)

const (
	maxKeyText  = 256     // characters of a caller's key
	maxMetadata = 2 << 10 // bytes
	maxLockBody = 64 << 10
)

// checkLock answers POST /v1/check-lock: the first caller of a key within its window is told locked, every other one
// duplicate.
//
// The SDKs go on as if they had the lock when this answers 5xx or not at all, so whatever fails here is a 429.
func (s *Server) checkLock(w http.ResponseWriter, r *http.Request, by *Key) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("check-lock made the api panic", "panic", p)
			unlocked(w)
		}
	}()
	f := fieldsOf(w, r, maxLockBody)
	if f == nil {
		return
	}
	key, ttl := f.text("key", maxKeyText), f.seconds("ttl")
	f.object("metadata", maxMetadata)
	f.object("meta", maxMetadata) // the name that the oldest SDK gave it
	if f.refuse(w) {
		return
	}
	if q := s.quota(by, false); q.Over {
		overLimit(w, by, q)
		return
	}
	if s.Leases == nil {
		unlocked(w)
		return
	}
	lock, won, err := s.Leases.Lock(r.Context(), lease.Name{Tenant: by.Namespace, Key: key}, by.ttl(ttl))
	if err != nil {
		s.Log.Error("a lock could not be taken", "error", err)
		unlocked(w)
		return
	}
	n := &Notice{Time: time.Now(), By: by, Type: "locked", Key: key, RequestID: requestID(w), FirstSeen: lock.First}
	a := lockAnswer{Success: won, Status: "locked", Key: key, TTL: int64(lock.TTL() / time.Second)}
	if !won {
		n.Type, a.Status, a.FirstSeenAt = "duplicate", "duplicate", instant(lock.First)
	}
	s.note(n)
	w.Header().Set("X-OnceOnly-Status", a.Status)
	answer(w, http.StatusOK, a)
}

type lockAnswer struct {
	Success     bool    `json:"success"`
	Status      string  `json:"status"`
	Key         string  `json:"key"`
	TTL         int64   `json:"ttl"` // seconds, of the lock that stands
	FirstSeenAt *string `json:"first_seen_at"`
}

// unlocked fails closed: no client takes a 429 for a lock.
func unlocked(w http.ResponseWriter) {
	tooMany(w, 1, "the lock could not be taken; nothing has changed")
}

// tooMany answers 429 with the seconds after which to come again.
func tooMany(w http.ResponseWriter, after int, message string) {
	w.Header().Set("Retry-After", strconv.Itoa(after))
	fail(w, http.StatusTooManyRequests, problem{"rate_limited", message})
}

// overLimit answers for a plan whose month is used up.
func overLimit(w http.ResponseWriter, by *Key, q Quota) {
	fail(w, http.StatusPaymentRequired, struct {
		Error      string `json:"error"`
		Highlights string `json:"highlights"`
		Plan       string `json:"plan"`
		Limit      int64  `json:"limit"`
		Usage      int64  `json:"usage"`
		UpgradeURL string `json:"upgrade_url"`
	}{"payment_required", "Plan limit reached", by.Plan, q.Limit, q.Usage, ""})
}

// instant is a time as the API writes it; nil for none.
func instant(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := t.UTC().Format("2006-01-02T15:04:05Z")
	return &text
}
