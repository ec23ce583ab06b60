package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/oo-sidecar/oo-sidecar/dedup"
)

// fault says what is wrong with one field, in the form in which FastAPI says it: clients show it as it is.
type fault struct {
	Type  string          `json:"type"`
	Loc   []any           `json:"loc"`
	Msg   string          `json:"msg"`
	Input json.RawMessage `json:"input"`
}

// fields are the members of a request's body as they stand, byte for byte. Readers note what is wrong; refuse says it.
type fields struct {
	raw    map[string]json.RawMessage
	at     []any // where the members stand
	faults *[]fault
}

// fieldsOf reads a body that must be one JSON object of at most limit bytes. Members nobody knows are ignored, and one
// that stands twice is refused: readers differ in which one they take. It answers for itself when it returns nil.
func fieldsOf(w http.ResponseWriter, r *http.Request, limit int64) *fields {
	data, ok := bodyOf(w, r, limit)
	if !ok {
		return nil
	}
	f := &fields{at: []any{"body"}, faults: new([]fault)}
	if f.raw = f.members(data); f.refuse(w) {
		return nil
	}
	return f
}

// members splits the text of an object.
func (f *fields) members(data []byte) map[string]json.RawMessage {
	text := bytes.TrimSpace(data)
	switch {
	case len(text) == 0:
		f.bad(nil, "missing", "Field required", nil)
		return nil
	case !utf8.Valid(text) || !json.Valid(text):
		f.bad(nil, "json_invalid", "JSON decode error", nil)
		return nil
	case text[0] != '{':
		f.bad(nil, "model_attributes_type", "Input should be a valid dictionary or object to extract fields from", text)
		return nil
	}
	raw, twice := splitObject(text)
	if twice != "" {
		f.bad(twice, "value_error", "Value error, this member stands twice", nil)
	}
	return raw
}

// splitObject returns the members of a valid JSON object as they stand, and the name of one that stands twice.
func splitObject(text []byte) (raw map[string]json.RawMessage, twice string) {
	raw = map[string]json.RawMessage{}
	d := json.NewDecoder(bytes.NewReader(text))
	_, _ = d.Token()
	for d.More() {
		name, _ := d.Token()
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return raw, twice
		}
		key, _ := name.(string)
		if _, known := raw[key]; known {
			twice = key
		}
		raw[key] = value
	}
	return raw, twice
}

// bad notes a fault at a member, or at the whole when at is nil.
func (f *fields) bad(at any, kind, msg string, input json.RawMessage) {
	loc := append([]any{}, f.at...)
	if at != nil {
		loc = append(loc, at)
	}
	if len(input) > 256 {
		input = nil
	}
	*f.faults = append(*f.faults, fault{kind, loc, msg, input})
}

// refuse answers 422 if anything was wrong.
func (f *fields) refuse(w http.ResponseWriter) bool {
	if len(*f.faults) == 0 {
		return false
	}
	fail(w, http.StatusUnprocessableEntity, *f.faults)
	return true
}

// has says whether the member is there and not null.
func (f *fields) has(name string) bool {
	raw, ok := f.raw[name]
	return ok && string(raw) != "null"
}

// text reads a string of 1 to most characters that every reader reads alike.
func (f *fields) text(name string, most int) string {
	if !f.has(name) {
		f.bad(name, "missing", "Field required", json.RawMessage("{}"))
		return ""
	}
	return f.optional(name, most)
}

// optional is text for a member that may be absent.
func (f *fields) optional(name string, most int) string {
	if !f.has(name) {
		return ""
	}
	raw := f.raw[name]
	var s string
	if _, err := dedup.Canonical(nil, raw, nil); err != nil || json.Unmarshal(raw, &s) != nil {
		f.bad(name, "string_type", "Input should be a valid string", raw)
		return ""
	}
	f.sized(name, s, most)
	return s
}

func (f *fields) sized(name, s string, most int) {
	switch n := utf8.RuneCountInString(s); {
	case n == 0:
		f.bad(name, "string_too_short", "String should have at least 1 character", json.RawMessage(`""`))
	case n > most:
		f.bad(name, "string_too_long", "String should have at most "+strconv.Itoa(most)+" characters", nil)
	}
}

// seconds reads a whole number of seconds above zero; zero when it is absent.
func (f *fields) seconds(name string) int64 {
	if !f.has(name) {
		return 0
	}
	n, ok := wholeNumber(f.raw[name])
	switch {
	case !ok:
		f.bad(name, "int_type", "Input should be a valid integer", f.raw[name])
	case n <= 0:
		f.bad(name, "greater_than", "Input should be greater than 0", f.raw[name])
	}
	return n
}

// wholeNumber reads a JSON number that has no fraction; one beyond an int32 is as good as the largest.
func wholeNumber(raw json.RawMessage) (int64, bool) {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return max(min(n, math.MaxInt32), -1), true
	}
	x, err := strconv.ParseFloat(string(raw), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || !isNumber(raw) || math.Trunc(x) != x {
		return 0, false
	}
	return int64(max(min(x, math.MaxInt32), -1)), true
}

func isNumber(raw json.RawMessage) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

// object reads the text of a JSON object of at most so many bytes; nil when it is absent.
func (f *fields) object(name string, most int) json.RawMessage {
	if !f.has(name) {
		return nil
	}
	raw := f.raw[name]
	switch {
	case raw[0] != '{':
		f.bad(name, "dict_type", "Input should be a valid dictionary", raw)
		return nil
	case len(raw) > most:
		f.bad(name, "value_error", "Value error, "+name+" may have "+strconv.Itoa(most)+" bytes", nil)
	}
	return raw
}

// within are the members of an object that stands in f. Faults are noted in f.
func (f *fields) within(name any, raw json.RawMessage) *fields {
	in := &fields{at: append(append([]any{}, f.at...), name), faults: f.faults}
	if raw == nil {
		return in
	}
	in.raw = in.members(raw)
	return in
}
