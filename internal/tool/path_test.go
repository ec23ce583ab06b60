package tool

import (
	"fmt"
	"strings"
	"testing"
)

func TestCheckPath(t *testing.T) {
	for _, path := range []string{"/", "/v1/charges", "/v1/charges/", "/a%20b", "/caf%C3%A9", "/a:b@c!$&'()*+,=", "/.well-known/x", "/a./b", "/...", "/..a",
		"/a%3Ab", "/%3b", "/~x", "/a-b_c", "/a%0d"} {
		if err := CheckPath(path, false); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	for path, want := range map[string]string{
		"":              "does not begin with /",
		"v1":            "does not begin with /",
		"*":             "does not begin with /",
		"/a%00":         "%00",
		"/%2e%2e/b":     "%2e",
		"/%2E":          "%2e",
		"/a%2fb":        "%2f",
		"/a%2Fb":        "%2f",
		"/a%5cb":        "%5c",
		"/a%5C":         "%5c",
		"/a%252fb":      "%25",
		"/%72efunds":    "%72",
		"/%52efunds":    "%52",
		"/a%7e":         "%7e",
		"/a%2D":         "%2d",
		"/a%5f":         "%5f",
		"/%30":          "%30",
		"//":            "//",
		"//v1":          "//",
		"/v1//charges":  "//",
		"/v1/charges//": "//",
		"/./a":          "dot segment",
		"/a/./b":        "dot segment",
		"/a/.":          "dot segment",
		"/..":           "dot segment",
		"/a/../b":       "dot segment",
		"/a/..":         "dot segment",
		"/a;b":          ";",
		"/..;/a":        ";",
		`/a\b`:          `\`,
		"/a?b":          "?",
		"/a#b":          "#",
		"/a b":          "printable",
		"/a\x00":        "printable",
		"/a\x7f":        "printable",
		"/\u00e9":       "printable",
		"/a%":           "ends within an escape",
		"/a%2":          "ends within an escape",
		"/a%zz":         "no escape",
		"/a%2g":         "no escape",
		"/a%u0041":      "no escape",
	} {
		if err := CheckPath(path, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error about %s", path, err, want)
		}
	}
}

func TestCheckPathWithEncodedSlash(t *testing.T) {
	for _, path := range []string{"/a%2fb", "/a%2F", "/%2f%2f", "/a%2f...", "/a%2f.b", "/a%20."} {
		if err := CheckPath(path, true); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{"/a%2f..%2e", "/a%2f..%2Fb", "/a%2F.", "/..%2fb", "/a/.%2f", "/a%5c", "/a//b", "/a%252f", "/a%00"} {
		if CheckPath(path, true) == nil {
			t.Errorf("%q passed", path)
		}
	}
}

// Every escape of every byte, in both spellings: exactly the listed ones are refused.
func TestCheckPathJudgesEveryEscape(t *testing.T) {
	for c := range 256 {
		refused := c == 0 || strings.ContainsRune(`/\%-._~`, rune(c)) ||
			c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		for _, format := range []string{"/x%%%02x", "/x%%%02X"} {
			path := fmt.Sprintf(format, c)
			if got := CheckPath(path, false) != nil; got != refused {
				t.Errorf("%q: refused %t, want %t", path, got, refused)
			}
		}
	}
}

// FuzzCheckPath: a path that passes reads the same after decoding its escapes, as lax servers do, and after cleaning.
func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"/v1/charges", "/%2e", "/a/../b", "/%72", "/a%2fb", "/%", "/a;b", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckPath(path, false) != nil {
			return
		}
		decoded := unescape(path)
		if strings.Count(decoded, "/") != strings.Count(path, "/") {
			t.Fatalf("%q has other segments when decoded: %q", path, decoded)
		}
		for _, s := range strings.Split(decoded[1:], "/") {
			if s == "." || s == ".." {
				t.Fatalf("%q has a dot segment when decoded", path)
			}
		}
		if strings.ContainsAny(decoded, "%\\\x00") || strings.Contains(path, "//") {
			t.Fatalf("%q decodes to %q", path, decoded)
		}
	})
}
