package tool

import (
	"encoding"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
)

var (
	_ encoding.TextUnmarshaler = new(Money)
	_ encoding.TextMarshaler   = Money(0)
	_ encoding.TextUnmarshaler = new(Size)
	_ encoding.TextMarshaler   = Size(0)
)

func TestMoney(t *testing.T) {
	for _, v := range []struct {
		text        string
		exact, ceil any // Money, or the error
	}{
		{"0", Money(0), Money(0)},
		{"0.50", Money(500_000), Money(500_000)},
		{"50", 50 * USD, 50 * USD},
		{"007", 7 * USD, 7 * USD},
		{"0.000001", Money(1), Money(1)},
		{"0.0000010", Money(1), Money(1)},
		{"0.10000000000000000000", Money(100_000), Money(100_000)},
		{"9007199254.740993", Money(9007199254740993), Money(9007199254740993)},
		{"1000000000000", MaxMoney, MaxMoney},
		{"1000000000000.000000", MaxMoney, MaxMoney},

		{"0.0000001", errMoneyDecimals, Money(1)},
		{"0.0000019", errMoneyDecimals, Money(2)},
		{"0.9999999", errMoneyDecimals, Money(1_000_000)},
		{"1.0000000000000000000000000000001", errMoneyDecimals, Money(1_000_001)},
		{"1e2", errMoneySyntax, 100 * USD},
		{"1E+2", errMoneySyntax, 100 * USD},
		{"1.5e-7", errMoneySyntax, Money(1)},
		{"1e-400", errMoneySyntax, Money(1)},
		{"0e400", errMoneySyntax, Money(0)},
		{"0e-400", errMoneySyntax, Money(0)},
		{"123456e-6", errMoneySyntax, Money(123456)},
		{"100000000000000e-2", errMoneySyntax, MaxMoney},

		{"1000000000000.000001", errMoneyTooLarge, errMoneyTooLarge},
		{"1000000000000.0000001", errMoneyDecimals, errMoneyTooLarge},
		{"9223372036854.775808", errMoneyTooLarge, errMoneyTooLarge},
		{"99999999999999999999", errMoneyTooLarge, errMoneyTooLarge},
		{"1e13", errMoneySyntax, errMoneyTooLarge},
		{"1e400", errMoneySyntax, errMoneyTooLarge},
		{"1e401", errMoneySyntax, errMoneySyntax},
		{"1e999999999", errMoneySyntax, errMoneySyntax},
		{"1e-999999999", errMoneySyntax, errMoneySyntax},
		{"-1", errMoneyNegative, errMoneyNegative},
		{"-0", errMoneyNegative, errMoneyNegative},
		{"-0.0000001", errMoneyNegative, errMoneyNegative},
		{strings.Repeat("0", 65), errMoneySyntax, errMoneySyntax},
	} {
		checkMoneyParse(t, "ParseMoney", v.text, ParseMoney, v.exact)
		checkMoneyParse(t, "ParseMoneyCeil", v.text, ParseMoneyCeil, v.ceil)
	}
	for _, text := range []string{"", ".", "1.", ".5", "+1", "1,5", "1_000", "$1", "1 ", " 1", "1.2.3", "NaN", "Inf", "0x1", "1e", "e1", "1e+", "1e+-1",
		"1e1.5", "one", "٣"} {
		checkMoneyParse(t, "ParseMoney", text, ParseMoney, errMoneySyntax)
		checkMoneyParse(t, "ParseMoneyCeil", text, ParseMoneyCeil, errMoneySyntax)
	}
}

func checkMoneyParse(t *testing.T, name, text string, parse func(string) (Money, error), want any) {
	t.Helper()
	got, err := parse(text)
	switch want := want.(type) {
	case Money:
		if err != nil || got != want {
			t.Errorf("%s(%q) = %d, %v; want %d", name, text, got, err, want)
		}
	case error:
		if !errors.Is(err, want) || got != 0 {
			t.Errorf("%s(%q) = %d, %v; want the error %v", name, text, got, err, want)
		}
	}
}

func TestMoneyString(t *testing.T) {
	for m, want := range map[Money]string{0: "0", 1: "0.000001", 500_000: "0.5", 1_000_000: "1", 50_250_000: "50.25", -1: "-0.000001",
		-1_500_000: "-1.5", MaxMoney: "1000000000000", math.MinInt64: "-9223372036854.775808", math.MaxInt64: "9223372036854.775807"} {
		if got := m.String(); got != want {
			t.Errorf("%d is %q, want %q", int64(m), got, want)
		}
	}
}

func TestMoneyText(t *testing.T) {
	m := Money(7)
	if err := m.UnmarshalText([]byte("-1")); err == nil || m != 7 {
		t.Errorf("a bad text: %v, and left %d", err, m)
	}
	if err := m.UnmarshalText([]byte("0.25")); err != nil || m != 250_000 {
		t.Errorf("0.25 became %d, %v", m, err)
	}
	if text, err := m.MarshalText(); err != nil || string(text) != "0.25" {
		t.Errorf("written as %q, %v", text, err)
	}
}

// FuzzMoney compares both readers with rational arithmetic, and reads back what String writes.
func FuzzMoney(f *testing.F) {
	for _, s := range []string{"0", "1.5", "0.0000001", "1e-7", "999999999999.9999999", "12e3", "-1", "1e13"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ceil, err := ParseMoneyCeil(s)
		if err != nil {
			if m, err := ParseMoney(s); err == nil {
				t.Fatalf("%q is %d in a configuration and nothing on the wire", s, m)
			}
			return
		}
		exact, ok := new(big.Rat).SetString(s)
		if !ok {
			t.Fatalf("%q is no number and became %d", s, ceil)
		}
		exact.Mul(exact, big.NewRat(int64(USD), 1))
		over := new(big.Rat).Sub(new(big.Rat).SetInt64(int64(ceil)), exact)
		if over.Sign() < 0 || over.Cmp(big.NewRat(1, 1)) >= 0 {
			t.Fatalf("%q became %d", s, ceil)
		}
		if m, err := ParseMoney(s); err == nil && (m != ceil || over.Sign() != 0) {
			t.Fatalf("%q is %d in a configuration and %d on the wire", s, m, ceil)
		}
		if back, err := ParseMoney(ceil.String()); err != nil || back != ceil {
			t.Fatalf("%q was written as %q and read as %d, %v", s, ceil, back, err)
		}
	})
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0B": 0, "512B": 512, "64KiB": 64 << 10, "8MiB": 8 << 20, "4GiB": 4 << 30, "1025B": 1025,
		"9223372036854775807B": math.MaxInt64, "8589934591GiB": 8589934591 << 30} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("%q is written as %q", text, got)
		}
	}
	for text, want := range map[string]string{"8": "write 8B, 8KiB, 8MiB or 8GiB", "8MB": "lacks a unit that is known", "8 MiB": "lacks a unit", "8mib": "lacks a unit",
		"": "is not a size", "MiB": "is not a size", "-1B": "is not a size", "1.5MiB": "lacks a unit", "8589934592GiB": "too large",
		"9223372036854775808B": "is not a size"} {
		if got, err := ParseSize(text); err == nil || got != 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %d, %v; want an error with %q", text, got, err, want)
		}
	}
	s := Size(3)
	if err := s.UnmarshalText([]byte("64")); err == nil || s != 3 {
		t.Errorf("a bad text: %v, and left %d", err, s)
	}
	if text, err := Size(1536).MarshalText(); err != nil || string(text) != "1536B" {
		t.Errorf("written as %q, %v", text, err)
	}
}
