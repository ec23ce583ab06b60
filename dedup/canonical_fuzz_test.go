package dedup

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// What is accepted is accepted by another strict reader, means the same there, and is its own canonical text then.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.50,-0],"a":"\u00e9\ud83d\ude00"}`, `[1e400,10e399]`, `{"":{"":{}}}`, `"\/\b"`, ` null `, `{"a":1,"a":2}`, `[-1.0E-2]`, string(body200)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		out, err := Canonical(nil, src, nil)
		if err != nil {
			if at := err.(*ArgumentsError).Offset; at < 0 || at > len(src) {
				t.Fatalf("offset %d of %d", at, len(src))
			}
			return
		}
		sameJSON(t, src, out)
		again, err := Canonical(nil, out, nil)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q → %q → %q, %v", src, out, again, err)
		}
		if len(out) > 6*len(src) {
			t.Fatalf("%d bytes became %d", len(src), len(out))
		}
	})
}

// What is refused although the standard library reads it has one of the faults that it does not know.
func FuzzRefused(f *testing.F) {
	for _, s := range []string{`{"a":1,"\u0061":2}`, `"\ud800"`, "\"\xff\"", `1e1000000`, `[1,]`, strings.Repeat("[", 70) + strings.Repeat("]", 70)} {
		f.Add([]byte(s))
	}
	stricter := map[Fault]bool{DuplicateMember: true, LoneSurrogate: true, NotUTF8: true, ExponentRange: true, TooManyDigits: true, TooDeep: true}
	f.Fuzz(func(t *testing.T, src []byte) {
		if _, err := Canonical(nil, src, nil); err != nil && json.Valid(src) && !stricter[faultOf(err)] {
			t.Fatalf("%q is JSON and was refused: %v", src, err)
		}
	})
}

// Two spellings of a number have one form if and only if they are the same number.
func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"1 1.0", "1e400 10e399", "0.1 0.10000000000000001", "-0 0", "9007199254740992 9007199254740993", "1e-7 0.0000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pair string) {
		a, b, _ := strings.Cut(pair, " ")
		if !isNumber(a) || !isNumber(b) {
			return
		}
		checkPair(t, a, b)
	})
}

// isNumber says whether s is one number that is accepted.
func isNumber(s string) bool {
	_, err := Canonical(nil, []byte(s), nil)
	return err == nil && s[0] != '"' && strings.Trim(s, "0123456789+-.eE") == ""
}
