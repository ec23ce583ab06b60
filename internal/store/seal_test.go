package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSealOpensOnlyWhatItSealedForThatEntry(t *testing.T) {
	dir := t.TempDir()
	seal, err := NewSeal("", dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal.Seal("charge", []byte("whisper_key"))
	if strings.Contains(sealed, "whisper") || sealed == seal.Seal("charge", []byte("whisper_key")) {
		t.Errorf("sealed as %s", sealed)
	}
	again, err := NewSeal("", dir)
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := again.Open("charge", sealed); err != nil || string(secret) != "whisper_key" {
		t.Errorf("after a restart: %q %v", secret, err)
	}
	configured, _ := NewSeal("a key of the configuration", dir)
	for name, open := range map[string]func() ([]byte, error){
		"another entry": func() ([]byte, error) { return seal.Open("refund", sealed) },
		"another key":   func() ([]byte, error) { return configured.Open("charge", sealed) },
		"changed":       func() ([]byte, error) { return seal.Open("charge", "B"+sealed[1:]) },
		"cut":           func() ([]byte, error) { return seal.Open("charge", sealed[:8]) },
		"no base64":     func() ([]byte, error) { return seal.Open("charge", "…") },
	} {
		if secret, err := open(); !errors.Is(err, ErrUnsealed) || secret != nil {
			t.Errorf("%s: %q %v", name, secret, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "seal.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "seal.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSeal("", dir); err == nil || !strings.Contains(err.Error(), "seal.key") {
		t.Errorf("half a key is taken: %v", err)
	}
}
