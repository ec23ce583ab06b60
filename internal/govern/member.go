package govern

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// What stands here walks JSON text that the strict scanner has passed: it is well-formed, has no duplicate members and
// no lone surrogates. Nothing of it is decoded and written again, so the rest of the text stays byte for byte.

var errNoObject = errors.New("no object")

// setMember returns the JSON document with the member at the pointer (RFC 6901) set to a string. The objects around the
// member must be there.
func setMember(doc []byte, pointer, value string) ([]byte, error) {
	names := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, name := range names {
		names[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	at, last := skipSpace(doc, 0), len(names)-1
	for _, name := range names[:last] {
		from, _, found := member(doc, at, name)
		if !found {
			return nil, errNoObject
		}
		at = from
	}
	if doc[at] != '{' {
		return nil, errNoObject
	}
	if from, to, found := member(doc, at, names[last]); found {
		return slices.Concat(doc[:from], appendJSON(nil, value), doc[to:]), nil
	}
	return insertMember(doc, at, names[last], value), nil
}

// insertMember puts a new first member into the object that begins at doc[at].
func insertMember(doc []byte, at int, name, value string) []byte {
	text := appendJSON(append(appendJSON(nil, name), ':'), value)
	if doc[skipSpace(doc, at+1)] != '}' {
		text = append(text, ',')
	}
	return slices.Concat(doc[:at+1], text, doc[at+1:])
}

// member finds the value of the named member of what begins at doc[at], if that is an object.
func member(doc []byte, at int, name string) (from, to int, found bool) {
	if doc[at] != '{' {
		return 0, 0, false
	}
	i := skipSpace(doc, at+1)
	for doc[i] != '}' {
		end := skipString(doc, i)
		from = skipSpace(doc, skipSpace(doc, end)+1)
		to = skipValue(doc, from)
		if unquote(doc[i:end]) == name {
			return from, to, true
		}
		if i = skipSpace(doc, to); doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
	}
	return 0, 0, false
}

func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\n' || doc[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at doc[i].
func skipString(doc []byte, i int) int {
	for i++; doc[i] != '"'; i++ {
		if doc[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the index behind the value that begins at doc[i].
func skipValue(doc []byte, i int) int {
	for depth := 0; i < len(doc); {
		switch doc[i] {
		case '"':
			i = skipString(doc, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			i++
			continue
		default:
			for i < len(doc) && strings.IndexByte(",:]} \t\n\r", doc[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			break
		}
	}
	return i
}

// unquote is the text of a JSON string.
func unquote(literal []byte) string {
	s := literal[1 : len(literal)-1]
	if slices.Index(s, '\\') < 0 {
		return string(s)
	}
	text := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			text = append(text, s[i])
		case s[i+1] != 'u':
			i++
			text = append(text, unescaped(s[i]))
		default:
			r := hex4(s[i+2:])
			i += 5
			if utf16.IsSurrogate(r) { // its other half follows
				r = utf16.DecodeRune(r, hex4(s[i+3:]))
				i += 6
			}
			text = utf8.AppendRune(text, r)
		}
	}
	return string(text)
}

// unescaped is the byte for which the letter behind a backslash stands.
func unescaped(letter byte) byte {
	if i := strings.IndexByte("bfnrt", letter); i >= 0 {
		return "\b\f\n\r\t"[i]
	}
	return letter
}

func hex4(s []byte) (r rune) {
	for _, c := range s[:4] {
		r = r<<4 | rune(strings.IndexByte(hexDigits, c|0x20))
	}
	return r
}
