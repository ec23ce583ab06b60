package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

func TestStringsReadBackAsEncodingJSONWouldHaveWrittenThem(t *testing.T) {
	var naughty []string
	data, err := os.ReadFile(needed.Corpus(t, "strings/blns.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &naughty); err != nil {
		t.Fatal(err)
	}
	for c := range 0x100 {
		naughty = append(naughty, string(rune(c)), string([]byte{byte(c)}), "a"+string([]byte{0xe2, byte(c)})+"b")
	}
	naughty = append(naughty, "\u2028\u2029", "\xed\xa0\x80", "\xf4\x90\x80\x80", "evil\"\n{\"forged\":1}", "\ufffd")
	for _, s := range naughty {
		if len(s) > maxText {
			continue
		}
		agrees(t, s)
	}
}

func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("\xff\u2028\"\\\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) <= maxText {
			agrees(t, s)
		}
	})
}

func agrees(t *testing.T, s string) {
	t.Helper()
	ours := appendCut(nil, s, maxText)
	theirs, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got, want string
	if err := json.Unmarshal(ours, &got); err != nil {
		t.Fatalf("%q became %s: %v", s, ours, err)
	}
	if err := json.Unmarshal(theirs, &want); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%q reads back as %q, want %q", s, got, want)
	}
	if bytes.ContainsAny(ours[1:len(ours)-1], "\n\r\x00\x1b\x7f<>&") {
		t.Errorf("%q leaves a raw control or markup character in %s", s, ours)
	}
}

// full is a record with every member set, so that a member that is added and not encoded is seen.
func full() Record {
	var r Record
	fill(reflect.ValueOf(&r).Elem())
	return r
}

func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case string:
			f.SetString("é\"" + v.Type().Field(i).Name)
		case int, int64:
			f.SetInt(int64(i) + 1)
		case uint64:
			f.SetUint(math.MaxUint64 - uint64(i))
		case float64:
			f.SetFloat(12.345)
		case bool:
			f.SetBool(true)
		case time.Time:
			f.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)))
		default:
			panic("a member of a type that this test does not know: " + f.Type().String())
		}
	}
}

func TestRecordReadsBack(t *testing.T) {
	want := full()
	got, err := DecodeRecord(want.AppendExport(nil))
	if err != nil || got != want {
		t.Errorf("exported:\n got %+v, %v\nwant %+v", got, err, want)
	}
	want.Seq = 0 // the journal knows it
	if got, err = DecodeRecord(want.Append(nil)); err != nil || got != want {
		t.Errorf("stored:\n got %+v, %v\nwant %+v", got, err, want)
	}
	empty := Record{Time: time.Unix(0, 0).UTC()}
	if got, err = DecodeRecord(empty.Append(nil)); err != nil || got != empty {
		t.Errorf("empty: got %+v, %v", got, err)
	}
}

func TestChangeReadsBack(t *testing.T) {
	var want Change
	fill(reflect.ValueOf(&want).Elem())
	if got, err := DecodeChange(want.AppendExport(nil)); err != nil || got != want {
		t.Errorf("exported:\n got %+v, %v\nwant %+v", got, err, want)
	}
	want.Seq = 0
	if got, err := DecodeChange(want.Append(nil)); err != nil || got != want {
		t.Errorf("stored:\n got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestExportHasEveryMemberOfTheContract(t *testing.T) {
	line := (&Record{}).AppendExport(nil)
	var m map[string]any
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(`seq ts agent_id tool decision policy_reason risk_level args_hash key fence attempt
		outcome upstream_status spend_usd run_id request_id duration_ms`) {
		if _, ok := m[name]; !ok {
			t.Errorf("%s is missing in %s", name, line)
		}
	}
	if ts, err := time.Parse(time.RFC3339, m["ts"].(string)); err != nil || ts.Location() != time.UTC {
		t.Errorf("ts %v is not RFC 3339 in UTC: %v", m["ts"], err)
	}
}

func TestLongStringsAreCut(t *testing.T) {
	for _, r := range []string{"a", "é", "☃", "😀"} {
		for pad := range 4 {
			s := strings.Repeat("x", pad) + strings.Repeat(r, 40_000)
			var got string
			if err := json.Unmarshal(appendCut(nil, s, maxText), &got); err != nil {
				t.Fatal(err)
			}
			text, cut := strings.CutSuffix(got, "…")
			if !cut || !strings.HasPrefix(s, text) || len(text) > maxText || len(text) < maxText-4 {
				t.Errorf("%d bytes of %q became %d bytes", len(s), r, len(got))
			}
		}
	}
	if b := appendCut(nil, strings.Repeat("\x80", 40_000), maxText); len(b) > 6*maxText+16 {
		t.Errorf("40,000 bytes that are no UTF-8 became %d", len(b))
	}
}

func TestNumbersThatJSONCannotSay(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		r := Record{DurationMS: v}
		if got, err := DecodeRecord(r.AppendExport(nil)); err != nil || got.DurationMS != 0 {
			t.Errorf("%v reads back as %v, %v", v, got.DurationMS, err)
		}
	}
}

func TestRecoverCompletesAnInterruptedRecord(t *testing.T) {
	intent := Record{Time: time.Unix(1, 0).UTC(), AgentID: "a", Tool: "charge", PolicyReason: "ok", SpendUSD: "0.5", RequestID: "r1"}
	got, err := DecodeRecord(Recover(intent.Append(nil), 7))
	if err != nil {
		t.Fatal(err)
	}
	want := intent
	want.Decision, want.PolicyReason, want.Outcome, want.Recovered, want.Fence = "executed", "upstream_outcome_unknown", "unknown", true, 7
	want.Detail = "The sidecar ended while this call ran."
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got, err = DecodeRecord(Recover([]byte("{torn"), 8)); err != nil || !got.Recovered || got.Detail == "" || got.PolicyReason != "upstream_outcome_unknown" || got.Fence != 8 {
		t.Errorf("of a torn record: %+v, %v", got, err)
	}
}

func TestEncodingAllocatesNothing(t *testing.T) {
	r := full()
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = r.Append(buf[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	r := Record{Time: time.Now(), AgentID: "billing-agent", Tool: "stripe.charge", Decision: "dedup", PolicyReason: "ok", RiskLevel: "low",
		ArgsHash: strings.Repeat("a", 64), Key: strings.Repeat("b", 64), Fence: 123456, Outcome: "done", SpendUSD: "0", RequestID: strings.Repeat("c", 26), DurationMS: 0.123}
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		buf = r.Append(buf[:0])
	}
}
