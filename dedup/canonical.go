package dedup

import (
	"fmt"
	"sync"
)

// Bounds of JSON arguments. They keep the canonical form small and the same for every reader.
const (
	MaxDepth    = 64        // of arrays and objects inside each other
	MaxDigits   = 64        // of a number as written, from its first that is not 0 on, without the exponent's
	MaxExponent = 999999    // of a number as written and in normal form, either sign
	maxText     = 512 << 20 // bytes; the canonical form is at most six times as long
)

// Canonical appends to dst the one text that all JSON texts of the same value share, without the members that ignore
// names by JSON pointers (RFC 6901). testdata/README.md describes the form; in brief it is RFC 8785 with numbers kept
// as exact decimals. Its error is an *ArgumentsError, and dst then comes back as it was.
func Canonical(dst, src []byte, ignore []string) ([]byte, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	s.pointers = append(s.pointers, ignore...)
	if err := s.scan(src); err != nil {
		return dst, err
	}
	return append(dst, s.out...), nil
}

// Fault names the way in which arguments are not JSON that every reader reads alike.
type Fault string

const (
	Truncated        Fault = "truncated"
	BadSyntax        Fault = "bad_syntax"
	BadNumber        Fault = "bad_number"
	BadEscape        Fault = "bad_escape"
	ControlCharacter Fault = "control_character"
	NotUTF8          Fault = "not_utf8"
	ByteOrderMark    Fault = "byte_order_mark"
	LoneSurrogate    Fault = "lone_surrogate"
	DuplicateMember  Fault = "duplicate_member"
	TrailingBytes    Fault = "trailing_bytes"
	TooDeep          Fault = "too_deep"
	TooManyDigits    Fault = "too_many_digits"
	ExponentRange    Fault = "exponent_range"
	TooLong          Fault = "too_long"
)

var faultTexts = map[Fault]string{
	Truncated:        "the JSON text ends too early",
	BadSyntax:        "this is not JSON (RFC 8259)",
	BadNumber:        "this is not a JSON number",
	BadEscape:        "this is not an escape that JSON knows",
	ControlCharacter: "a control character stands unescaped in a string; write it as \\u00XX",
	NotUTF8:          "the text is not valid UTF-8",
	ByteOrderMark:    "the text begins with a byte order mark; leave it out",
	LoneSurrogate:    "half of a surrogate pair is escaped without its other half",
	DuplicateMember:  "a member of this name stands in the object already; readers differ in which one they take",
	TrailingBytes:    "something follows the end of the JSON text",
	TooDeep:          fmt.Sprintf("arrays and objects are nested more than %d deep", MaxDepth),
	TooManyDigits:    fmt.Sprintf("a number has more than %d digits; send it as a string", MaxDigits),
	ExponentRange:    fmt.Sprintf("the exponent of a number is beyond ±%d", MaxExponent),
	TooLong:          "the JSON text is longer than 512 MiB",
}

// ArgumentsError says where and why arguments sent as JSON cannot be compared. It repeats nothing of them.
type ArgumentsError struct {
	Offset int // in bytes from the start of the body
	Fault  Fault
}

// Error is a sentence for the person or the model that wrote the arguments.
func (e *ArgumentsError) Error() string {
	return fmt.Sprintf("the arguments cannot be read as JSON: at byte %d: %s", e.Offset, faultTexts[e.Fault])
}

// scanner reads one JSON text once, from left to right, and writes its canonical form. Its slices are stacks that
// nested values push to and pop from; they are kept between texts, so that a usual text costs no allocation.
type scanner struct {
	src      []byte
	out      []byte       // the canonical form so far
	members  []jsonMember // of the open objects, innermost last
	names    []byte       // their names, unescaped
	spare    []byte       // members of an object while they are put in order
	pointers []string     // rests of the ignored pointers that lead through the open values
	err      *ArgumentsError
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// keptScratch bounds what one pooled scanner may hold on to after a large body.
const keptScratch = 64 << 10

// release gives the scanner back for the next text, without a trace of this one's caller.
func (s *scanner) release() {
	if cap(s.out)+cap(s.names)+cap(s.spare)+cap(s.members)*32 > keptScratch {
		return
	}
	clear(s.pointers)
	*s = scanner{out: s.out[:0], members: s.members[:0], names: s.names[:0], spare: s.spare[:0], pointers: s.pointers[:0]}
	scanners.Put(s)
}

// scan writes the canonical form of the whole of src to s.out, behind what stands there.
func (s *scanner) scan(src []byte) error {
	s.src = src
	if i := s.whole(); i < 0 {
		return s.err
	}
	return nil
}

func (s *scanner) whole() int {
	if len(s.src) > maxText {
		return s.fail(TooLong, maxText)
	}
	if len(s.src) >= 3 && string(s.src[:3]) == "\xef\xbb\xbf" {
		return s.fail(ByteOrderMark, 0)
	}
	i := s.value(s.space(0), 0, span{0, len(s.pointers)})
	if i < 0 {
		return i
	}
	if i = s.space(i); i < len(s.src) {
		return s.fail(TrailingBytes, i)
	}
	return i
}

// fail records the first fault and returns -1, the position that stands for it.
func (s *scanner) fail(f Fault, at int) int {
	if at >= len(s.src) && f != TooLong {
		at, f = len(s.src), Truncated
	}
	s.err = &ArgumentsError{Offset: at, Fault: f}
	return -1
}
