package tool

import (
	"fmt"
	"strings"
)

// CheckPath refuses a path of a tool host that two servers could read differently: encoded dots, slashes, backslashes,
// percent signs, NULs and unreserved characters, malformed escapes, empty and dot segments, parameters (;), backslashes
// and what no path can hold. The path is escaped, as it stands on the wire, without its query. With encodedSlash %2f
// passes.
func CheckPath(path string, encodedSlash bool) error {
	if path == "" || path[0] != '/' {
		return pathError("does not begin with /")
	}
	encoded := false
	for i := 0; i < len(path); i++ {
		switch c := path[i]; c {
		case ';', '\\', '?', '#':
			return pathError("holds " + string(rune(c)))
		case '/':
			if err := checkSegment(path[i+1:]); err != nil {
				return err
			}
		case '%':
			if err := checkEscape(path[i:], encodedSlash); err != nil {
				return err
			}
			encoded = true // of those that pass, only a slash could hide a dot segment
			i += 2
		default:
			if c <= ' ' || c >= 0x7f {
				return pathError("holds a byte that is no printable ASCII")
			}
		}
	}
	if encoded && encodedSlash {
		for segment := range strings.SplitSeq(encodedSlashes.Replace(path), "/") {
			if segment == "." || segment == ".." {
				return pathError("holds a dot segment behind an encoded slash")
			}
		}
	}
	return nil
}

var encodedSlashes = strings.NewReplacer("%2f", "/", "%2F", "/")

// checkSegment judges the segment that begins rest.
func checkSegment(rest string) error {
	switch {
	case strings.HasPrefix(rest, "/"):
		return pathError("holds //")
	case rest == ".", strings.HasPrefix(rest, "./"), rest == "..", strings.HasPrefix(rest, "../"):
		return pathError("holds a dot segment")
	}
	return nil
}

// checkEscape judges the escape that begins rest.
func checkEscape(rest string, encodedSlash bool) error {
	if len(rest) < 3 {
		return pathError("ends within an escape")
	}
	high, ok1 := fromHex(rest[1])
	low, ok2 := fromHex(rest[2])
	if !ok1 || !ok2 {
		return pathError("holds a % that is no escape")
	}
	c := high<<4 | low
	switch {
	case c == '/' && encodedSlash:
		return nil
	case c == 0, c == '/', c == '\\', c == '%', isUnreserved(c):
		return pathError(fmt.Sprintf("holds the escape %%%02x", c))
	}
	return nil
}

type pathError string

func (e pathError) Error() string {
	return "path " + string(e) + ": servers read it in more than one way"
}

func fromHex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// isUnreserved is RFC 3986, section 2.3.
func isUnreserved(c byte) bool {
	return isAlphanumeric(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// foldPath is the path with everything dropped that lax servers overlook: the case of letters, escapes, one slash at
// the end. It is used to refuse, never to match.
func foldPath(path string) string {
	path = strings.TrimSuffix(path, "/")
	if strings.Contains(path, "%") {
		path = unescape(path)
	}
	return strings.ToLower(path)
}

// unescape decodes every escape but that of a slash, which would make another segment.
func unescape(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			high, ok1 := fromHex(path[i+1])
			low, ok2 := fromHex(path[i+2])
			if c := high<<4 | low; ok1 && ok2 && c != '/' {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}
