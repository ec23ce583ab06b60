package dedup

import (
	"bytes"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// seeded is a source that a failing test can name.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// equalDecimals compares two JSON numbers exactly. Exponents are cut off first where they are too large for big.Rat.
func equalDecimals(a, b string) bool {
	am, ae := splitExponent(a)
	bm, be := splitExponent(b)
	x, okx := new(big.Rat).SetString(am)
	y, oky := new(big.Rat).SetString(bm)
	if !okx || !oky {
		return false
	}
	if x.Sign() == 0 || y.Sign() == 0 {
		return x.Sign() == y.Sign()
	}
	shift := ae - be
	if shift > 300 || shift < -300 {
		return false // numbers of 64 digits cannot make up for it
	}
	scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(shift, -shift))), nil))
	if shift < 0 {
		scale.Inv(scale)
	}
	return x.Mul(x, scale).Cmp(y) == 0
}

func splitExponent(s string) (mantissa string, exponent int) {
	mantissa, e, found := strings.Cut(strings.ToLower(s), "e")
	if found {
		exponent, _ = strconv.Atoi(e)
	}
	return mantissa, exponent
}

// spelling writes sign × digits × 10^exponent in one of the ways JSON allows.
func spelling(r *rand.Rand, negative bool, digits string, exponent int) string {
	digits += strings.Repeat("0", r.IntN(4))
	exponent -= len(digits) - len(strings.TrimRight(digits, "0"))
	exponent += len(strings.TrimRight(digits, "0")) // now 0.DIGITS × 10^exponent
	var s string
	switch point := r.IntN(len(digits) + 4); {
	case point == 0 || point > len(digits):
		zeros := r.IntN(4)
		s = "0." + strings.Repeat("0", zeros) + digits
		exponent += zeros
	default:
		s = digits[:point]
		if point < len(digits) {
			s += "." + digits[point:]
		} else if r.IntN(3) == 0 {
			s += ".0"
		}
		exponent -= point
	}
	if negative {
		s = "-" + s
	}
	if exponent == 0 && r.IntN(2) == 0 {
		return s
	}
	sign := ""
	if exponent >= 0 && r.IntN(2) == 0 {
		sign = "+"
	}
	return fmt.Sprintf("%s%c%s%d", s, "eE"[r.IntN(2)], sign, exponent)
}

func randomDigits(r *rand.Rand, most int) string {
	n := 1 + r.IntN(most)
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + r.IntN(10))
	}
	b[0] = byte('1' + r.IntN(9))
	b[n-1] = byte('1' + r.IntN(9))
	return string(b)
}

// Two spellings of a number have one form, and two numbers have two; big.Rat is the judge.
func TestNumbersAgainstRationals(t *testing.T) {
	r := seeded(t)
	for range 20000 {
		digits, exponent, negative := randomDigits(r, 50), r.IntN(60)-30, r.IntN(2) == 0
		if r.IntN(10) == 0 {
			exponent = r.IntN(1999000) - 999500
		}
		a := spelling(r, negative, digits, exponent)
		b := spelling(r, negative, digits, exponent)
		if r.IntN(3) == 0 { // a neighbour
			n := []byte(digits)
			n[r.IntN(len(n))] ^= 1
			b = spelling(r, negative, strings.TrimLeft(string(n), "0")+"1", exponent)
		}
		checkPair(t, a, b)
	}
}

func checkPair(t *testing.T, a, b string) {
	t.Helper()
	x, errx := Canonical(nil, []byte(a), nil)
	y, erry := Canonical(nil, []byte(b), nil)
	if errx != nil || erry != nil {
		t.Fatalf("%s: %v; %s: %v", a, errx, b, erry)
	}
	if equal := equalDecimals(a, b); bytes.Equal(x, y) != equal {
		t.Fatalf("%s → %s and %s → %s; they are equal: %v", a, x, b, y, equal)
	}
	if !equalDecimals(a, string(x)) {
		t.Fatalf("%s → %s is another number", a, x)
	}
	if again, err := Canonical(nil, x, nil); err != nil || !bytes.Equal(again, x) {
		t.Fatalf("%s → %s → %s, %v", a, x, again, err)
	}
}

// Where a double says a number exactly, its text is that of RFC 8785: what strconv calls the shortest.
func TestNumbersAsRFC8785(t *testing.T) {
	r := seeded(t)
	for range 5000 {
		f, _ := strconv.ParseFloat(fmt.Sprintf("%se%d", randomDigits(r, 15), r.IntN(60)-40), 64)
		short := strconv.FormatFloat(f, 'e', -1, 64)
		out, err := Canonical(nil, []byte(short), nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := ecmaScript(f); string(out) != want {
			t.Fatalf("%s → %s, RFC 8785 writes %s", short, out, want)
		}
	}
}

// ecmaScript writes a positive double as ECMAScript's Number::toString does.
func ecmaScript(f float64) string {
	if f >= 1e-6 && f < 1e21 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	s = strings.Replace(s, "e-0", "e-", 1)
	return strings.Replace(s, "e+0", "e+", 1)
}

// randomName draws from characters whose order differs between bytes, code points and UTF-16, and from escapes.
func randomName(r *rand.Rand) string {
	const alphabet = "ab\"\\\n\x01\x7fé\ud7ff\ue000\uffff\U00010000\U0010ffff/"
	letters := []rune(alphabet)
	name := make([]rune, r.IntN(4))
	for i := range name {
		name[i] = letters[r.IntN(len(letters))]
	}
	return string(name)
}

func TestMemberOrderDoesNotCount(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		names := map[string]bool{}
		for range r.IntN(40) {
			names[randomName(r)] = true
		}
		var members []string
		for n := range names {
			members = append(members, n)
		}
		text := func(n string) string {
			q := goQuote(t, n)
			if r.IntN(2) == 0 {
				q = escapeAll(n)
			}
			return q + ":[{" + q + ":1}]"
		}
		slices.SortFunc(members, func(a, b string) int {
			return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
		})
		var want bytes.Buffer
		for i, n := range members {
			if i > 0 {
				want.WriteByte(',')
			}
			q := appendQuoted(nil, n)
			fmt.Fprintf(&want, `%s:[{%s:1}]`, q, q)
		}
		var shuffled []string
		for _, i := range r.Perm(len(members)) {
			shuffled = append(shuffled, text(members[i]))
		}
		src := "{" + strings.Join(shuffled, " ,\n") + "}"
		out, err := Canonical(nil, []byte(src), nil)
		if err != nil || string(out) != "{"+want.String()+"}" {
			t.Fatalf("%s\n→ %s, %v\nwant {%s}", src, out, err, want.String())
		}
		if len(shuffled) > 0 { // any of them once more is refused
			twice := append(slices.Clone(shuffled), text(members[r.IntN(len(members))]))
			r.Shuffle(len(twice), func(i, j int) { twice[i], twice[j] = twice[j], twice[i] })
			if _, err := Canonical(nil, []byte("{"+strings.Join(twice, ",")+"}"), nil); faultOf(err) != DuplicateMember {
				t.Fatalf("a member twice: %v in %s", err, twice)
			}
		}
	}
}

func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		dst = appendEscaped(dst, r)
	}
	return append(dst, '"')
}

// A member left out leaves the text as if it had never stood there.
func TestIgnoredMembersLeaveNoTrace(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		var with, without []string
		var pointers []string
		used := map[string]bool{}
		for i := range 1 + r.IntN(8) {
			name := randomName(r) + strconv.Itoa(i)
			if used[name] {
				continue
			}
			used[name] = true
			m := goQuote(t, name) + `:{"v":[1,{"v":2}]}`
			with = append(with, m)
			if r.IntN(2) == 0 {
				pointers = append(pointers, "/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
				continue
			}
			without = append(without, m)
		}
		got, err := Canonical(nil, []byte("{"+strings.Join(with, ",")+"}"), pointers)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Canonical(nil, []byte("{"+strings.Join(without, ",")+"}"), nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s without %q → %s, want %s", with, pointers, got, want)
		}
	}
}

// One usual call costs no allocation, ordered or not.
func TestCanonicalDoesNotAllocate(t *testing.T) {
	if poolsForget {
		t.Skip("allocations are counted without the race detector, which makes some of its own: make unit runs it again")
	}
	dst := make([]byte, 0, 8192)
	for _, src := range [][]byte{body200, unordered(60)} {
		n := testing.AllocsPerRun(200, func() {
			if _, err := Canonical(dst, src, nil); err != nil {
				t.Fatal(err)
			}
		})
		if n >= 1 {
			t.Errorf("%v allocations for %.40s…", n, src)
		}
	}
}

// A body of millions of members, brackets or digits is read or refused in one pass and with bounded depth.
func TestLargeBodies(t *testing.T) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range 200_000 {
		fmt.Fprintf(&b, `"%d":1e20,`, i*7919%200_000)
	}
	b.WriteString(`"x":0}`)
	out, err := Canonical(nil, b.Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, b.Bytes(), out)
	for src, want := range map[string]Fault{
		strings.Repeat("[", 1<<20):        TooDeep,
		strings.Repeat("9", 1<<20):        TooManyDigits,
		"1e" + strings.Repeat("9", 1<<20): ExponentRange,
		`"` + strings.Repeat("x", 1<<20):  Truncated,
	} {
		if _, err := Canonical(nil, []byte(src), nil); faultOf(err) != want {
			t.Errorf("%.5s…: %v, want %s", src, err, want)
		}
	}
}
