package store

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/dedup"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// record is a call as Redis keeps it: what encode and decode of redis_state.lua write and read.
type record struct {
	state     dedup.State // Print is not used: keys has one for each
	keys      []dedup.Identity
	holder    string // instance of the sidecar that claimed it
	requestID string
	refusal   string
	moved     uint64        // the fence under which the call goes on; 0: it has not moved
	shadow    dedup.Limit   // that would have blocked it
	answer    *dedup.Answer // its head; the body is a key of its own
}

// The fields of a record, in order: numbers first.
const (
	recordNumbers = 16
	recordFields  = 28
)

// mostCount is the largest number that a script counts exactly: 2^53-1, in micro-USD 9 billion USD.
const mostCount = 1<<53 - 1

var errRecord = errors.New("a record in Redis cannot be read; it was written by a newer oo-sidecar or is damaged")

func (r *record) encode() string {
	s, res := &r.state, &r.state.Reserved
	numbers := [recordNumbers]int64{
		int64(s.Outcome), truth(s.Held), int64(s.Fence), int64(s.Generation), int64(s.Attempt), int64(s.Effect),
		microsOf(s.Claimed), microsOf(s.Sent), microsOf(s.Ended), microsOf(s.Expires), s.Timeout.Microseconds(), s.UnknownFor.Microseconds(),
		int64(res.Cost), res.Minute, res.Day, truth(res.Settled),
	}
	lines := make([]string, 0, recordFields)
	for _, n := range numbers {
		lines = append(lines, strconv.FormatInt(n, 10))
	}
	moved := ""
	if r.moved != 0 {
		moved = strconv.FormatUint(r.moved, 10)
	}
	lines = append(lines,
		strconv.FormatUint(s.Nonce, 10), keyText(s.Origin), url.QueryEscape(res.Tenant), url.QueryEscape(res.Agent), url.QueryEscape(res.Tool),
		r.holder, url.QueryEscape(r.requestID), url.QueryEscape(r.refusal), moved, string(r.shadow), answerText(r.answer), identitiesText(r.keys))
	return strings.Join(lines, "\n")
}

func parseRecord(text string) (*record, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != recordFields {
		return nil, errRecord
	}
	var n [recordNumbers]int64
	var err error
	for i := range n {
		if n[i], err = strconv.ParseInt(lines[i], 10, 64); err != nil {
			return nil, errRecord
		}
	}
	r := &record{state: dedup.State{
		Outcome: dedup.Outcome(n[0]), Held: n[1] != 0, Fence: uint64(n[2]), Generation: uint64(n[3]), Attempt: int(n[4]), Effect: tool.Effect(n[5]),
		Claimed: instant(n[6]), Sent: instant(n[7]), Ended: instant(n[8]), Expires: instant(n[9]),
		Timeout: time.Duration(n[10]) * time.Microsecond, UnknownFor: time.Duration(n[11]) * time.Microsecond,
		Reserved: dedup.Reservation{Cost: tool.Money(n[12]), Minute: n[13], Day: n[14], Settled: n[15] != 0},
	}}
	return r, r.parseTexts(lines[recordNumbers:])
}

func (r *record) parseTexts(text []string) error {
	var errs [8]error
	s := &r.state
	if text[0] != "" { // a damaged record has no nonce
		s.Nonce, errs[0] = strconv.ParseUint(text[0], 10, 64)
	}
	s.Origin, errs[1] = parseKey(text[1])
	for i, to := range []*string{&s.Reserved.Tenant, &s.Reserved.Agent, &s.Reserved.Tool, nil, &r.requestID, &r.refusal} {
		if to != nil {
			*to, errs[2] = url.QueryUnescape(text[2+i])
			errs[3] = errors.Join(errs[3], errs[2])
		}
	}
	r.holder = text[5]
	if text[8] != "" {
		r.moved, errs[4] = strconv.ParseUint(text[8], 10, 64)
	}
	r.shadow = dedup.Limit(text[9])
	r.answer, errs[5] = parseAnswer(text[10])
	r.keys, errs[6] = parseIdentities(text[11])
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	return nil
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// microsOf is a time as scripts count it; the zero time is 0.
func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// keyText is a key as part of a name in Redis; the zero key is empty.
func keyText(k dedup.Key) string {
	if k == (dedup.Key{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(k[:])
}

func parseKey(text string) (k dedup.Key, err error) {
	if text == "" {
		return k, nil
	}
	p, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(p) != len(k) {
		return k, errRecord
	}
	copy(k[:], p)
	return k, nil
}

func identitiesText(keys []dedup.Identity) string {
	var b strings.Builder
	for i, id := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(keyText(id.Key) + ":" + keyText(id.Print))
	}
	return b.String()
}

func parseIdentities(text string) (keys []dedup.Identity, err error) {
	if text == "" {
		return nil, nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		key, print, _ := strings.Cut(pair, ":")
		var id dedup.Identity
		var errs [2]error
		id.Key, errs[0] = parseKey(key)
		id.Print, errs[1] = parseKey(print)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		keys = append(keys, id)
	}
	return keys, nil
}

// answerText is an answer without its body.
func answerText(a *dedup.Answer) string {
	if a == nil {
		return ""
	}
	w := newWriter(nil)
	w.answer(a, false)
	return base64.RawURLEncoding.EncodeToString(w)
}

func parseAnswer(text string) (*dedup.Answer, error) {
	if text == "" {
		return nil, nil
	}
	p, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	r := newReader(p)
	a := r.answer()
	return a, r.done()
}

// withBody is the record's answer, never nil, with its body if that is still kept.
func (r *record) withBody(body any) *dedup.Answer {
	if r.answer == nil {
		return &dedup.Answer{}
	}
	a := *r.answer
	if text, ok := body.(string); ok {
		a.Body, a.Kept = []byte(text), true
	}
	return &a
}

// money is an amount within what scripts count exactly.
func money(m tool.Money) tool.Money { return min(max(m, 0), mostCount) }

// verdict is a script's answer: a word, an echo, the store's time, the server's, and what the word needs.
type verdict struct {
	word string
	now  time.Time // the store's
	wall int64     // the server's clock, microseconds
	rest []any
}

var errReply = errors.New("the answer of Redis is not that of the script")

func parseVerdict(reply any, echo string) (verdict, error) {
	list, ok := reply.([]any)
	if !ok || len(list) < 4 {
		return verdict{}, errReply
	}
	word, _ := list[0].(string)
	said, _ := list[1].(string)
	now, wall := integer(list[2]), integer(list[3])
	if word == "" || said != echo || now == 0 || wall == 0 {
		return verdict{}, fmt.Errorf("%w: it echoes %q for %q", errReply, said, echo)
	}
	return verdict{word: word, now: instant(now), wall: wall, rest: list[4:]}, nil
}

func integer(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil {
			return n
		}
	}
	return 0
}

func (v *verdict) at(i int) any {
	if i < len(v.rest) {
		return v.rest[i]
	}
	return nil
}

func (v *verdict) text(i int) string {
	s, _ := v.at(i).(string)
	return s
}

func (v *verdict) record(i int) (*record, error) { return parseRecord(v.text(i)) }
