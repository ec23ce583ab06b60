package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/oo-sidecar/oo-sidecar/internal/api"
	"github.com/oo-sidecar/oo-sidecar/internal/tool"
	"github.com/oo-sidecar/oo-sidecar/policy"
)

// ToolSpec is a tool in the words of the configuration file, as JSON that ParseTool reads back, without its secrets:
// auth and headers are left out.
func ToolSpec(c tool.Config) ([]byte, error) {
	c.Auth, c.Headers = nil, nil
	return spec(c)
}

// PolicySpec is a policy as JSON that ParsePolicy reads back.
func PolicySpec(c policy.Config) ([]byte, error) { return spec(c) }

// KeySpec is a key as JSON that ParseKey reads back, the key itself included.
func KeySpec(c api.KeyConfig) ([]byte, error) { return spec(c) }

func spec(c any) ([]byte, error) {
	v, err := words(reflect.ValueOf(c))
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// words is a value as a document has it. What was left out stays out: a nil pointer or list, and a zero that stands
// for a default.
func words(v reflect.Value) (any, error) {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String(), nil
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		return string(text), err
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return words(v.Elem())
	case reflect.Struct:
		return members(v)
	case reflect.Slice:
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			item, err := words(v.Index(i))
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	case reflect.Map:
		m := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			item, err := words(it.Value())
			if err != nil {
				return nil, err
			}
			m[it.Key().String()] = item
		}
		return m, nil
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return v.Interface(), nil
	}
	return nil, fmt.Errorf("a %s cannot be written as a configuration", v.Type())
}

func members(v reflect.Value) (any, error) {
	m := map[string]any{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("koanf")
		if f := v.Field(i); name != "" && !strings.HasPrefix(name, "-") && !f.IsZero() {
			item, err := words(f)
			if err != nil {
				return nil, err
			}
			if within, ok := item.(map[string]any); ok && len(within) == 0 && f.Kind() == reflect.Struct {
				continue
			}
			m[name] = item
		}
	}
	return m, nil
}
