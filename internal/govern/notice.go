package govern

import (
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what one kind of event puts into the log.
const (
	noticeEvery = time.Minute     // a line about one subject
	maxSubjects = 256             // with lines of their own; further ones share one
	calm        = 2 * time.Second // without a lack, before a lapse is over
)

// notices keep events of one kind from filling the log: of each subject the first has a line at once, those of the next
// minute are counted, and their number has a line when it is over.
type notices struct {
	mu     sync.Mutex
	hidden map[string]int // events without a line, of subjects that had one within the last minute; guarded by mu
}

// may says whether an event has a line of its own. rest is called with the number of those that had none, minute by
// minute while there are some.
func (n *notices) may(subject string, rest func(hidden int)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, told := n.hidden[subject]; !told && len(n.hidden) >= maxSubjects {
		subject = ""
	}
	if _, told := n.hidden[subject]; told {
		n.hidden[subject]++
		return false
	}
	if n.hidden == nil {
		n.hidden = map[string]int{}
	}
	n.hidden[subject] = 0
	time.AfterFunc(noticeEvery, func() { n.over(subject, rest) })
	return true
}

func (n *notices) over(subject string, rest func(hidden int)) {
	n.mu.Lock()
	hidden := n.hidden[subject]
	if hidden == 0 {
		delete(n.hidden, subject)
	} else {
		n.hidden[subject] = 0
		time.AfterFunc(noticeEvery, func() { n.over(subject, rest) })
	}
	n.mu.Unlock()
	if hidden > 0 {
		rest(hidden)
	}
}

// lapse is a time in which calls go without something. Its first call is told of, then how many there were, once calls
// have had it again for a little while.
type lapse struct {
	calls atomic.Int64 // so far; 0 between lapses

	mu     sync.Mutex
	began  time.Time   // guarded by mu
	ending *time.Timer // guarded by mu; nil unless calls have it again
}

// lacking counts a call that goes without, and says whether it is the first one.
func (l *lapse) lacking() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending != nil {
		l.ending.Stop()
		l.ending = nil
	}
	if l.calls.Add(1) > 1 {
		return false
	}
	l.began = time.Now()
	return true
}

// lasts says whether there is one; asked first, because it costs nothing.
func (l *lapse) lasts() bool { return l.calls.Load() > 0 }

// had says in a lapse that a call did not go without. over is called when the lapse has ended with that.
func (l *lapse) had(over func(calls int64, lasted time.Duration)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending != nil || !l.lasts() { // it may have ended since it was asked
		return
	}
	lasted := time.Since(l.began)
	var ending *time.Timer
	ending = time.AfterFunc(calm, func() {
		l.mu.Lock()
		if l.ending != ending { // a call went without meanwhile
			l.mu.Unlock()
			return
		}
		l.ending = nil
		calls := l.calls.Swap(0)
		l.mu.Unlock()
		over(calls, lasted)
	})
	l.ending = ending
}
