package tool

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Money is an amount in integer micro-USD.
type Money int64

const (
	// USD is one US dollar.
	USD Money = 1_000_000
	// MaxMoney is the largest amount that is read: a million million dollars. Nine of them still add up in an int64.
	MaxMoney = 1_000_000_000_000 * USD

	moneyDecimals = 6
	maxMoneyText  = 64  // characters of one amount
	maxExponent   = 400 // beyond what a float64 can be printed with
)

var (
	errMoneySyntax   = errors.New(`is not an amount; write dollars as a decimal such as "0.50"`)
	errMoneyNegative = errors.New("is negative; an amount is zero or more")
	errMoneyDecimals = errors.New("has more than six decimals; the smallest amount is 0.000001")
	errMoneyTooLarge = errors.New("is too large; the largest amount is " + MaxMoney.String())
)

// ParseMoney reads the amount of a configuration: decimal dollars without sign or exponent, at most six decimals,
// at most MaxMoney.
func ParseMoney(s string) (Money, error) { return parseMoney(s, false) }

// ParseMoneyCeil reads an amount from the wire: a JSON number's text, where what lies beyond six decimals is rounded
// up, so that nobody is charged less than was said. Negative amounts, NaN, infinities and absurd lengths and exponents
// are errors.
func ParseMoneyCeil(s string) (Money, error) { return parseMoney(s, true) }

func parseMoney(s string, wire bool) (Money, error) {
	m, err := readMoney(s, wire)
	if err != nil {
		return 0, fmt.Errorf("%q %w", shorten(s), err)
	}
	return m, nil
}

func readMoney(s string, wire bool) (Money, error) {
	if strings.HasPrefix(s, "-") {
		return 0, errMoneyNegative
	}
	if len(s) > maxMoneyText {
		return 0, errMoneySyntax
	}
	mantissa, exp := s, 0
	if i := strings.IndexAny(s, "eE"); wire && i >= 0 {
		var ok bool
		if exp, ok = parseExponent(s[i+1:]); !ok {
			return 0, errMoneySyntax
		}
		mantissa = s[:i]
	}
	whole, frac, point := strings.Cut(mantissa, ".")
	if !isDigits(whole) || point && !isDigits(frac) {
		return 0, errMoneySyntax
	}
	return scaleMoney(whole+frac, moneyDecimals+exp-len(frac), wire)
}

// scaleMoney reads digits × 10^shift micro-USD.
func scaleMoney(digits string, shift int, ceil bool) (Money, error) {
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return 0, nil
	}
	if shift < 0 {
		keep := max(len(digits)+shift, 0)
		lost := strings.Trim(digits[keep:], "0") != ""
		if lost && !ceil {
			return 0, errMoneyDecimals
		}
		m, err := scaleMoney(digits[:keep], 0, ceil)
		if err == nil && lost {
			m++
		}
		return checkMoney(m, err)
	}
	if len(digits)+shift > 19 {
		return 0, errMoneyTooLarge
	}
	var m uint64 // 19 digits fit
	for _, d := range digits + strings.Repeat("0", shift) {
		m = m*10 + uint64(d-'0')
	}
	if m > uint64(MaxMoney) {
		return 0, errMoneyTooLarge
	}
	return Money(m), nil
}

func checkMoney(m Money, err error) (Money, error) {
	if err == nil && m > MaxMoney {
		return 0, errMoneyTooLarge
	}
	return m, err
}

func parseExponent(s string) (int, bool) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "+"), "-")
	if len(s)-len(digits) > 1 || !isDigits(digits) || len(digits) > 3 {
		return 0, false
	}
	n := 0
	for _, d := range digits {
		n = n*10 + int(d-'0')
	}
	if n > maxExponent {
		return 0, false
	}
	if s[0] == '-' {
		n = -n
	}
	return n, true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func shorten(s string) string {
	if len(s) > maxMoneyText {
		return s[:maxMoneyText] + "…"
	}
	return s
}

// String is the exact decimal in dollars, without trailing zeros: 0.5, 50, 0.000001.
func (m Money) String() string {
	sign, u := "", uint64(m)
	if m < 0 {
		sign, u = "-", -u
	}
	whole, frac := u/uint64(USD), u%uint64(USD)
	b := strconv.AppendUint(append(make([]byte, 0, 32), sign...), whole, 10)
	if frac > 0 {
		b = append(b, '.')
	}
	for unit := uint64(USD) / 10; frac > 0; unit /= 10 {
		b = append(b, byte('0'+frac/unit))
		frac %= unit
	}
	return string(b)
}

// MarshalText is String.
func (m Money) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMoney.
func (m *Money) UnmarshalText(text []byte) error {
	v, err := ParseMoney(string(text))
	if err == nil {
		*m = v
	}
	return err
}
