package dedup

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/oo-sidecar/oo-sidecar/internal/needed"
)

// readVectors reads a file of published vectors.
func readVectors(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestCanonicalVectors(t *testing.T) {
	var vectors []struct {
		Label  string
		In     string
		InHex  string `json:"in_hex"`
		Ignore []string
		Out    *string
		Fault  Fault
		At     int
	}
	readVectors(t, "canonical.json", &vectors)
	for _, v := range vectors {
		t.Run(v.Label, func(t *testing.T) {
			src := []byte(v.In)
			if v.InHex != "" {
				src, _ = hex.DecodeString(v.InHex)
			}
			before := bytes.Clone(src)
			out, err := Canonical([]byte("kept"), src, v.Ignore)
			if !bytes.Equal(src, before) {
				t.Error("the source was changed")
			}
			if v.Out == nil {
				if faultTexts[v.Fault] == "" {
					t.Fatalf("%s has no sentence", v.Fault)
				}
				var bad *ArgumentsError
				if !errors.As(err, &bad) || bad.Fault != v.Fault || bad.Offset != v.At {
					t.Fatalf("%q: %v, want %s at %d", src, err, v.Fault, v.At)
				}
				if string(out) != "kept" {
					t.Errorf("out is %q after an error", out)
				}
				return
			}
			if err != nil || string(out) != "kept"+*v.Out {
				t.Fatalf("%q: %q, %v, want %q", src, out, err, *v.Out)
			}
			again, err := Canonical(nil, []byte(*v.Out), nil)
			if err != nil || string(again) != *v.Out {
				t.Errorf("canonical form of %q is %q, %v", *v.Out, again, err)
			}
		})
	}
}

// Every fault has a sentence and a vector, and the sentence repeats nothing of the arguments.
func TestFaultsHaveSentences(t *testing.T) {
	text, err := os.ReadFile("testdata/canonical.json")
	if err != nil {
		t.Fatal(err)
	}
	for f, sentence := range faultTexts {
		if sentence == "" {
			t.Errorf("%s has no sentence", f)
		}
		if f != TooLong && !bytes.Contains(text, fmt.Appendf(nil, `"fault": %q`, f)) {
			t.Errorf("no vector shows %s", f)
		}
	}
	const secret = "sk_live_51H"
	_, err = Canonical(nil, []byte(`{"key":"`+secret+`\q"}`), nil)
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "byte 19") {
		t.Errorf("error %v should name byte 19 and repeat nothing", err)
	}
}

// iFiles is what becomes of the files that a JSON parser may accept or refuse: the canonical text or the fault.
var iFiles = map[string]string{
	"i_number_double_huge_neg_exp.json":                   "[1.23456e-787]",
	"i_number_huge_exp.json":                              "exponent_range",
	"i_number_neg_int_huge_exp.json":                      "[-1e+9999]",
	"i_number_pos_double_huge_exp.json":                   "[1.5e+9999]",
	"i_number_real_neg_overflow.json":                     "[-1.23123e+100005]",
	"i_number_real_pos_overflow.json":                     "[1.23123e+100005]",
	"i_number_real_underflow.json":                        "exponent_range",
	"i_number_too_big_neg_int.json":                       "[-1.23123123123123123123123123123e+29]",
	"i_number_too_big_pos_int.json":                       "[100000000000000000000]",
	"i_number_very_big_negative_int.json":                 "[-2.37462374673276894279832749832423479823246327846e+47]",
	"i_object_key_lone_2nd_surrogate.json":                "lone_surrogate",
	"i_string_1st_surrogate_but_2nd_missing.json":         "lone_surrogate",
	"i_string_1st_valid_surrogate_2nd_invalid.json":       "lone_surrogate",
	"i_string_UTF-16LE_with_BOM.json":                     "bad_syntax",
	"i_string_UTF-8_invalid_sequence.json":                "not_utf8",
	"i_string_UTF8_surrogate_U+D800.json":                 "not_utf8",
	"i_string_incomplete_surrogate_and_escape_valid.json": "lone_surrogate",
	"i_string_incomplete_surrogate_pair.json":             "lone_surrogate",
	"i_string_incomplete_surrogates_escape_valid.json":    "lone_surrogate",
	"i_string_invalid_lonely_surrogate.json":              "lone_surrogate",
	"i_string_invalid_surrogate.json":                     "lone_surrogate",
	"i_string_invalid_utf-8.json":                         "not_utf8",
	"i_string_inverted_surrogates_U+1D11E.json":           "lone_surrogate",
	"i_string_iso_latin_1.json":                           "not_utf8",
	"i_string_lone_second_surrogate.json":                 "lone_surrogate",
	"i_string_lone_utf8_continuation_byte.json":           "not_utf8",
	"i_string_not_in_unicode_range.json":                  "not_utf8",
	"i_string_overlong_sequence_2_bytes.json":             "not_utf8",
	"i_string_overlong_sequence_6_bytes.json":             "not_utf8",
	"i_string_overlong_sequence_6_bytes_null.json":        "not_utf8",
	"i_string_truncated-utf-8.json":                       "not_utf8",
	"i_string_utf16BE_no_BOM.json":                        "bad_syntax",
	"i_string_utf16LE_no_BOM.json":                        "bad_syntax",
	"i_structure_500_nested_arrays.json":                  "too_deep",
	"i_structure_UTF-8_BOM_empty_object.json":             "byte_order_mark",
}

func TestJSONTestSuite(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(needed.Corpus(t, "json-parsing"), "?_*.json"))
	if err != nil || len(files) < 300 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		out, err := Canonical(nil, src, nil)
		switch name[0] {
		case 'n':
			if err == nil {
				t.Errorf("%s was accepted as %q", name, out)
			}
		case 'y':
			want := Fault("")
			if strings.HasPrefix(name, "y_object_duplicated_key") {
				want = DuplicateMember
			}
			if got := faultOf(err); got != want {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		case 'i':
			got := string(out)
			if err != nil {
				got = string(faultOf(err))
			}
			if got != iFiles[name] {
				t.Errorf("%s: %q, the table says %q", name, got, iFiles[name])
			}
		}
		if err == nil {
			sameJSON(t, src, out)
		}
	}
}

func faultOf(err error) Fault {
	var bad *ArgumentsError
	if errors.As(err, &bad) {
		return bad.Fault
	}
	if err != nil {
		return "another error"
	}
	return ""
}

// strictly reads JSON by means of the standard library, refusing a second value and keeping numbers as text.
func strictly(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err == nil {
		return nil, errors.New("a second value")
	}
	return v, nil
}

// sameJSON checks by another reader that src and its canonical text out mean the same.
func sameJSON(t *testing.T, src, out []byte) {
	t.Helper()
	a, err := strictly(src)
	if err != nil {
		t.Errorf("%q was accepted, and is not JSON: %v", src, err)
		return
	}
	b, err := strictly(out)
	if err != nil {
		t.Errorf("the canonical text %q of %q is not JSON: %v", out, src, err)
		return
	}
	if !equalJSON(a, b) {
		t.Errorf("%q and its canonical text %q differ in meaning", src, out)
	}
}

func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		return ok && equalDecimals(string(a), string(b))
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equalJSON)
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			w, ok := b[k]
			if !ok || !equalJSON(v, w) {
				return false
			}
		}
		return true
	}
	return a == b
}

func TestNaughtyStrings(t *testing.T) {
	text, err := os.ReadFile(needed.Corpus(t, "strings/blns.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) < 500 {
		t.Fatalf("only %d strings", len(list))
	}
	seen := map[string]string{}
	for _, s := range list {
		spellings := []string{escapeAll(s), goQuote(t, s)}
		var canonical string
		for i, q := range spellings {
			out, err := Canonical(nil, fmt.Appendf(nil, `{"s":%s,%s:0}`, q, escapeAll(s+"name")), nil)
			if err != nil {
				t.Fatalf("%s: %v", q, err)
			}
			if i > 0 && string(out) != canonical {
				t.Errorf("two spellings of %q: %s and %s", s, canonical, out)
			}
			canonical = string(out)
		}
		var back map[string]any
		if err := json.Unmarshal([]byte(canonical), &back); err != nil || back["s"] != s {
			t.Errorf("%q came back as %q, %v", s, back["s"], err)
		}
		if other, ok := seen[canonical]; ok && other != s {
			t.Errorf("%q and %q have one form", s, other)
		}
		seen[canonical] = s
	}
}

func goQuote(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// escapeAll writes every UTF-16 code unit of s as an escape.
func escapeAll(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, u := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&b, `\u%04X`, u)
	}
	b.WriteByte('"')
	return b.String()
}
