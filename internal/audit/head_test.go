package audit

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testKey() *Key {
	return &Key{ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))}
}

func TestHeadHasOneSpelling(t *testing.T) {
	good := testKey().Sign("00ff", 42, [32]byte{1, 2, 3}).String()
	h, err := ParseHead(good)
	if err != nil || h.Journal != "00ff" || h.Seq != 42 || h.Chain != [32]byte{1, 2, 3} || testKey().Check(h) != nil {
		t.Fatalf("%s reads back as %+v, %v", good, h, err)
	}
	parts := strings.Split(good, ":") // oo-head v1 journal seq chain signature
	with := func(i int, s string) string {
		p := append([]string(nil), parts...)
		p[i] = s
		return strings.Join(p, ":")
	}
	for name, text := range map[string]string{
		"empty": "", "prefix only": headPrefix, "other version": with(1, "v2"), "leading zero": with(3, "042"), "sign": with(3, "+42"),
		"negative": with(3, "-1"), "too large": with(3, "18446744073709551616"), "upper case": with(4, strings.ToUpper(parts[4]+"ab")),
		"upper case id": with(2, "00FF"), "no id": with(2, ""), "path as id": with(2, "../x"), "short chain": with(4, parts[4][2:]),
		"short signature": with(5, parts[5][4:]), "padded": good + "==", "newline": good + "\n", "space": " " + good, "one more": good + ":",
		"loose last bits": good[:len(good)-1] + string(good[len(good)-1]+1),
	} {
		if _, err := ParseHead(text); !errors.Is(err, ErrHeadSyntax) {
			t.Errorf("%s: %q: %v, want ErrHeadSyntax", name, text, err)
		}
	}
}

func TestHeadOfAnotherStoreOrChangedIsForeign(t *testing.T) {
	h := testKey().Sign("00ff", 42, [32]byte{1})
	other := &Key{ed25519.NewKeyFromSeed([]byte("another seed, another seed, 1234"))}
	if err := other.Check(h); !errors.Is(err, ErrHeadForeign) {
		t.Errorf("another key: %v", err)
	}
	for name, change := range map[string]func(*Head){
		"journal": func(h *Head) { h.Journal = "00fe" }, "seq": func(h *Head) { h.Seq++ },
		"chain": func(h *Head) { h.Chain[31] ^= 1 }, "signature": func(h *Head) { h.Signature[0] ^= 1 },
	} {
		forged := *h
		change(&forged)
		if err := testKey().Check(&forged); !errors.Is(err, ErrHeadForeign) {
			t.Errorf("changed %s: %v", name, err)
		}
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add(testKey().Sign("00ff", 42, [32]byte{1}).String())
	f.Add("oo-head:v1:a:1:b:c")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHead(text)
		if err != nil {
			if h != nil || !errors.Is(err, ErrHeadSyntax) {
				t.Errorf("%q: %v, %v", text, h, err)
			}
			return
		}
		if h.String() != text {
			t.Errorf("%q is printed as %q", text, h)
		}
	})
}

func TestKeyIsMadeOnceAndOnlyForItsOwner(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadKey(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	first, err := MakeKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := MakeKey(dir)
	if err != nil || !again.Public().Equal(first.Public()) {
		t.Errorf("the second key is another one: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, KeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left beside the key: %v", left)
	}
	secret, _ := os.ReadFile(filepath.Join(dir, KeyFile))
	for _, text := range []string{"", "garbage", keyPrefix, keyPrefix + "AAAA\n", strings.TrimPrefix(string(secret), keyPrefix), "other" + string(secret)} {
		if err := os.WriteFile(filepath.Join(dir, KeyFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := MakeKey(dir)
		if err == nil || strings.Contains(err.Error(), strings.TrimSpace(string(secret))) {
			t.Errorf("with %q in the file: %v", text, err)
		}
	}
}
