package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/tool"
)

// FuzzLoad: what loads, written out again from the loaded values, loads to the same values; what does not load says why,
// for each problem in one line of printable text.
func FuzzLoad(f *testing.F) {
	for _, w := range append(shapes, wholes...) {
		f.Add(w.text)
	}
	example, err := os.ReadFile("../examples/oo-sidecar.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(references.ReplaceAllString(string(example), "0123456789abcdef"))
	f.Add(starter)
	f.Add(head + "tools: [{name: a, url: https://h/a, upstream_key: {json: /k}, dedup: {headers: []}, price_usd: 0.000001}]\n")
	f.Add(head + "agent: {proxy_users: {a: \"$${env:A}0123456789\"}}\n")
	f.Add(`{"version": 1, "agent": {"id": "a\/b\ud83d\ude00"}}`)
	path := filepath.Join(f.TempDir(), "oo-sidecar.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file:") {
			t.Skip("reads files")
		}
		c := again(t, path, text)
		if c == nil {
			return
		}
		data, err := json.Marshal(written(reflect.ValueOf(*c)))
		if err != nil {
			t.Fatal(err)
		}
		d := again(t, path, string(data))
		if d == nil {
			t.Fatalf("%s\nloads, but not written out as\n%s", text, data)
		}
		c.origin, d.origin = nil, nil
		if !reflect.DeepEqual(c, d) {
			t.Fatalf("%s\n%+v\n%+v", data, *c, *d)
		}
	})
}

// again loads text; nil when it is wrong, and then the reasons are fit to be printed.
func again(t *testing.T, path, text string) *Config {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path, []string{"A=expanded-value"}, nil)
	for _, p := range Problems(err) {
		if p.Message == "" || p.File != path {
			t.Errorf("%q: %+v", text, p)
		}
	}
	return c
}

// written is v as a file would have it.
func written(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case tool.Size:
		return x.String()
	case tool.Money:
		return x.String()
	case string:
		return strings.ReplaceAll(x, "${", "$${")
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return written(v.Elem())
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		list := []any{}
		for i := range v.Len() {
			list = append(list, written(v.Index(i)))
		}
		return list
	case reflect.Map:
		if v.IsNil() {
			return nil
		}
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[k.String()] = written(v.MapIndex(k))
		}
		return m
	case reflect.Struct:
		m := map[string]any{}
		for _, name := range names(v.Type()) {
			f, _ := field(v.Type(), name)
			if left := v.FieldByIndex(f.Index); !left.IsZero() || v.Type().PkgPath() != reflect.TypeFor[tool.Config]().PkgPath() {
				m[name] = written(left) // of a tool's fields a zero is what was left out, and may not be written
			}
		}
		return m
	}
	return v.Interface()
}
