package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestSchemaAgrees holds what is loaded elsewhere against the schema.
func TestSchemaAgrees(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal([]byte(Schema()), &s); err != nil {
		t.Fatal(err)
	}
	text, _ := reference(t)
	start, _ := Starter([]string{"HOME=/h"})
	for name, text := range map[string]string{"reference": text, "starter": start} {
		if err := against(s, s, tree(t, text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"{}", "version: 1\nstor: {}", "version: 1\nstore: {kind: redsi}", "version: 1\ntools: {}",
		"version: 1\nproxy: {drain: 5}", "version: 1\nproxy: {drain: five}", "version: 1\ntools: [{dedup: {tll: 1s}}]",
		"version: 1\ntools: [{enabled: 1}]", "version: 1\nlimits: {waiters: many}", "version: 1\ntools: [{upstream_key: nowhere}]"} {
		if against(s, s, tree(t, text)) == nil {
			t.Errorf("the schema accepts %q", text)
		}
	}
}

func tree(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// against judges v by the few words of JSON Schema that the generator uses.
func against(root, s map[string]any, v any) error {
	if ref, ok := s["$ref"].(string); ok {
		s = root["definitions"].(map[string]any)[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	}
	if anyOf, ok := s["anyOf"].([]any); ok {
		if !slices.ContainsFunc(anyOf, func(one any) bool { return against(root, one.(map[string]any), v) == nil }) {
			return fmt.Errorf("%v is none of %v", v, anyOf)
		}
		return nil
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%v is not among %v", v, enum)
	}
	if typ := s["type"]; typ != nil && !typed(typ, v) {
		return fmt.Errorf("%v is no %v", v, typ)
	}
	if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v.(string)) {
		return fmt.Errorf("%v does not match %s", v, pattern)
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			if err := against(root, s["items"].(map[string]any), e); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
	case map[string]any:
		return againstObject(root, s, v)
	}
	return nil
}

func againstObject(root, s, v map[string]any) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s is missing", name)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, e := range v {
		p, ok := properties[name].(map[string]any)
		if !ok {
			p, ok = s["additionalProperties"].(map[string]any)
		}
		if !ok {
			return errors.New(name + " is not known")
		}
		if err := against(root, p, e); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func typed(want, v any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(one any) bool { return typed(one, v) })
	}
	switch v.(type) {
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case int:
		return want == "integer" || want == "number"
	case float64:
		return want == "number"
	case []any:
		return want == "array"
	}
	return want == "object"
}
