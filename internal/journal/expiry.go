package journal

import "time"

// expiry counts the bytes of bodies by the hour in which they may go.
type expiry map[int64]int64

func (x *expiry) add(until, n int64) {
	if *x == nil {
		*x = expiry{}
	}
	(*x)[hourOf(until)] += n
}

// due is how many bytes may go at now (Unix, ns).
func (x expiry) due(now int64) (n int64) {
	for hour, bytes := range x {
		if hour <= now/int64(time.Hour) {
			n += bytes
		}
	}
	return n
}

// hourOf rounds up, so that what is due in an hour has expired when the hour has come.
func hourOf(t int64) int64 { return (t-1)/int64(time.Hour) + 1 }
