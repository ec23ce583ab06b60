package audit

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxText bounds every string of a record, in bytes: an agent chooses some of them and must not fill the disk with one.
const maxText = 1024

// Of what an agent chooses for nobody but itself, and of what is said of a refusal, less is kept.
const (
	maxChosen = 128 // run_id, tool, method, host, force_new
	maxDetail = 256
)

// Append appends the record as it is kept in the journal: one line of JSON without Seq and without empty members.
// Strings longer than 1024 bytes are cut and end in "…"; run_id, tool, method, host and force_new are cut at 128 bytes,
// detail at 256.
func (r *Record) Append(dst []byte) []byte {
	e := encoder{buf: append(dst, '{'), first: true}
	r.members(&e)
	return append(e.buf, '}')
}

// AppendExport appends the record as `audit export` writes it: all members of the contract, empty or not, with Seq.
func (r *Record) AppendExport(dst []byte) []byte {
	e := encoder{buf: append(dst, '{'), first: true, empty: true}
	e.uint("seq", r.Seq)
	r.members(&e)
	return append(e.buf, '}')
}

func (r *Record) members(e *encoder) {
	e.time("ts", r.Time)
	e.text("agent_id", r.AgentID)
	e.cut("tool", r.Tool, maxChosen)
	e.text("decision", r.Decision)
	e.text("policy_reason", r.PolicyReason)
	e.text("risk_level", r.RiskLevel)
	e.text("args_hash", r.ArgsHash)
	e.text("key", r.Key)
	e.uint("fence", r.Fence)
	e.int("attempt", r.Attempt)
	e.text("outcome", r.Outcome)
	e.int("upstream_status", r.UpstreamStatus)
	e.text("spend_usd", r.SpendUSD)
	e.cut("run_id", r.RunID, maxChosen)
	e.text("request_id", r.RequestID)
	e.millis("duration_ms", r.DurationMS)

	e.empty = false
	e.text("tenant", r.Tenant)
	e.text("route", r.Route)
	e.cut("method", r.Method, maxChosen)
	e.cut("host", r.Host, maxChosen)
	e.text("rule", r.Rule)
	e.text("shadow_reason", r.ShadowReason)
	e.cut("detail", r.Detail, maxDetail)
	e.text("first_request_id", r.FirstID)
	e.cut("force_new", r.ForceNew, maxChosen)
	e.text("fail_open", r.FailOpen)
	e.text("guarantee", r.Guarantee)
	e.text("limit_scope", r.LimitScope)
	e.int("count", r.Count)
	e.bool("recovered", r.Recovered)
}

// Append appends the change as it is kept in the journal.
func (c *Change) Append(dst []byte) []byte {
	e := encoder{buf: append(dst, '{'), first: true}
	c.members(&e)
	return append(e.buf, '}')
}

// AppendExport appends the change as `audit export --changes` writes it, with Seq.
func (c *Change) AppendExport(dst []byte) []byte {
	e := encoder{buf: append(dst, '{'), first: true, empty: true}
	e.uint("seq", c.Seq)
	c.members(&e)
	return append(e.buf, '}')
}

func (c *Change) members(e *encoder) {
	e.time("ts", c.Time)
	e.text("who", c.Who)
	e.text("what", c.What)
	e.text("entity", c.Entity)
	e.empty = false
	e.text("why", c.Why)
	e.text("detail", c.Detail)
}

// DecodeRecord reads what Append wrote. Members it does not know are those of a newer version and are ignored.
func DecodeRecord(fact []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(fact, &r); err != nil {
		return Record{}, fmt.Errorf("audit record cannot be read: %w", err)
	}
	return r, nil
}

// DecodeChange reads what Change.Append wrote.
func DecodeChange(fact []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(fact, &c); err != nil {
		return Change{}, fmt.Errorf("audit change cannot be read: %w", err)
	}
	return c, nil
}

// Recover completes the record of a call whose process died after its claim: it was sent or may have been, and nobody
// knows how it ended. Its reason is that of a call whose answer did not come. A record that cannot be read still leaves one
// that says so.
func Recover(fact []byte, fence uint64) []byte {
	r, err := DecodeRecord(fact)
	r.Detail = "The sidecar ended while this call ran."
	if err != nil {
		r = Record{Detail: "The sidecar ended while a call ran whose record cannot be read back."}
	}
	r.Decision, r.PolicyReason, r.Outcome, r.Recovered = "executed", "upstream_outcome_unknown", "unknown", true
	if fence != 0 {
		r.Fence = fence
	}
	return r.Append(nil)
}

// encoder writes members of one JSON object by appending. Empty members are left out unless empty is set.
type encoder struct {
	buf   []byte
	first bool
	empty bool
}

func (e *encoder) name(name string) {
	if !e.first {
		e.buf = append(e.buf, ',')
	}
	e.first = false
	e.buf = append(e.buf, '"')
	e.buf = append(e.buf, name...)
	e.buf = append(e.buf, '"', ':')
}

func (e *encoder) text(name, v string) { e.cut(name, v, maxText) }

// cut writes at most so many bytes of v.
func (e *encoder) cut(name, v string, most int) {
	if v == "" && !e.empty {
		return
	}
	e.name(name)
	e.buf = appendCut(e.buf, v, most)
}

func (e *encoder) uint(name string, v uint64) {
	if v == 0 && !e.empty {
		return
	}
	e.name(name)
	e.buf = strconv.AppendUint(e.buf, v, 10)
}

func (e *encoder) int(name string, v int) {
	if v == 0 && !e.empty {
		return
	}
	e.name(name)
	e.buf = strconv.AppendInt(e.buf, int64(v), 10)
}

func (e *encoder) bool(name string, v bool) {
	if !v && !e.empty {
		return
	}
	e.name(name)
	e.buf = strconv.AppendBool(e.buf, v)
}

// millis writes milliseconds to the microsecond; JSON has no word for what is not a number.
func (e *encoder) millis(name string, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	if v == 0 && !e.empty {
		return
	}
	e.name(name)
	if us := math.Round(v * 1000); us >= 0 && us < 1e12 {
		e.micros(uint64(us))
		return
	}
	e.buf = strconv.AppendFloat(e.buf, math.Round(v*1000)/1000, 'f', -1, 64)
}

// micros writes microseconds as milliseconds, without zeros at the end.
func (e *encoder) micros(us uint64) {
	e.buf = strconv.AppendUint(e.buf, us/1000, 10)
	if us %= 1000; us == 0 {
		return
	}
	e.buf = append(e.buf, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
	for e.buf[len(e.buf)-1] == '0' {
		e.buf = e.buf[:len(e.buf)-1]
	}
}

// time is always written, in UTC, to the microsecond.
func (e *encoder) time(name string, t time.Time) {
	e.name(name)
	e.buf = append(e.buf, '"')
	e.buf = appendTime(e.buf, t.UTC())
	e.buf = append(e.buf, '"')
}

// appendTime is AppendFormat with 2006-01-02T15:04:05.000000Z, which is in every record and costs half of the rest.
func appendTime(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	}
	hour, minute, second := t.Clock()
	b = append(appendTwo(appendTwo(b, year/100), year%100), '-')
	b = append(appendTwo(b, int(month)), '-')
	b = append(appendTwo(b, day), 'T')
	b = append(appendTwo(b, hour), ':')
	b = append(appendTwo(b, minute), ':')
	b = append(appendTwo(b, second), '.')
	us := t.Nanosecond() / 1000
	return append(appendTwo(appendTwo(appendTwo(b, us/10000), us/100%100), us%100), 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

const cutMark = "…"

const hexDigits = "0123456789abcdef"

// appendCut appends s as a JSON string on one line that is also safe inside HTML and JavaScript; bytes that are no UTF-8
// become U+FFFD. It takes at most so many bytes of s; what was cut already is not cut again.
func appendCut(dst []byte, s string, most int) []byte {
	cut := len(s) > most && !(len(s) <= most+len(cutMark) && strings.HasSuffix(s, cutMark))
	if cut {
		s = s[:runeStart(s, most)]
	}
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			dst = appendEscaped(append(dst, s[start:i]...), c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(append(dst, s[start:i]...), `\ufffd`...)
		} else if r == '\u2028' || r == '\u2029' { // end a line in JavaScript
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
		} else {
			i += size
			continue
		}
		i += size
		start = i
	}
	dst = append(dst, s[start:]...)
	if cut {
		dst = append(dst, cutMark...)
	}
	return append(dst, '"')
}

// runeStart is the largest index of s that is at most i and does not split a character.
func runeStart(s string, i int) int {
	for j := i; j > i-utf8.UTFMax && j > 0; j-- {
		if utf8.RuneStart(s[j]) {
			return j
		}
	}
	return i
}

// plain says which ASCII characters stand in a string as they are.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c != 0x7f && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}
