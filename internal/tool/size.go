package tool

import (
	"fmt"
	"math"
	"strconv"
)

// Size is a number of bytes, written as 512B, 64KiB, 8MiB or 4GiB.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}} // the largest first: String takes the first that divides

// ParseSize reads a whole number followed by its unit: B, KiB, MiB or GiB. A bare number is an error.
func ParseSize(s string) (Size, error) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size; write a whole number with its unit, such as 8MiB", shorten(s))
	}
	for _, u := range sizeUnits {
		if s[end:] != u.name {
			continue
		}
		if n > math.MaxInt64/int64(u.bytes) {
			return 0, fmt.Errorf("size %q is too large", shorten(s))
		}
		return Size(n) * u.bytes, nil
	}
	return 0, fmt.Errorf("size %q lacks a unit that is known; write %dB, %[2]dKiB, %[2]dMiB or %[2]dGiB", shorten(s), n)
}

// String is the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return "0B"
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSize.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	if err == nil {
		*s = v
	}
	return err
}
