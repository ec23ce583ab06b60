// Package arch holds the rules of the architecture as tests.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/oo-sidecar/oo-sidecar/"

// mayImport is the graph of ARCHITECTURE.md: what each package may import of ours. A package that is not named here
// may import nothing of ours; cmd may import anything.
var mayImport = map[string][]string{
	"config":                   {"internal/tool", "policy", "proxy", "internal/store", "internal/api", "internal/govern", "internal/control", "internal/whole"},
	"internal/control":         {"dedup", "hmac", "internal/tool", "internal/audit", "internal/whole"},
	"proxy":                    {"internal/govern", "internal/listen", "internal/tool"},
	"internal/govern":          {"dedup", "policy", "hmac", "internal/tool", "internal/audit"},
	"internal/api":             {"internal/activity", "internal/listen", "internal/govern", "internal/lease", "internal/tool", "policy", "internal/audit", "dedup"},
	"internal/store":           {"internal/activity", "dedup", "internal/lease", "internal/tool", "internal/audit", "internal/journal", "internal/whole"},
	"internal/store/storetest": {"dedup", "internal/lease", "internal/tool"},
	"internal/store/redistest": {"internal/needed"},
	"internal/audit":           {"internal/journal", "internal/whole"},
	"internal/metrics":         {"internal/audit", "internal/tool"},
	"internal/health":          {"internal/listen"},
	"internal/inject":          {"internal/pod"},
	"internal/injector":        {"internal/health", "internal/inject", "internal/listen"},
	"dedup":                    {"internal/tool"},
	"policy":                   {"internal/tool"},
}

// onlyIn names the single home of each dependency that must not spread.
var onlyIn = map[string][]string{
	"github.com/valyala/fasthttp": {"proxy"},
	"github.com/knadh/koanf":      {"config"},
	"github.com/redis/go-redis":   {"internal/store"},
	"crypto/hmac":                 {"hmac"},
	"go.yaml.in/yaml":             {"config", "internal/inject"},
	"github.com/spf13/cobra":      {"cmd/oo-sidecar"},
	"html/template":               {},
	"net/http/httputil":           {},
}

// TestImportGraph parses every file itself: a test that asked the go command would be served from its cache after a
// forbidden import was added.
func TestImportGraph(t *testing.T) {
	root := filepath.Join("..", "..")
	seen := 0
	used, described := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, file)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "test" || rel == "bench" || rel == "examples" || strings.HasPrefix(d.Name(), ".") && rel != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		seen++
		pkg := path.Dir(rel)
		described[pkg] = checkFile(t, file, pkg, used) || described[pkg]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("only %d files were found: the test looks in the wrong place", seen)
	}
	for pkg, is := range described {
		if !is {
			t.Errorf("package %s does not say what it is: one of its files begins with \"// Package %s …\"", pkg, path.Base(pkg))
		}
	}
	for pkg, list := range mayImport {
		for _, ours := range list {
			if !used[pkg+" "+ours] {
				t.Errorf("package %s may import %s and does not: take it out of mayImport and ARCHITECTURE.md", pkg, ours)
			}
		}
	}
}

// checkFile judges the imports of one file, and notes those of ours in used. described: it says what its package is.
func checkFile(t *testing.T, file, pkg string, used map[string]bool) (described bool) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, spec := range f.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if ours, ok := strings.CutPrefix(imported, module); ok {
			used[pkg+" "+ours] = true
			if pkg != "cmd/oo-sidecar" && !slices.Contains(mayImport[pkg], ours) {
				t.Errorf("%s: package %s may not import %s (ARCHITECTURE.md, the graph)", file, pkg, ours)
			}
			continue
		}
		for home, pkgs := range onlyIn {
			if (imported == home || strings.HasPrefix(imported, home+"/")) && !slices.Contains(pkgs, pkg) {
				t.Errorf("%s: %s belongs to %v only", file, imported, pkgs)
			}
		}
	}
	return f.Doc != nil
}
