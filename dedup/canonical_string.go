package dedup

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// plain holds the ASCII bytes that a JSON string carries as they are.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text reads the string at i and writes it with the fewest escapes.
func (s *scanner) text(i int) int {
	src, run := s.src, i
	i++
	for {
		for i < len(src) && plain[src[i]] {
			i++
		}
		if i >= len(src) {
			return s.fail(Truncated, i)
		}
		switch c := src[i]; {
		case c == '"':
			s.out = append(s.out, src[run:i+1]...)
			return i + 1
		case c == '\\':
			s.out = append(s.out, src[run:i]...)
			if i = s.escape(i); i < 0 {
				return i
			}
			run = i
		case c < ' ':
			return s.fail(ControlCharacter, i)
		default:
			_, n := utf8.DecodeRune(src[i:])
			if n == 1 {
				return s.fail(NotUTF8, i)
			}
			i += n
		}
	}
}

// escape reads the escape at i.
func (s *scanner) escape(i int) int {
	if i+1 >= len(s.src) {
		return s.fail(Truncated, i+1)
	}
	switch c := s.src[i+1]; c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		s.out = append(s.out, '\\', c)
	case '/':
		s.out = append(s.out, '/')
	case 'u':
		return s.codePoint(i)
	default:
		return s.fail(BadEscape, i)
	}
	return i + 2
}

// codePoint reads the \uXXXX at i, and the second half of a pair behind it.
func (s *scanner) codePoint(i int) int {
	r := hex4(s.src[i+2:])
	if r < 0 {
		return s.fail(BadEscape, i)
	}
	next := i + 6
	if utf16.IsSurrogate(r) {
		low := rune(-1)
		if rest := s.src[next:]; len(rest) >= 2 && rest[0] == '\\' && rest[1] == 'u' {
			low = hex4(rest[2:])
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return s.fail(LoneSurrogate, i)
		}
		next += 6
	}
	s.out = appendEscaped(s.out, r)
	return next
}

// shortEscapes are the control characters that have an escape of two characters, each before its letter.
const shortEscapes = "\bb\ff\nn\rr\tt"

// appendEscaped appends one code point in the way RFC 8785 writes it.
func appendEscaped(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= ' ':
		return utf8.AppendRune(dst, r)
	}
	if i := strings.IndexByte(shortEscapes, byte(r)); i >= 0 {
		return append(dst, '\\', shortEscapes[i+1])
	}
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
}

// unescaped is the byte that a two-character escape of the canonical form stands for.
func unescaped(c byte) byte {
	if i := strings.IndexByte(shortEscapes, c); i > 0 {
		return shortEscapes[i-1]
	}
	return c
}

// hex4 reads four hexadecimal digits at the start of b, or returns -1.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
