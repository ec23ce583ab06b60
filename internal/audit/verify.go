package audit

import (
	"errors"
	"fmt"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// Verification is what Verify found in a journal that holds.
type Verification struct {
	journal.Report
	Records, Changes int64 // of the audit among the entries
	Head             *Head // of now; nil without a key
	Given            string
}

// ErrAltered is wrapped by every finding that the journal is not what a head says it was.
var ErrAltered = errors.New("the audit was altered")

// Verify reads the whole journal and proves that what it holds was not changed, reordered or taken out of it; with a
// head, also that the head's entries are all still there. key may be nil: then no head is made and none can be checked.
// Bad news is an error that wraps ErrAltered, ErrHeadForeign or journal.ErrCorrupt and says what is wrong, and where.
func Verify(r *journal.Reader, key *Key, given *Head) (*Verification, error) {
	report, err := r.Verify()
	if err == nil {
		err = r.Displaced()
	}
	if err != nil {
		return nil, err
	}
	v := &Verification{Report: report}
	told := map[uint64][32]byte{}
	for e, err := range r.Entries(0) {
		if err != nil {
			return nil, err
		}
		switch e.Kind {
		case KindRecord:
			v.Records++
			_, err = DecodeRecord(e.Fact)
		case KindChange:
			v.Changes++
			_, err = DecodeChange(e.Fact)
		case journal.KindDropped:
			if h, ok := journal.ToldHead(e.Fact); ok {
				told[h.Seq] = h.Chain
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrAltered, e.Seq, err)
		}
	}
	if key != nil {
		v.Head = key.Sign(report.ID, report.Head.Seq, report.Head.Chain)
	}
	if given == nil {
		return v, nil
	}
	v.Given, err = check(given, r, key, v, told)
	return v, err
}

// check compares the journal with a head and says in words what that has proved.
func check(h *Head, r *journal.Reader, key *Key, v *Verification, told map[uint64][32]byte) (string, error) {
	if key == nil {
		return "", fmt.Errorf("%w: the key is not there", ErrHeadForeign)
	}
	if err := key.Check(h); err != nil {
		return "", fmt.Errorf("%w; it is of journal %s, this is journal %s", err, h.Journal, v.ID)
	}
	if h.Journal != v.ID {
		return "", fmt.Errorf("%w: the head is of journal %s, but this is journal %s: it was replaced", ErrAltered, h.Journal, v.ID)
	}
	if h.Seq > v.Report.Head.Seq {
		return "", fmt.Errorf("%w: the head names entry %d, but the journal ends with entry %d: its end was cut off", ErrAltered, h.Seq, v.Report.Head.Seq)
	}
	chain, err := r.ChainAt(h.Seq)
	if err == nil {
		if chain != h.Chain {
			return "", fmt.Errorf("%w: up to entry %d the journal is another one than when the head was printed", ErrAltered, h.Seq)
		}
		return fmt.Sprintf("the head is contained: nothing up to entry %d was changed", h.Seq), nil
	}
	if !errors.Is(err, journal.ErrNoHead) {
		return "", err
	}
	if h.Seq >= v.First {
		return "", fmt.Errorf("%w: no head was ever at entry %d, but one is given: up to there the journal is another one", ErrAltered, h.Seq)
	}
	return older(h, v, told)
}

// older judges a head of entries that have been dropped.
func older(h *Head, v *Verification, told map[uint64][32]byte) (string, error) {
	chain, ok := told[h.Seq]
	switch {
	case ok && chain != h.Chain:
		return "", fmt.Errorf("%w: what was dropped up to entry %d was another journal than the head's", ErrAltered, h.Seq)
	case ok:
		return fmt.Sprintf("the head is contained: what was dropped up to entry %d ended as it says", h.Seq), nil
	}
	return fmt.Sprintf("the head is older than what is kept: entries before %d were dropped, as the journal itself tells, and whether entry %d was among them as the head says cannot be proved any more; what is kept holds", v.First, h.Seq), nil
}
