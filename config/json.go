package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
)

// jsonAsYAML rewrites what is JSON but not read by the YAML parser: escaped slashes, surrogate pairs, tabs between
// tokens. Anything but a JSON object is returned as it is.
func jsonAsYAML(data []byte) []byte {
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(data) {
		return data
	}
	out := make([]byte, 0, len(data)+16)
	quoted := false
	for i := 0; i < len(data); i++ {
		c := data[i]
		switch {
		case c == '"':
			quoted = !quoted
			out = append(out, c)
		case !quoted && c == '\t':
			out = append(out, ' ')
		case quoted && c == '\\':
			var n int
			out, n = escape(out, data[i:])
			i += n - 1
		default:
			out = append(out, c)
		}
	}
	return out
}

// escape appends the escape that text begins with and returns its length in text.
func escape(out, text []byte) ([]byte, int) {
	switch {
	case text[1] == '/':
		return append(out, '/'), 2
	case text[1] != 'u':
		return append(out, text[:2]...), 2
	case len(text) >= 12 && text[6] == '\\' && text[7] == 'u':
		high, _ := strconv.ParseUint(string(text[2:6]), 16, 32)
		low, _ := strconv.ParseUint(string(text[8:12]), 16, 32)
		if r := utf16.DecodeRune(rune(high), rune(low)); r != '\uFFFD' {
			return fmt.Appendf(out, `\U%08X`, r), 12
		}
	}
	return append(out, text[:6]...), 6
}
