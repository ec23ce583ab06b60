package inject

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// TestManifests injects into every file of testdata: beside each stands what comes out, with the notes, or why it is
// refused.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	files = append(files, "testdata/pod.json")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out, notes, err := File(filepath.Base(file), text, Options{Image: "registry.example/oo-sidecar:1.0.0"})
			if err != nil {
				golden(t, file+".refused", err.Error()+"\n")
				return
			}
			golden(t, file+".injected", string(out))
			golden(t, file+".notes", strings.Join(append(notes, ""), "\n"))
			again, _, err := File(file, out, Options{})
			if err != nil {
				t.Fatalf("its own output is refused: %v", err)
			}
			if !bytes.Equal(again, out) {
				t.Errorf("injected again it is another:\n%s", again)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; got\n%s", name, got)
	}
}
