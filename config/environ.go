package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// delimiter separates koanf's names; it stands in no name of a tool, an agent or a host.
const delimiter = "\x1f"

const envPrefix = "OO_"

// environment lays the variables OO_SECTION__KEY over what k holds. Variables without __ are not ours.
func (r *reader) environment(k *koanf.Koanf) error {
	set := map[string]bool{}
	for _, kv := range r.environ {
		name, _, _ := strings.Cut(kv, "=")
		if rest, ours := strings.CutPrefix(name, envPrefix); ours && strings.Contains(rest, "__") {
			set[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) { // a section before its keys
		provider := env.Provider(delimiter, env.Opt{
			Prefix:      name + "=",
			EnvironFunc: func() []string { return []string{name + "=" + lookup(r.environ, name)} },
			TransformFunc: func(name, text string) (string, any) {
				path := strings.Split(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "__")
				return r.override(k, path, name, text)
			},
		})
		if err := k.Load(provider, nil); err != nil {
			return err
		}
	}
	return nil
}

// flags lays values of the command line, by key, over what k holds.
func (r *reader) flags(k *koanf.Koanf, flags map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		path, v := r.override(k, strings.Split(key, "."), "command line", flags[key])
		if path == "" {
			continue
		}
		if err := k.Load(confmap.Provider(map[string]any{path: v}, delimiter), nil); err != nil {
			return err
		}
	}
	return nil
}

// override reads text as the value of the key at path: koanf's name of it, "" when there is none, and the value. A list
// or a map replaces what k holds.
func (r *reader) override(k *koanf.Koanf, path []string, from, text string) (string, any) {
	r.file = from
	t, s, ok := r.resolve(path)
	if !ok {
		return "", nil
	}
	r.origin.set(s.key, place{file: from})
	v, ok := r.overriding(text, t, s)
	if !ok {
		return "", nil
	}
	name := strings.Join(path, delimiter)
	if t.Kind() == reflect.Map || t.Kind() == reflect.Slice {
		k.Delete(name)
	}
	return name, v
}

// resolve finds the key at path among the sections.
func (r *reader) resolve(path []string) (reflect.Type, spot, bool) {
	t, s := reflect.TypeFor[Config](), spot{}
	for i, name := range path {
		f, ok := reflect.StructField{}, false
		if t.Kind() == reflect.Struct {
			f, ok = field(t, name)
		}
		if !ok {
			key := strings.Join(path, ".")
			mend := didYouMean(key, allKeys())
			if r.file != "command line" {
				mend = didYouMean(r.file, allVariables())
			}
			r.problems = append(r.problems, Problem{File: r.file, Key: strings.Join(path[:i+1], "."), Message: "names no key", Mend: mend})
			return nil, s, false
		}
		t, s = f.Type, s.field(name)
	}
	return t, s, true
}

// overriding reads text as t: a scalar as it stands, a list separated by commas or as JSON, the rest as JSON.
func (r *reader) overriding(text string, t reflect.Type, s spot) (any, bool) {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	simple := t.Kind() == reflect.Slice && isLeaf(t.Elem())
	switch {
	case isLeaf(t):
		return r.scalar(n, t, s)
	case simple && !strings.HasPrefix(text, "["):
		return r.commas(text, t.Elem(), s)
	}
	n, err := r.parse([]byte(text))
	if err != nil || n == nil {
		return r.fault(&yaml.Node{}, s, "is not JSON", "write lists as [..] and objects as {..}")
	}
	return r.value(n, t, s)
}

func (r *reader) commas(text string, elem reflect.Type, s spot) (any, bool) {
	list := []any{}
	for i, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		v, ok := r.scalar(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: part}, elem, s.item(i))
		if !ok {
			return nil, false
		}
		list = append(list, v)
	}
	return list, true
}

// allKeys lists every key that can be named without an index, sections among them.
func allKeys() []string { return keysOf(reflect.TypeFor[Config](), spot{}) }

func keysOf(t reflect.Type, s spot) []string {
	var all []string
	for _, name := range names(t) {
		f, _ := field(t, name)
		at := s.field(name)
		all = append(all, at.key)
		if f.Type.Kind() == reflect.Struct {
			all = append(all, keysOf(f.Type, at)...)
		}
	}
	return all
}

// allVariables lists every variable that names a key.
func allVariables() []string {
	var all []string
	for _, key := range allKeys() {
		if strings.Contains(key, ".") {
			all = append(all, envPrefix+strings.ToUpper(strings.ReplaceAll(key, ".", "__")))
		}
	}
	return all
}
