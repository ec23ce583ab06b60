package dedup

import (
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// State is what a store remembers of one call: the same for all its keys. The zero State is absent.
// Begin, Finish, Recover and Resolve are its only transitions; they are pure, and every store, whatever it is
// made of, must behave as they do.
type State struct {
	Outcome    Outcome // Running: sent
	Held       bool    // false: absent, or a tombstone that only carries Generation
	Print      Key
	Fence      uint64
	Generation uint64
	Nonce      uint64
	Attempt    int
	Effect     tool.Effect
	Claimed    time.Time // of the first attempt
	Ended      time.Time
	Expires    time.Time // zero: never
	Timeout    time.Duration
	Reserved   Reservation
}

// Reservation is what a claim has charged and where, so that settling touches just that, once.
type Reservation struct {
	Agent, Tool string
	Cost        tool.Money
	Minute      int64 // unix minutes of the hour bucket
	Day         int64 // unix days, UTC
	Settled     bool
}
