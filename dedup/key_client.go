package dedup

import (
	"errors"
	"strings"
)

// MaxClientKey is the longest Idempotency-Key in bytes, without its quotes and escapes.
const MaxClientKey = 255

// ErrKeyMalformed says that an Idempotency-Key cannot be used.
var ErrKeyMalformed = errors.New(`the Idempotency-Key cannot be read; send one header of 1 to 255 visible ASCII characters, bare (my-key-1) or as a structured string ("my-key-1")`)

// ParseClientKey reads the values of the Idempotency-Key header and returns the key, or "" when there are none.
//
// A value is a string of RFC 8941 (in quotes, with \" and \\ as its escapes; inside them a space may stand) or bare: visible
// ASCII without quotes. "k" and k are the same key. Parameters behind the string are refused: the draft
// (draft-ietf-httpapi-idempotency-key-header) gives them no meaning, and a key that another program reads otherwise
// is no key. So is an empty one, and more than one header.
func ParseClientKey(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", ErrKeyMalformed
	}
	value := trimSpace(values[0])
	key, ok := value, isBareKey(value)
	if strings.HasPrefix(value, `"`) {
		key, ok = unquoteKey(value)
	}
	if !ok || key == "" || len(key) > MaxClientKey {
		return "", ErrKeyMalformed
	}
	return key, nil
}

func isBareKey(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' {
			return false
		}
	}
	return true
}

// unquoteKey reads a string of RFC 8941, section 3.3.3, of which nothing may be left.
func unquoteKey(s string) (string, bool) {
	key := make([]byte, 0, len(s))
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return string(key), i == len(s)-1
		case c < ' ' || c >= 0x7f:
			return "", false
		case c == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
			key = append(key, s[i])
		default:
			key = append(key, c)
		}
	}
	return "", false
}
