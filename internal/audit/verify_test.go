package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/journal"
)

// written makes a journal of n records, each in a commit of its own, some with bodies, and closes it.
func written(t *testing.T, dir string, n int, opt journal.Options) {
	t.Helper()
	opt.Dir, opt.Process = dir, true
	j, err := journal.Open(opt, func(journal.Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	appendRecords(t, j, n)
	if err := j.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func appendRecords(t *testing.T, j *journal.Journal, n int) {
	t.Helper()
	for i := range n {
		e := journal.Entry{Kind: KindRecord, Fact: (&Record{Time: j.Now(), AgentID: "a", Tool: "charge", Decision: "executed", RequestID: fmt.Sprint(i)}).Append(nil)}
		if i%3 == 0 {
			e.Body, e.BodyUntil = bytes.Repeat([]byte("answer "), 40), j.Now().Add(time.Hour)
		}
		if i%5 == 4 {
			e.Kind, e.Fact = KindChange, (&Change{Time: j.Now(), Who: "ops", What: "agent_disabled", Entity: "a"}).Append(nil)
		}
		c, err := j.Append(e)
		if err == nil {
			err = c.Wait(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verified(t *testing.T, dir string, key *Key, given *Head) (*Verification, error) {
	t.Helper()
	r, err := journal.Read(dir, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return Verify(r, key, given)
}

func segments(t *testing.T, dir string) (paths []string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, frameMagic) {
			paths = append(paths, filepath.Join(dir, n.Name()))
		}
	}
	return paths
}

var frameMagic = []byte("\xc7oolog\x1a\n")

// frames are where the frames of a segment stand, by their magic and length alone, as an attacker would find them.
func frames(data []byte) (spans [][2]int) {
	for at := 0; ; {
		i := bytes.Index(data[at:], frameMagic)
		if i < 0 {
			return spans
		}
		at += i
		end := at + 84 + int(binary.LittleEndian.Uint32(data[at+20:]))
		spans = append(spans, [2]int{at, end})
		at = end
	}
}

func TestACleanJournalVerifiesAndContainsItsHeads(t *testing.T) {
	dir, key := t.TempDir(), testKey()
	var heads []*Head
	for round := range 3 {
		written(t, dir, 20, journal.Options{})
		v, err := verified(t, dir, key, nil)
		if err != nil || v.Records != int64(16*(round+1)) || v.Changes != int64(4*(round+1)) {
			t.Fatalf("round %d: %+v, %v", round, v, err)
		}
		heads = append(heads, v.Head)
		for _, h := range heads {
			parsed, err := ParseHead(h.String())
			if err != nil {
				t.Fatal(err)
			}
			if v, err := verified(t, dir, key, parsed); err != nil || !strings.Contains(v.Given, fmt.Sprintf("nothing up to entry %d", h.Seq)) {
				t.Errorf("round %d: head of entry %d: %+v, %v", round, h.Seq, v, err)
			}
		}
	}
	if v, err := verified(t, dir, nil, nil); err != nil || v.Head != nil {
		t.Errorf("without a key: %+v, %v", v, err)
	}
	if _, err := verified(t, dir, nil, heads[0]); !errors.Is(err, ErrHeadForeign) {
		t.Errorf("a head without a key: %v", err)
	}
}

func TestHeadsOfARunningJournal(t *testing.T) {
	dir, key := t.TempDir(), testKey()
	j, err := journal.Open(journal.Options{Dir: dir, Process: true}, func(journal.Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(context.Background())
	var heads []*Head
	for range 5 {
		appendRecords(t, j, 7)
		v, err := verified(t, dir, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, v.Head)
	}
	for _, h := range heads {
		if _, err := verified(t, dir, key, h); err != nil {
			t.Errorf("head of entry %d: %v", h.Seq, err)
		}
	}
}

// TestTampering changes the files as somebody with access to them would, and wants every change to be noticed: by the
// journal alone, or, where the journal was made to look as if it had never been longer, by a head.
func TestTampering(t *testing.T) {
	clean, key := t.TempDir(), testKey()
	written(t, clean, 40, journal.Options{})
	v, err := verified(t, clean, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := segments(t, clean)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spans := frames(data)
	if len(spans) < 40 {
		t.Fatalf("%d frames", len(spans))
	}
	cut := func(i int) []byte { return slices.Concat(data[:spans[i][0]], data[spans[i][1]:]) }
	frame := func(i int) []byte { return data[spans[i][0]:spans[i][1]] }
	for name, c := range map[string]struct {
		data  []byte
		alone bool // noticed without a head
	}{
		"a frame removed":         {cut(10), true},
		"two frames swapped":      {slices.Concat(data[:spans[10][0]], frame(11), frame(10), data[spans[11][1]:]), true},
		"a frame put in":          {slices.Concat(data[:spans[9][1]], frame(0), data[spans[9][1]:]), true},
		"a frame doubled":         {slices.Concat(data[:spans[10][1]], frame(10), data[spans[10][1]:]), true},
		"a frame blanked":         {slices.Concat(data[:spans[10][0]], make([]byte, len(frame(10))), data[spans[10][1]:]), true},
		"the first frame removed": {cut(0), true},
		"a record renamed":        {bytes.Replace(slices.Clone(data), []byte(`"request_id":"20"`), []byte(`"request_id":"02"`), 1), true},
		"an answer changed":       {bytes.Replace(slices.Clone(data), []byte("answer answer"), []byte("answer ANSWER"), 1), true},
		"cut within a frame":      {data[:spans[30][0]+50], false},
		"cut between frames":      {data[:spans[30][0]], false},
		"the last record cut":     {data[:spans[len(spans)-2][0]], false},
	} {
		dir := copied(t, clean, path, c.data)
		if _, err := verified(t, dir, key, nil); (err != nil) != c.alone {
			t.Errorf("%s: alone: %v", name, err)
		} else if err != nil && !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%s: the error does not say that the journal is corrupt: %v", name, err)
		} else if err != nil && name != "the first frame removed" && !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
		if _, err := verified(t, dir, key, v.Head); err == nil {
			t.Errorf("%s: not noticed with a head", name)
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	clean, key := t.TempDir(), testKey()
	written(t, clean, 12, journal.Options{})
	v, err := verified(t, clean, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := segments(t, clean)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spans := frames(data)
	end, last := spans[len(spans)-1][1], spans[len(spans)-2][0]
	dir := copied(t, clean, path, data)
	rng := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < end; at += 1 + rng.IntN(5) {
		bit := byte(1) << rng.IntN(8)
		data[at] ^= bit
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		// The last frames look like a write that a crash cut short; only a head can tell.
		if _, err := verified(t, dir, key, nil); err == nil && at < last {
			t.Errorf("bit %d of byte %d of %d is not noticed", bit, at, end)
		}
		if _, err := verified(t, dir, key, v.Head); err == nil && at < spans[len(spans)-1][0] {
			t.Errorf("bit %d of byte %d of %d is not noticed with a head", bit, at, end)
		}
		data[at] ^= bit
	}
}

// copied is a copy of a journal in which one file holds other bytes.
func copied(t *testing.T, from, path string, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAJournalThatWasReplacedOrRewritten(t *testing.T) {
	dir, key := t.TempDir(), testKey()
	written(t, dir, 20, journal.Options{})
	v, err := verified(t, dir, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	written(t, other, 30, journal.Options{})
	if _, err := verified(t, other, key, v.Head); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("replaced: %v", err)
	}
	for name, forged := range map[string]*Head{
		"other history":   key.Sign(v.ID, v.Head.Seq, [32]byte{1}),
		"cut":             key.Sign(v.ID, v.Head.Seq+1, v.Head.Chain),
		"never committed": key.Sign(v.ID, 0, [32]byte{1}),
	} {
		if _, err := verified(t, dir, key, forged); !errors.Is(err, ErrAltered) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, path := range map[string]string{"segment": segments(t, dir)[0], "name": filepath.Join(dir, "journal.id")} {
		broken := copied(t, dir, path, nil)
		if err := os.Remove(filepath.Join(broken, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
		if _, err := verified(t, broken, key, v.Head); err == nil && name == "segment" {
			t.Errorf("without its %s the journal verifies", name)
		}
	}
}

// TestOldSegmentsAndBodiesMayGo drops and strips as retention does, under a clock that runs ahead.
func TestOldSegmentsAndBodiesMayGo(t *testing.T) {
	dir, key := t.TempDir(), testKey()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	opt := journal.Options{Dir: dir, Process: true, Segment: 4096, Retention: 48 * time.Hour, Now: func() time.Time { return now },
		Carry: func(uint64, func(journal.Entry)) error { return nil }}
	j, err := journal.Open(opt, func(journal.Stored) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(context.Background())
	var heads []*Head
	for range 12 {
		appendRecords(t, j, 20)
		v, err := verified(t, dir, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, v.Head)
		now = now.Add(6 * time.Hour)
		if err := j.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	v, err := verified(t, dir, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Dropped == 0 || v.Gone == 0 || v.First < 2 {
		t.Fatalf("nothing was dropped or stripped: %+v", v.Report)
	}
	contained, older := 0, 0
	for _, h := range heads {
		v, err := verified(t, dir, key, h)
		switch {
		case err != nil:
			t.Errorf("head of entry %d of %d: %v", h.Seq, v.Last, err)
		case strings.Contains(v.Given, "is contained"):
			contained++
		case strings.Contains(v.Given, "older than what is kept"):
			older++
		}
	}
	if contained < 4 || older < 1 || contained+older != len(heads) {
		t.Errorf("%d contained, %d older of %d", contained, older, len(heads))
	}
	droppedBoundary(t, j, dir, key)
}

// droppedBoundary gives heads that end exactly where segments were dropped: the journal still knows those.
func droppedBoundary(t *testing.T, j *journal.Journal, dir string, key *Key) {
	t.Helper()
	found := 0
	for e, err := range j.Entries(0) {
		if err != nil {
			t.Fatal(err)
		}
		h, ok := journal.ToldHead(e.Fact)
		if e.Kind != journal.KindDropped || !ok {
			continue
		}
		found++
		id := j.Status().ID
		if v, err := verified(t, dir, key, key.Sign(id, h.Seq, h.Chain)); err != nil || !strings.Contains(v.Given, "contained") {
			t.Errorf("dropped up to %d: %+v, %v", h.Seq, v, err)
		}
		if _, err := verified(t, dir, key, key.Sign(id, h.Seq, [32]byte{1})); !errors.Is(err, ErrAltered) {
			t.Errorf("dropped up to %d, another history: %v", h.Seq, err)
		}
	}
	if found == 0 {
		t.Error("the journal tells of no segment that was dropped")
	}
}

func TestFindReadsARealJournalFromItsEnd(t *testing.T) {
	dir := t.TempDir()
	written(t, dir, 300, journal.Options{Segment: 4096})
	r, err := journal.Read(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := (&Query{Changes: true}).Find(r)
	if err != nil || len(all) != 300 {
		t.Fatalf("%d rows, %v", len(all), err)
	}
	for _, limit := range []int{1, 7, 100, 299, 300, 1000} {
		rows, err := (&Query{Changes: true, Limit: limit}).Find(r)
		if err != nil || len(rows) != min(limit, 300) || rows[0].Seq() != all[0].Seq() || rows[len(rows)-1].Seq() != all[len(rows)-1].Seq() {
			t.Errorf("newest %d: %d rows, %v", limit, len(rows), err)
		}
	}
	q := Query{From: all[20].time(), Changes: true}
	if rows, err := q.Find(r); err != nil || len(rows) < 21 || len(rows) > 60 {
		t.Errorf("from the time of the 21st newest: %d rows, %v", len(rows), err)
	}
}

func (r *Row) time() time.Time {
	if r.Change != nil {
		return r.Change.Time
	}
	return r.Record.Time
}
