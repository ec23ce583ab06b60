package config

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

var update = flag.Bool("update", false, "write schema.json anew")

// TestSchema generates the schema from the struct tree and the comments on its fields. schema.json is what it makes;
// go test ./config -run TestSchema -update writes it.
func TestSchema(t *testing.T) {
	g := &generator{t: t, docs: map[string]map[string]string{}}
	root := g.section(reflect.TypeFor[Config](), reflect.ValueOf(*defaults()), spot{})
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "oo-sidecar configuration"
	root["required"] = []string{"version"}
	root["definitions"] = map[string]any{
		"reference": map[string]any{"type": "string", "pattern": `\$\{(env|file):[^}]+\}`,
			"description": "A value that is read from a variable or a file."},
	}
	var want strings.Builder
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("schema.json", []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want.String() != Schema() {
		t.Error("schema.json is not what the struct tree says; run: go test ./config -run TestSchema -update")
	}
}

// generator makes a JSON Schema of the types of the configuration.
type generator struct {
	t    *testing.T
	docs map[string]map[string]string // by package path, then Type.Field
}

type object = map[string]any

func (g *generator) section(t reflect.Type, fallback reflect.Value, s spot) object {
	properties := object{}
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("koanf")
		if name == "" || name == "-" {
			continue
		}
		at := s.field(name)
		value := reflect.Value{}
		if fallback.IsValid() {
			value = fallback.Field(i)
		}
		p := g.value(f.Type, value, at)
		doc := g.doc(t, f.Name)
		if doc == "" {
			g.t.Errorf("%s.%s (%s) has no comment: it is the manual", t, f.Name, at.key)
		}
		p["description"] = doc
		properties[name] = p
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

// same is a spot whose key is that of the tables.
func same(schema string) spot { return spot{key: schema, schema: schema} }

func (g *generator) value(t reflect.Type, fallback reflect.Value, s spot) object {
	for t.Kind() == reflect.Pointer {
		t, fallback = t.Elem(), reflect.Value{}
	}
	switch {
	case t == hostList:
		list := object{"type": "array", "items": object{"type": "string"}}
		return object{"anyOf": []any{object{"type": "string"}, list}, "default": "registered"}
	case isLeaf(t):
		return g.leaf(t, fallback, s)
	case t.Kind() == reflect.Struct:
		return g.section(t, fallback, s)
	case t.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": g.value(t.Elem(), reflect.Value{}, same(s.schema+"{}"))}
	case t.Kind() == reflect.Slice:
		p := object{"type": "array", "items": g.value(t.Elem(), reflect.Value{}, same(s.schema+"[]"))}
		if fallback.IsValid() && fallback.Len() > 0 {
			p["default"] = fallback.Interface()
		}
		return p
	}
	pick := func(name string) object {
		return object{"type": "object", "required": []string{name}, "additionalProperties": false,
			"properties": object{name: object{"type": "string"}}}
	}
	return object{"anyOf": []any{object{"enum": []string{"none"}}, pick("header"), pick("json")}}
}

func (g *generator) leaf(t reflect.Type, fallback reflect.Value, s spot) object {
	reference := object{"$ref": "#/definitions/reference"}
	p := object{"type": "string"}
	switch {
	case choices[s.schema] != nil:
		p = object{"anyOf": []any{object{"enum": choices[s.schema]}, reference}}
	case t == duration:
		p["pattern"] = `^[0-9.]+(ns|us|µs|ms|s|m|h|d)([0-9.]+(ns|us|µs|ms|s|m|h))*$|\$\{`
	case t == size:
		p["pattern"] = `^[0-9]+(B|KiB|MiB|GiB|TiB)$|\$\{`
	case t == money:
		p = object{"type": []string{"string", "number"}}
	case t.Kind() == reflect.Bool:
		p = object{"anyOf": []any{object{"type": "boolean"}, reference}}
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		p = object{"anyOf": []any{object{"type": "integer"}, reference}}
	}
	if fallback.IsValid() && !fallback.IsZero() {
		p["default"] = shown(fallback.Interface())
	}
	return p
}

// shown is a default as a file would have it.
func shown(v any) any {
	switch v := v.(type) {
	case time.Duration:
		if v%day == 0 {
			return strings.TrimSuffix(time.Duration(v/day).String(), "ns") + "d"
		}
		return strings.TrimSuffix(strings.TrimSuffix(v.String(), "0s"), "0m")
	case tool.Size:
		return v.String()
	}
	return v
}

// doc is the comment on a field, above it or behind it.
func (g *generator) doc(t reflect.Type, field string) string {
	pkg := t.PkgPath()
	if g.docs[pkg] == nil {
		g.docs[pkg] = g.read(filepath.Join("..", strings.TrimPrefix(pkg, "github.com/oo-sidecar/oo-sidecar/")))
	}
	return g.docs[pkg][t.Name()+"."+field]
}

func (g *generator) read(dir string) map[string]string {
	docs := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		g.t.Fatalf("no sources in %s: %v", dir, err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			g.t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, id := range f.Names {
						text := f.Doc.Text() + f.Comment.Text()
						docs[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(text), " ")
					}
				}
			}
			return true
		})
	}
	return docs
}

// everyKey lists all keys as the tables have them: tools[].dedup.ttl.
func everyKey(t reflect.Type, s spot) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		if t.Kind() == reflect.Slice {
			s = same(s.schema + "[]")
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var all []string
	for _, name := range names(t) {
		f, _ := field(t, name)
		all = append(append(all, s.field(name).schema), everyKey(f.Type, s.field(name))...)
	}
	return all
}

// TestTablesNameKeys keeps choices and secrets from naming keys that are no more.
func TestTablesNameKeys(t *testing.T) {
	known := map[string]bool{}
	for _, key := range everyKey(reflect.TypeFor[Config](), spot{}) {
		known[key] = true
	}
	for _, key := range append(slices.Collect(maps.Keys(choices)), slices.Collect(maps.Keys(secrets))...) {
		if !known[strings.TrimSuffix(strings.TrimSuffix(key, "{}"), "[]")] {
			t.Errorf("no key is named %s", key)
		}
	}
}
