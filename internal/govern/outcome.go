package govern

import (
	"slices"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// verdict is what an attempt means for its call.
type verdict struct {
	outcome dedup.Outcome
	keep    time.Duration // how long the record stays; 0 releases the key
	again   bool          // the sidecar may send it once more under the same claim
}

// judgeAnswer says what a whole answer with this status means. taken: an earlier attempt of a call with effects may
// have run; then only 2xx and 3xx settle it.
func judgeAnswer(t *tool.Tool, status int, taken bool) verdict {
	done := verdict{outcome: dedup.Done, keep: t.Dedup.TTL}
	switch {
	case !taken && slices.Contains(t.NotExecuted, status):
		return verdict{outcome: dedup.Failed}
	case status >= 200 && status <= 306:
		return done
	case taken && (status == 307 || status == 308):
		return done
	case taken:
		return judgeLoss(t, FirstByte)
	case releasing(status):
		return verdict{outcome: dedup.Failed}
	case status >= 307 && status <= 499, t.Unregistered && status >= 500 && status <= 599:
		return verdict{outcome: dedup.Failed, keep: t.Dedup.FailedTTL}
	}
	return judgeLoss(t, FirstByte)
}

// releasing are the answers by which HTTP itself says that the request was not acted on.
func releasing(status int) bool {
	switch status {
	case 401, 407, 408, 421, 425, 429:
		return true
	}
	return false
}

// judgeLoss says what it means that no usable answer came, by how far the request got.
func judgeLoss(t *tool.Tool, phase Phase) verdict {
	switch {
	case phase < FirstByte:
		return verdict{outcome: dedup.NotSent, again: true}
	case t.Effect == tool.Read:
		return verdict{outcome: dedup.Failed, again: true}
	}
	return verdict{outcome: dedup.Unknown, again: t.Effect == tool.Idempotent}
}
