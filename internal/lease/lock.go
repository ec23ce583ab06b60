package lease

import "time"

// Lock is the mark that a key was seen. It has no owner, no release and no result: it expires.
type Lock struct {
	First   time.Time // zero: never locked
	Expires time.Time
}

// Held says whether the lock stands at now.
func (l Lock) Held(now time.Time) bool { return now.Before(l.Expires) }

// TTL is how long the lock stands, from when it was taken.
func (l Lock) TTL() time.Duration { return l.Expires.Sub(l.First) }

// Take locks a free key for ttl. A key that is locked stays as it is: a duplicate does not extend the window.
func (l Lock) Take(ttl time.Duration, now time.Time) (next Lock, won bool) {
	if l.Held(now) {
		return l, false
	}
	return Lock{First: now, Expires: now.Add(ttl)}, true
}
