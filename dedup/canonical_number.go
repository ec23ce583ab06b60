package dedup

import "strconv"

// decimal is a number as it is being read: its digits without leading zeros, as 0.DIGITS × 10^point.
type decimal struct {
	negative bool
	digits   [MaxDigits]byte
	n        int
	point    int
}

// number reads the number at i and writes its normal form. The value is never rounded and never made a float.
func (s *scanner) number(i int) int {
	start := i
	var d decimal
	if d.negative = s.src[i] == '-'; d.negative {
		i++
	}
	whole := i
	if i = s.digits(i, &d); i < 0 {
		return i
	}
	if s.src[whole] == '0' && i > whole+1 {
		return s.fail(BadNumber, whole+1)
	}
	if i >= len(s.src) || s.src[i] != '.' && s.src[i]|0x20 != 'e' {
		if i-whole <= fixedDigits && s.src[whole] != '0' {
			s.out = append(s.out, s.src[start:i]...)
			return i
		}
	}
	d.point = d.n
	if i < len(s.src) && s.src[i] == '.' {
		fraction := i + 1
		if i = s.digits(fraction, &d); i < 0 {
			return i
		}
		if d.point == 0 { // zeros behind the point move it to the left
			d.point = d.n - (i - fraction)
		}
	}
	exponent := 0
	if i < len(s.src) && s.src[i]|0x20 == 'e' {
		if exponent, i = s.exponent(i + 1); i < 0 {
			return i
		}
	}
	d.point += exponent
	if !d.trim() {
		return s.fail(ExponentRange, start)
	}
	s.out = d.append(s.out)
	return i
}

// digits reads at least one digit at i.
func (s *scanner) digits(i int, d *decimal) int {
	first := i
	for ; i < len(s.src) && s.src[i]-'0' <= 9; i++ {
		if d.n == 0 && s.src[i] == '0' {
			continue
		}
		if d.n == MaxDigits {
			return s.fail(TooManyDigits, i)
		}
		d.digits[d.n] = s.src[i]
		d.n++
	}
	if i == first {
		return s.fail(BadNumber, i)
	}
	return i
}

// exponent reads the sign and the digits of an exponent.
func (s *scanner) exponent(i int) (value, next int) {
	sign, start := 1, i
	if i < len(s.src) && (s.src[i] == '-' || s.src[i] == '+') {
		if s.src[i] == '-' {
			sign = -1
		}
		i++
	}
	first := i
	for ; i < len(s.src) && s.src[i]-'0' <= 9; i++ {
		if value = value*10 + int(s.src[i]-'0'); value > MaxExponent {
			return 0, s.fail(ExponentRange, start)
		}
	}
	if i == first {
		return 0, s.fail(BadNumber, i)
	}
	return sign * value, i
}

// trim drops zeros at the end and says whether the exponent is in range.
func (d *decimal) trim() bool {
	for d.n > 0 && d.digits[d.n-1] == '0' {
		d.n--
	}
	return d.n == 0 || d.point-1 <= MaxExponent && d.point-1 >= -MaxExponent
}

// Where the normal form leaves fixed notation: the bounds of ECMAScript, which RFC 8785 takes over.
const (
	fixedDigits = 21 // before the point
	fixedZeros  = 5  // between the point and the first digit
)

// append writes the number as RFC 8785 would if it had all its digits: in fixed notation where that is short, else with
// one digit before the point and a signed exponent.
func (d *decimal) append(dst []byte) []byte {
	digits, point := d.digits[:d.n], d.point
	if d.n == 0 {
		return append(dst, '0')
	}
	if d.negative {
		dst = append(dst, '-')
	}
	switch {
	case d.n <= point && point <= fixedDigits:
		return appendZeros(append(dst, digits...), point-d.n)
	case 0 < point && point <= fixedDigits:
		return append(append(append(dst, digits[:point]...), '.'), digits[point:]...)
	case -fixedZeros <= point && point <= 0:
		return append(appendZeros(append(dst, "0."...), -point), digits...)
	}
	if dst = append(dst, digits[0]); d.n > 1 {
		dst = append(append(dst, '.'), digits[1:]...)
	}
	if dst = append(dst, 'e'); point > 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(point-1), 10)
}

func appendZeros(dst []byte, n int) []byte {
	return append(dst, "000000000000000000000"[:n]...)
}
